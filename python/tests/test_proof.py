"""What runs say of themselves: which model they are of, and whether they are still what was saved."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from easyroutine.errors import FormatError, InputError
from easyroutine.interpretability import ActivationLoader, ActivationSaver, ExtractionConfig, HookedModel

pytestmark = pytest.mark.usefixtures("own_tensors")

CONFIG = ExtractionConfig(extract_resid_out=True, save_logits=False)


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


def shard_of(path: str | Path) -> Path:
    return next((Path(path) / "data").iterdir())


def test_damage_is_an_error_that_names_file_and_tensor(saver: ActivationSaver, llama: HookedModel) -> None:
    path = llama.extract_to_store(saver, [[1, 2], [3, 4]], ["last"], CONFIG)
    assert path is not None
    shard = shard_of(path)
    bits = bytearray(shard.read_bytes())
    bits[-1] ^= 1
    shard.write_bytes(bits)
    found = ActivationLoader.from_saver(saver).query()
    for read in (lambda: found.load(), lambda: found.open().load(), lambda: found.open().rows("resid_out_2", 1, 2)):
        with pytest.raises(FormatError, match=r"\.safetensors: tensor `.*` is damaged"):
            read()
    activations, _ = found.load(verify=False)
    assert set(activations) == set(found.open(verify=False))


def test_a_record_that_was_edited_by_hand_is_warned_of(saver: ActivationSaver, llama: HookedModel) -> None:
    path = llama.extract_to_store(saver, [[1, 2]], ["last"], CONFIG, other_metadata={"seed": 3})
    assert path is not None
    loader = ActivationLoader.from_saver(saver)
    record = Path(path) / "metadata.json"
    edited = json.loads(record.read_text())
    edited["seed"] = 4
    record.write_text(json.dumps(edited))
    with pytest.warns(UserWarning, match="changed by something other than easyroutine"):
        found = loader.query()
    assert found.load()[1]["seed"] == 4


def test_a_file_that_is_cut_short_is_an_error_and_not_the_end(saver: ActivationSaver, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY / "llama", folder)
    model = HookedModel.from_pretrained(folder)
    path = model.extract_to_store(saver, [[1, 2, 3, 4]] * 400, ["all"], CONFIG)
    assert path is not None
    model = HookedModel.from_pretrained(folder)

    def cut(value: Any, key: str) -> None:
        os.truncate(folder / "model.safetensors", 1000)

    model.register_forward_hook("resid_out_0", cut)
    for _ in range(2):
        with pytest.raises(FormatError, match=r"model\.safetensors"):
            model.forward([[1, 2]], extraction_config=CONFIG)
    run = ActivationLoader.from_saver(saver).query().open()
    run.rows("resid_out_0", 0, 1)
    os.truncate(shard_of(path), 5000)
    with pytest.raises(Exception, match=r"\.safetensors"):
        run["resid_out_2"]
