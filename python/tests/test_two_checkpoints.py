"""Two checkpoints of one architecture: where they part, and which tensors cause it."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from conftest import TINY

from easyroutine.errors import EasyroutineError
from easyroutine.interpretability import compare_checkpoints

CHANGED = "model.layers.1.self_attn.o_proj.weight"
TEXT = "the cat sat on the mat"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A copy of llama with one changed tensor."""
    folder = tmp_path / "other"
    shutil.copytree(TINY / "llama", folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8 : 8 + length])[CHANGED]
    start, end = (8 + length + at for at in entry["data_offsets"])
    values = struct.unpack(f"<{(end - start) // 4}f", data[start:end])
    data[start:end] = struct.pack(f"<{len(values)}f", *(x * 1.1 for x in values))
    weights.write_bytes(data)
    return folder


def test_the_changed_tensor_is_named(other: Path, tmp_path: Path) -> None:
    found = compare_checkpoints(TINY / "llama", other, [TEXT, [1, 2, 3]], patch="both")
    assert not found.equal and found.report["rows"] == 2
    first = found.tensors[0]
    assert (first["name"], first["removed"], first["added"]) == (CHANGED, 1.0, 1.0)
    assert all(tensor["equal"] for tensor in found.tensors[1:])
    assert found.layers[0]["layer"] == -1 and found.layers[1]["error_max"] == 0.0
    assert found.layers[2]["error"] > 0.0 and found.heads and found.by_position and found.by_token and found.worst
    page = found.to_html(tmp_path / "apart.html")
    assert CHANGED in page and page == (tmp_path / "apart.html").read_text(encoding="utf-8")


def test_both_faces_write_the_same(other: Path) -> None:
    command = [os.environ["EASYROUTINE_NATIVE"], "compare", str(TINY / "llama"), str(other), TEXT, "--format", "json"]
    written = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert compare_checkpoints(TINY / "llama", other, TEXT).report == written


def test_a_checkpoint_is_equal_to_itself() -> None:
    found = compare_checkpoints(TINY / "llama", TINY / "llama", TEXT)
    assert found.equal and all(layer["error"] == 0.0 and layer["kl"] == 0.0 for layer in found.layers)


def test_a_tokenizer_that_cannot_be_read_is_not_passed_over(other: Path) -> None:
    (other / "tokenizer.json").write_text("{")
    with pytest.raises(EasyroutineError, match="tokenizer"):
        compare_checkpoints(TINY / "llama", other, TEXT)


@pytest.mark.parametrize(
    ("b", "prompts", "more", "message"),
    [
        ("gpt2", TEXT, {}, "not of one architecture"),
        ("llama", [], {}, "no prompt"),
        ("llama", [[]], {}, "prompt 0 has 0 tokens"),
        ("llama", [[10**6]], {}, "vocabulary"),
        ("llama", TEXT, {"tensors": "model.layers.1.o_proj"}, "A has no tensor"),
        ("llama", TEXT, {"patch": "half"}, "removes, adds, both or none"),
    ],
)
def test_what_cannot_be_compared_is_refused(b: str, prompts: object, more: dict[str, str], message: str) -> None:
    with pytest.raises(EasyroutineError, match=message):
        compare_checkpoints(TINY / "llama", TINY / b, prompts, **more)  # type: ignore[arg-type]
