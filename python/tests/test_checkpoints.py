"""Adapters, surplus tensors, heads other than an unembedding: what a checkpoint may have beside plain weights."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY

from easyroutine.errors import EasyroutineError
from easyroutine.interpretability import ActivationLoader, ActivationSaver, ExtractionConfig, HookedModel
from easyroutine.interpretability.tools import LogitLens

BESIDE = ROOT / "fixtures" / "checkpoints" / "adapter-beside"
REWARD = ROOT / "fixtures" / "checkpoints" / "reward-model"
ADAPTERS = ROOT / "fixtures" / "adapters"
IDS = [5, 6, 7]


def logits(model: HookedModel) -> Any:
    return model.forward(IDS).raw("logits")[0].tolist()


def opened(*args: Any, warns: str = "is applied", **kwargs: Any) -> HookedModel:
    with pytest.warns(UserWarning, match=warns):
        return HookedModel.from_pretrained(*args, **kwargs)


@pytest.mark.filterwarnings("error")
def test_an_adapter_is_applied_left_out_or_named() -> None:
    beside = opened(BESIDE, warns="is applied; adapter=False reads")
    without = HookedModel.from_pretrained(BESIDE, adapter=False)
    assert logits(beside) != logits(without)
    assert logits(opened(BESIDE, adapter=BESIDE)) == logits(beside)
    named = opened(TINY / "llama", adapter=ADAPTERS / "rslora")
    assert logits(named) == logits(opened(ADAPTERS / "rslora"))
    assert logits(named) != logits(opened(TINY / "llama", adapter=str(ADAPTERS / "patterns")))
    assert beside.digest != without.digest
    with pytest.warns(UserWarning, match="is applied"):
        again = pickle.loads(pickle.dumps(named))
    assert logits(again) == logits(named)
    with pytest.raises(EasyroutineError, match="it is not an adapter"):
        HookedModel.from_pretrained(TINY / "llama", adapter=TINY / "gpt2")


def with_surplus(folder: Path) -> None:
    """Adds a tensor that no model has a place for."""
    file = folder / "model.safetensors"
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    end = len(data) - 8 - length
    header["model.layers.0.k_scale"] = {"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]}
    written = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(written)) + written + data[8 + length :] + bytes(4))


def test_surplus_tensors_are_passed_over_where_that_is_allowed(folder_copy: Path, llama: HookedModel) -> None:
    with_surplus(folder_copy)
    with pytest.raises(EasyroutineError, match=r"model\.layers\.0\.k_scale.*\n?.*allow_tensors="):
        HookedModel.from_pretrained(folder_copy)
    model = opened(folder_copy, allow_tensors=["*.k_scale"], warns="skipped as allowed")
    assert logits(model) == logits(llama)
    silent = "no surplus tensor is called `k_scale`: allowing that changes nothing"
    with pytest.warns(UserWarning, match="skipped as allowed"):
        model = opened(folder_copy, allow_tensors=["*.k_scale", "k_scale"], warns=silent)
    assert logits(model) == logits(llama)


def test_an_allowed_key_that_is_not_there_is_named() -> None:
    opened(TINY / "llama", allow_config_keys=["made_up"], warns="no unknown config key is called `made_up`")


def test_a_lens_says_what_its_model_would(folder_copy: Path) -> None:
    adapted = opened(TINY / "llama", adapter=ADAPTERS / "tables")
    cache = adapted.forward(IDS, extraction_config=ExtractionConfig(extract_resid_out=True))
    expected = LogitLens.from_model(adapted).compute(cache, "resid_out_1", norm="own")
    with pytest.warns(UserWarning, match="tables is applied; adapter=False reads"):
        lens = LogitLens.from_model_name(str(TINY / "llama"), adapter=ADAPTERS / "tables")
    with pytest.warns(UserWarning, match="tables is applied; adapter=False reads"):
        copied = pickle.loads(pickle.dumps(LogitLens.from_model(adapted)))
    for one in (lens, copied):
        found = one.compute(cache, "resid_out_1", norm="own")
        assert found["logit_lens_resid_out_1"].tolist() == expected["logit_lens_resid_out_1"].tolist()
    # Keys of the configuration that nobody reads are refused, or let through with a warning.
    config = json.loads((folder_copy / "config.json").read_text())
    (folder_copy / "config.json").write_text(json.dumps({**config, "made_up": 1}))
    with pytest.raises(EasyroutineError, match="made_up"):
        LogitLens.from_model_name(str(folder_copy))
    with pytest.warns(UserWarning, match="`made_up` was let through"):
        LogitLens.from_model_name(str(folder_copy), allow_config_keys=["made_up"])


def test_the_score_of_a_reward_model_is_kept() -> None:
    model = HookedModel.from_pretrained(REWARD)
    (score,) = model.forward(IDS, extraction_config=ExtractionConfig(save_logits=False, extract_score=True)).raw(
        "score"
    )
    assert list(score.shape)[-1] == 1
    # It is what a classifier keeps where nothing is said.
    assert model.forward(IDS).raw("score")[0].tolist() == score.tolist()
    with pytest.raises(EasyroutineError, match="unembedding"):
        model.forward(IDS, extraction_config=ExtractionConfig())
    with pytest.raises(EasyroutineError, match="score"):
        HookedModel.from_pretrained(TINY / "llama").forward(IDS, extraction_config=ExtractionConfig(extract_score=True))


def test_runs_saved_from_a_cache_name_the_adapter(tmp_path: Path) -> None:
    adapted = opened(TINY / "llama", adapter=ADAPTERS / "rslora")
    saver = ActivationSaver(tmp_path)
    cache = adapted.extract_cache([[1, 2]], ["last"])
    config = ExtractionConfig()
    saved = [saver.save_cache(cache), saver.save(cache, adapted, ["last"], None, config)]
    plain = HookedModel.from_pretrained(TINY / "llama")
    saved.append(saver.save_cache(plain.extract_cache([[1, 2]], ["last"])))
    models = [json.loads(Path(run, "metadata.json").read_text())["_store"]["model"] for run in saved]
    assert [one.get("adapter") for one in models] == ["rslora", "rslora", None]
    assert models[0]["dtype"] == models[1]["dtype"] == "f32"


def test_an_empty_result_says_so(tmp_path: Path) -> None:
    saver = ActivationSaver(tmp_path)
    saver.save({}, "m", ["last"], None, ExtractionConfig())
    assert str(ActivationLoader.from_saver(saver).query(tag="nothing")) == "no runs"
