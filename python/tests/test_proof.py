"""What runs say of themselves: which model they are of, and whether they are still what was saved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from easyroutine.errors import InputError
from easyroutine.interpretability import ActivationLoader, ActivationSaver, ExtractionConfig, HookedModel

pytestmark = pytest.mark.usefixtures("own_tensors")

CONFIG = ExtractionConfig(extract_resid_out=True)


@pytest.fixture
def saver(tmp_path: Path) -> ActivationSaver:
    return ActivationSaver(tmp_path / "store", experiment_name="first")


def test_two_checkpoints_of_one_name_do_not_share_a_run(saver: ActivationSaver, tmp_path: Path) -> None:
    models = []
    for place in ("a", "b"):
        folder = tmp_path / place / "checkpoint"
        shutil.copytree(TINY / "llama", folder)
        models.append(folder)
    weights = models[1] / "model.safetensors"
    bits = bytearray(weights.read_bytes())
    bits[-1] ^= 1
    weights.write_bytes(bits)
    first, second = (HookedModel.from_pretrained(folder) for folder in models)
    assert first.name == second.name and first.digest != second.digest
    assert first.digest == HookedModel.from_pretrained(TINY / "llama").digest

    def part(model: HookedModel, **options: Any) -> str | None:
        return model.extract_to_store(saver, [[1, 2], [3, 4]], ["last"], CONFIG, unit=1, run="r", **options)

    assert part(first, part=(1, 2)) is None
    for options in ({"resume": True}, {"part": (2, 2)}):
        with pytest.raises(InputError, match="another model") as refused:
            part(second, **options)
        assert first.digest in str(refused.value) and second.digest in str(refused.value)
    assert part(first, resume=True)
    loader = ActivationLoader.from_saver(saver)
    assert len(loader.query(where=f'model_digest = "{first.digest}"')) == 1
    cache = first.extract_cache([[1, 2]], ["last"], CONFIG)
    saver.save_cache(cache, tag="cache")
    saver.save(cache, first, ["last"], None, CONFIG, tag="saved")
    found = loader.query(where=f'model_digest = "{first.digest}"').results
    assert {metadata["tag"] for *_, metadata in found} == {None, "cache", "saved"}
