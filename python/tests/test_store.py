"""Runs on disk: saved, found by what is known of them, read back as they were."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from conftest import PROMPT

from easyroutine.interpretability import (
    ActivationCache,
    ActivationLoader,
    ActivationSaver,
    ExtractionConfig,
    HookedModel,
    Intervention,
    ValueWithInfo,
)

pytestmark = pytest.mark.usefixtures("own_tensors")

CONFIG = ExtractionConfig(
    extract_resid_out=True, extract_attn_pattern=True, extract_head_out=True, extract_last_layernorm=True
)


@pytest.fixture
def saver(tmp_path: Path) -> ActivationSaver:
    return ActivationSaver(tmp_path, experiment_name="first")


def saved(saver: ActivationSaver, given: Any, **options: Any) -> str:
    arguments = {"target_token_positions": ["last"], "interventions": None, "extraction_config": CONFIG}
    return saver.save(given, options.pop("model", "org/model"), **{**arguments, **options})


def same(a: Any, b: Any) -> bool:
    if isinstance(a, ValueWithInfo):
        return isinstance(b, ValueWithInfo) and a.info == b.info and same(a.value, b.value)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


@pytest.mark.parametrize("rows", [[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4]]])
def test_a_cache_comes_back_as_it_was(llama: HookedModel, saver: ActivationSaver, rows: list[list[int]]) -> None:
    cache = llama.forward(rows, target_token_positions=["last", (0, 1), "all"], extraction_config=CONFIG)
    cache["labels"] = ["a", ("b", 1), None]
    path = saved(saver, cache, model=llama, target_token_positions=["last", (0, 1), "all"])
    assert os.path.isdir(path) and path.startswith(saver.base_dir)
    found, metadata = ActivationLoader.from_saver(saver).query().load(-1)
    assert isinstance(found, ActivationCache) and list(found) == list(cache)
    for key in cache:
        assert same(cache[key], found[key]), key
    assert metadata["model_name"] == "llama" and metadata["target_token_positions"] == ["last", [0, 1], "all"]
    # What is read back can be joined with what was never written.
    found.cat(cache)
    assert len(found["token_dict"]["last"]) == 2 * len(rows)


@pytest.mark.parametrize("given", [{"a": 1, 2: [1.5, None], (1, 2): "x"}, [1, (2, 3)], 3.5])
def test_plain_values_come_back_as_they_were(saver: ActivationSaver, given: Any) -> None:
    saved(saver, given)
    assert ActivationLoader.from_saver(saver).query().load()[0] == given


def test_arrays_of_numpy_come_back(saver: ActivationSaver) -> None:
    numpy = pytest.importorskip("numpy")
    arrays = [numpy.arange(6, dtype=kind).reshape(2, 3) for kind in ("float32", "int64", "float64", "int8", "float16")]
    saved(saver, {"x": arrays, "one": numpy.float32(2)})
    found = ActivationLoader.from_saver(saver).query().load()[0]
    for array, back in zip(arrays, found["x"], strict=True):
        assert numpy.asarray(back).tolist() == array.tolist() and str(array.dtype) in str(back.dtype)
    assert found["one"] == 2 or found["one"].item() == 2


@pytest.mark.torch
def test_tensors_of_torch_come_back(saver: ActivationSaver, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("EASYROUTINE_TENSORS", "auto")
    tensors = {
        str(kind): torch.arange(4).to(kind).reshape(2, 2) for kind in (torch.bfloat16, torch.bool, torch.float32)
    }
    saved(saver, tensors)
    found = ActivationLoader.from_saver(saver).query().load()[0]
    assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in tensors.items())


def test_runs_are_found_by_what_is_known_of_them(llama: HookedModel, saver: ActivationSaver) -> None:
    cache = llama.forward(PROMPT, target_token_positions=["last"])
    vector = [float(i) for i in range(48)]
    steer = [Intervention.add("resid_out_0", vector), Intervention("full", "mlp_out_1", [(0, 2)])]
    saved(saver, cache, tag="plain", extraction_config=ExtractionConfig())
    saved(saver, cache, tag="all", other_metadata={"batch_id": 1, "pivot_positions": [2]})
    saved(saver, cache, tag="steered", model=llama, interventions=steer, target_token_positions=["last", (0, 2)])
    loader = ActivationLoader.from_saver(saver)

    def tags(**criteria: Any) -> list[Any]:
        return [metadata["tag"] for *_, metadata in loader.query(**criteria).results]

    assert tags() == ["plain", "all", "steered"]
    assert tags(tag="all") == tags(custom_keys={"batch_id": 1}) == tags(pivot_positions=[2]) == ["all"]
    assert tags(extraction_config=ExtractionConfig(extract_attn_pattern=True)) == ["all", "steered"]
    assert tags(extraction_config=ExtractionConfig(), match="exact") == ["plain"]
    assert tags(model_name="llama") == tags(interventions=steer) == ["steered"]
    assert tags(target_token_positions="last") == tags(target_token_positions=["last"]) == ["plain", "all"]
    assert tags(target_token_positions=["last", (0, 2)]) == ["steered"]
    assert tags(interventions=[]) == ["plain", "all"]
    assert tags(tag="nothing") == [] and tags(experiment_name="second") == []
    assert tags(experiment_name="*", tag="plain") == ["plain"]
    with pytest.raises(ValueError):
        loader.query(where="batch_id ==== 1")


def test_results_are_opened_moved_and_removed(saver: ActivationSaver) -> None:
    for number in range(3):
        saved(saver, {"number": number}, tag=str(number))
    result = ActivationLoader.from_saver(saver).query()
    assert (
        len(result) == len(result.results) == 3 and [os.path.isdir(path) for path in result.get_paths()] == [True] * 3
    )
    assert [result.load(i)[0]["number"] for i in (0, 1, 2, -1)] == [0, 1, 2, 2]
    folder = result[1][2]
    assert result.load(folder)[0]["number"] == 1 and "3 runs" in repr(result) and "<table>" in result._repr_html_()
    assert result.update_run_experiment(-1, "second").startswith(os.path.join(saver.base_dir, "second"))
    result.remove(0)
    assert len(result) == 2
    left = ActivationLoader.from_saver(saver).query()
    assert [metadata["tag"] for *_, metadata in left] == ["1"]
    moved = ActivationLoader(saver.base_dir, "second").query()
    assert moved[0][3]["experiment_name"] == "second" and moved.load()[0] == {"number": 2}
    for wrong in (5, -3, "2023-04-15_14-30-25"):
        with pytest.raises(FileNotFoundError):
            left.load(wrong)
    with pytest.raises(ValueError, match="number or the name"):
        left.load(1.5)  # type: ignore[arg-type]


def test_an_experiment_is_renamed_with_its_runs(saver: ActivationSaver) -> None:
    saved(saver, {"x": 1})
    saver.rename_experiment("better")
    saved(saver, {"x": 2})
    runs = ActivationLoader(saver.base_dir, "better").query().results
    assert [metadata["experiment_name"] for *_, metadata in runs] == ["better", "better"]
    assert len(ActivationLoader(saver.base_dir, "first").query()) == 0


def test_single_values_are_read_alone(llama: HookedModel, saver: ActivationSaver) -> None:
    saved(saver, llama.forward(PROMPT, extraction_config=CONFIG))
    found, _ = ActivationLoader.from_saver(saver).query().load(-1, keys=["resid_out_1"])
    assert list(found) == ["resid_out_1"]


def test_a_cache_that_knows_its_run_is_saved_by_itself(llama: HookedModel, saver: ActivationSaver) -> None:
    cache = llama.extract_cache([PROMPT, "x"], ["last"], CONFIG)
    saver.save_cache(cache, {"note": "n"}, tag="t")
    (run,) = ActivationLoader.from_saver(saver).query(tag="t", model_name="llama", extraction_config=CONFIG).results
    assert run[3]["note"] == "n"
    with pytest.raises(ValueError, match="does not say what run it is of"):
        saver.save_cache(llama.forward(PROMPT))


def test_the_folder_may_stand_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIVATION_BASE_DIR", str(tmp_path))
    saved(ActivationSaver.from_env("e"), {"x": 1})
    assert len(ActivationLoader.from_env("e").query()) == 1
    monkeypatch.delenv("ACTIVATION_BASE_DIR")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="ACTIVATION_BASE_DIR"):
        ActivationSaver.from_env()


def test_what_cannot_be_kept_is_an_error_and_leaves_nothing(saver: ActivationSaver, tmp_path: Path) -> None:
    for given, metadata in (({"x": object()}, {}), ({"x": 1}, {"f": float("nan")}), ({"x": 1}, {"tag": "mine"})):
        with pytest.raises(ValueError):
            saved(saver, given, other_metadata=metadata)
    with pytest.raises(ValueError):
        ActivationSaver(tmp_path, "../outside")
    with pytest.raises(FileNotFoundError):
        ActivationLoader(tmp_path / "nothing")
    assert len(ActivationLoader.from_saver(saver).query()) == 0


def test_savers_and_loaders_travel(saver: ActivationSaver) -> None:
    saved(pickle.loads(pickle.dumps(saver)), {"x": 1})
    assert len(pickle.loads(pickle.dumps(ActivationLoader.from_saver(saver))).query()) == 1
