"""Activations of another program beside ours and beside a run in float64."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest
from conftest import TINY

from easyroutine.errors import EasyroutineError
from easyroutine.interpretability import HookedModel

NAMES = ["input_ids", "resid_out_0", "resid_out_1", "logits"]


def dump(path: Path, scaled: str | None = None, by: float = 1.0) -> Path:
    """Activations of the references of llama under our names, one of them times a factor."""
    data = (TINY / "llama" / "reference.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8 : 8 + length])
    header, body = {}, b""
    for name in NAMES:
        entry = entries[f"full.{name}"]
        start, end = (8 + length + at for at in entry["data_offsets"])
        part = data[start:end]
        if name == scaled:
            count = len(part) // 4
            part = struct.pack(f"<{count}f", *(x * by for x in struct.unpack(f"<{count}f", part)))
        offsets = [len(body), len(body) + len(part)]
        header[name] = {"dtype": entry["dtype"], "shape": entry["shape"], "data_offsets": offsets}
        body += part
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def test_a_run_in_float64_says_who_is_wrong(llama: HookedModel, tmp_path: Path) -> None:
    found = llama.compare(dump(tmp_path / "same.safetensors"), exact=True)
    assert (found.same, found.first_wrong, found.wrong, found.passed_over) == (True, None, None, {})
    assert [place.activation for place in found.places] == NAMES[1:]
    for place in found.places:
        assert place.wrong == "none" and place.file is not None and place.ours is not None
        assert place.file.error < 1e-5 and place.ours.error < 1e-5 and place.ours.cosine > 1 - 1e-9
    found = llama.compare(dump(tmp_path / "other.safetensors", "resid_out_1", 2.0), exact=True)
    assert (found.same, found.first_wrong, found.wrong) == (False, "resid_out_1", "file")
    wrong = found.places[1]
    assert wrong.verdict == "magnitude" and wrong.file is not None
    assert abs(wrong.file.magnitude - 2) < 1e-5 and wrong.file.cosine > 1 - 1e-9


def test_without_it_nobody_is_said_to_be_wrong(llama: HookedModel, tmp_path: Path) -> None:
    found = llama.compare(dump(tmp_path / "other.safetensors", "logits", 1.5), tolerance=1e-3)
    assert (found.first_wrong, found.wrong, found.tolerance) == ("logits", None, 1e-3)
    assert all(place.wrong is None and place.file is None for place in found.places)


def test_nan_is_not_infinity(llama: HookedModel, tmp_path: Path) -> None:
    found = llama.compare(dump(tmp_path / "nan.safetensors", "resid_out_1", math.nan))
    wrong = found.places[1]
    assert (found.first_wrong, wrong.verdict, wrong.largest_at) == ("resid_out_1", "nan", (0, 0, 0))
    assert all(math.isnan(x) for x in (wrong.error, wrong.factor, wrong.rest))


def test_what_cannot_be_compared_is_refused(llama: HookedModel, tmp_path: Path) -> None:
    file = dump(tmp_path / "same.safetensors")
    for tolerance in (-1.0, float("nan"), "1"):
        with pytest.raises(EasyroutineError, match="tolerance"):
            llama.compare(file, tolerance=tolerance)  # type: ignore[arg-type]
    with pytest.raises(EasyroutineError):
        llama.compare(tmp_path / "nothing.safetensors")
    rounded = HookedModel.from_pretrained(TINY / "llama", dtype="bfloat16")
    with pytest.raises(EasyroutineError, match="bf16"):
        rounded.compare(file, exact=True)
