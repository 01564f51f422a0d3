"""What all tests share: the tiny models of the repository, and the pretrained one where it is there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from easyroutine.interpretability import HookedModel

ROOT = Path(__file__).parents[2]
TINY = ROOT / "fixtures" / "tiny"
PROMPT = "The capital of France is"


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
