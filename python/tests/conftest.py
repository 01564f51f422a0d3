"""What all tests share: the tiny models of the repository, and the pretrained one where it is there."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from easyroutine.interpretability import ActivationSaver, HookedModel, ValueWithInfo

ROOT = Path(__file__).parents[2]
TINY = ROOT / "fixtures" / "tiny"
PROMPT = "The capital of France is"
TEXTS = [PROMPT, "x", "Paris is the capital of France, as everybody knows", "London", PROMPT, "The sky is blue"]


def reference(family: str, name: str) -> Any:
    """A tensor of a reference file, which transformers computed, as nested lists."""
    data = (TINY / family / "reference.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8 : 8 + length])[name]
    start, end = entry["data_offsets"]
    raw = data[8 + length + start : 8 + length + end]
    values = list(
        struct.unpack(
            f"<{len(raw) // (4 if entry['dtype'] == 'F32' else 8)}{'f' if entry['dtype'] == 'F32' else 'q'}", raw
        )
    )
    for size in reversed(entry["shape"][1:]):
        values = [values[at : at + size] for at in range(0, len(values), size)]
    return values


def largest_difference(found: Any, expected: Any) -> float:
    """Between numbers of nested lists of one shape."""
    if isinstance(expected, list):
        assert len(found) == len(expected)
        return max((largest_difference(a, b) for a, b in zip(found, expected, strict=True)), default=0.0)
    return abs(found - expected)


def same(a: Any, b: Any) -> bool:
    """Whether two results have the same values, infos and keys."""
    if isinstance(a, ValueWithInfo):
        return isinstance(b, ValueWithInfo) and a.info() == b.info() and same(a.value(), b.value())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def cut(value: Any, start: int, stop: int) -> Any:
    """Rows of every array of a result."""
    if isinstance(value, ValueWithInfo):
        return ValueWithInfo(cut(value.value(), start, stop), value.info())
    if isinstance(value, dict):
        return {key: cut(one, start, stop) for key, one in value.items()}
    return value[start:stop]


@pytest.fixture(scope="session")
def llama() -> HookedModel:
    """Grouped heads, RMSNorm, rotary embedding."""
    return HookedModel.from_pretrained(TINY / "llama")


@pytest.fixture(scope="session")
def gpt2() -> HookedModel:
    """LayerNorm, learned positions, biases."""
    return HookedModel.from_pretrained(TINY / "gpt2")


@pytest.fixture
def own_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations as the package's own tensors, whatever is installed."""
    monkeypatch.setenv("EASYROUTINE_TENSORS", "easyroutine")


@pytest.fixture
def saver(tmp_path: Path) -> ActivationSaver:
    """An experiment in a store of its own."""
    return ActivationSaver(tmp_path, experiment_name="first")


@pytest.fixture
def folder_copy(tmp_path: Path) -> Path:
    """A model's folder that a test may change."""
    return Path(shutil.copytree(TINY / "llama", tmp_path / "model"))


@pytest.fixture(scope="session")
def smollm2() -> HookedModel:
    """The pretrained model; `make test-torch` names it."""
    path = os.environ.get("EASYROUTINE_SMOLLM2")
    if not path:
        pytest.fail("EASYROUTINE_SMOLLM2 names no file: run `make test-torch`")
    return HookedModel.from_pretrained(path)
