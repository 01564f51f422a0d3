"""Runs on disk: saved, found by what is known of them, read back as they were."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from conftest import PROMPT, TEXTS, cut, same

from easyroutine.errors import FormatError, InputError
from easyroutine.interpretability import (
    ActivationCache,
    ActivationLoader,
    ActivationSaver,
    ExtractionConfig,
    HookedModel,
    Intervention,
    QueryResult,
)

pytestmark = pytest.mark.usefixtures("own_tensors")

CONFIG = ExtractionConfig(
    extract_resid_out=True, extract_attn_pattern=True, extract_head_out=True, extract_last_layernorm=True
)


def saved(saver: ActivationSaver, given: Any, **options: Any) -> Any:
    arguments = {"target_token_positions": ["last"], "interventions": None, "extraction_config": CONFIG}
    return saver.save(given, options.pop("model", "org/model"), **{**arguments, **options})


@pytest.mark.parametrize("rows", [[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4]]])
def test_a_cache_comes_back_as_it_was(llama: HookedModel, saver: ActivationSaver, rows: list[list[int]]) -> None:
    cache = llama.forward(rows, target_token_positions=["last", (0, 1), "all"], extraction_config=CONFIG)
    cache["labels"] = ["a", ("b", 1), None]
    path = saved(saver, cache, model=llama, target_token_positions=["last", (0, 1), "all"])
    assert isinstance(path, Path) and path.is_dir() and saver.base_dir in path.parents
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


@pytest.mark.parametrize("rows", [[[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4]]])
def test_every_shard_is_read_by_the_format_s_own_package(
    llama: HookedModel, saver: ActivationSaver, rows: list[list[int]]
) -> None:
    numpy = pytest.importorskip("numpy")
    safetensors = pytest.importorskip("safetensors")
    cache = llama.forward(rows, target_token_positions=["all"], extraction_config=CONFIG)
    folder = Path(saved(saver, cache, model=llama, target_token_positions=["all"]))
    manifest = json.loads((folder / "metadata.json").read_text())["_store"]["manifest"]["inline"]
    kinds = {entry["name"]: entry["kind"] for entry in manifest["tensors"]}
    found: dict[str, Any] = {}
    for shard in sorted((folder / "data").iterdir()):
        with safetensors.safe_open(shard, framework="np") as opened:
            found.update({name: opened.get_tensor(name) for name in opened.keys()})
        # The lower face of the package, which checks a header more strictly than it has to for reading.
        assert {name for name, _ in safetensors.deserialize(shard.read_bytes())} <= found.keys()
    offsets = {name for name in found if name.endswith(".offsets")}
    assert found.keys() - offsets == kinds.keys() and "resid_out_2" in kinds and "pattern_L0H1" in kinds
    for name, kind in kinds.items():
        value = cache["last_layernorm"][name.split(".")[1]] if name.startswith("last_layernorm.") else cache[name]
        if kind in ("dense", "object"):
            assert numpy.array_equal(found[name], numpy.asarray(value)), name
            continue
        ends = found[f"{name}.offsets"]
        assert len(ends) == len(rows) + 1
        for number, row in enumerate(value):
            part = found[name][ends[number] : ends[number + 1]]
            assert numpy.array_equal(part.reshape(numpy.asarray(row).shape), numpy.asarray(row)), name
    assert bool(offsets) == (len(rows[0]) != len(rows[1]))


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
    saved(saver, cache, tag=["several", "plain"])
    assert tags(tag="plain") == ["plain", "several"] and tags(tag=("plain", "several")) == ["several"]
    assert tags(tag=["several", "steered"]) == []
    found = loader.query(tag="several")
    assert found.open(-1).tags == ["several", "plain"] and "Tags: several, plain" in repr(found)
    assert "several, plain" in found._repr_html_()
    for wrong in (3, ["a", 3], {"a"}):
        with pytest.raises(InputError, match="tag"):
            loader.query(tag=wrong)  # type: ignore[arg-type]
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
    assert result.load(folder)[0]["number"] == result.load(folder.name)[0]["number"] == 1  # type: ignore[union-attr]
    assert (
        "2 - Experiment: first, Model: org_model, Time Folder: " in repr(result) and "<table>" in result._repr_html_()
    )
    moved_to = result.update_run_experiment(-1, new_experiment_name="second")
    assert Path(saver.base_dir, "second") in Path(moved_to).parents
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
    with pytest.warns(UserWarning, match="no run of the experiment 'first' fits, and 2 of others do: 'better'"):
        assert len(ActivationLoader(saver.base_dir, "first").query()) == 0


def test_single_values_are_read_alone(llama: HookedModel, saver: ActivationSaver) -> None:
    saved(saver, llama.forward(PROMPT, extraction_config=CONFIG))
    found, _ = ActivationLoader.from_saver(saver).query().load(-1, keys=["resid_out_1"])
    assert list(found) == ["resid_out_1"]


def test_a_run_is_read_piece_by_piece(llama: HookedModel, saver: ActivationSaver) -> None:
    rows = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    cache = llama.forward(rows, target_token_positions=["all"], extraction_config=CONFIG)
    even = llama.forward(rows, target_token_positions=["last"], extraction_config=CONFIG)
    for one in (cache, even):
        saved(saver, one)
    for number, expected in enumerate((cache, even)):
        run = ActivationLoader.from_saver(saver).query().open(number)
        assert list(run) == list(expected) and len(run) == len(expected) and "logits" in run
        for key in expected:
            assert same(run[key], expected[key]), key
        for key in ("logits", "pattern_L1H0", "head_out_L0H1", "last_layernorm"):
            part = run.rows(key, 1, 3)
            assert same(part, cut(expected[key], 1, 3)), key
        assert set(run.layer(1)) == {key for key in expected if key.endswith("_1") or "L1H" in key}
        assert same(run.layer(1)["resid_out_1"], expected["resid_out_1"])
        assert same(run.load(["last_layernorm"])["last_layernorm"], expected["last_layernorm"])
        assert run.metadata["model_name"] == "org/model" and os.path.isdir(run.path)
        assert run.nbytes("logits") == 4 * 320 * (9 if number == 0 else 3)
        assert run.shape("logits") == ((9, 320) if number == 0 else (3, 1, 320))
        assert "StoredRun('first/org_model/" in repr(run) and "<code>resid_out_1</code>" in run._repr_html_()
    for wrong in (lambda: run["x"], lambda: run.load(["x"]), lambda: run.rows("x", 0, 1)):
        with pytest.raises(KeyError, match="holds no 'x'"):
            wrong()
    for wrong in (
        lambda: run.rows("logits", 0, 4),
        lambda: run.rows("logits", -1, 2),
        lambda: run.rows("token_dict", 0, 1),
        lambda: run.layer(3),
        lambda: run.shape("last_layernorm"),
    ):
        with pytest.raises(ValueError):
            wrong()


def test_what_is_not_asked_for_is_not_read(llama: HookedModel, saver: ActivationSaver) -> None:
    path = Path(saved(saver, llama.forward([[1, 2, 3]], extraction_config=CONFIG)))
    run = ActivationLoader.from_saver(saver).query().open(-1)
    (shard,) = (path / "data").iterdir()
    expected = run["resid_out_1"]
    # All other numbers are gone: only what is asked for can have been read.
    data = bytearray(shard.read_bytes())
    length = int.from_bytes(data[:8], "little")
    start, end = json.loads(data[8 : 8 + length])["resid_out_1"]["data_offsets"]
    kept = data[8 + length + start : 8 + length + end]
    data[8 + length :] = bytes(len(data) - 8 - length)
    data[8 + length + start : 8 + length + end] = kept
    shard.write_bytes(data)
    again = ActivationLoader.from_saver(saver).query().open(-1)
    assert again["resid_out_1"] == expected
    with pytest.raises(FormatError, match="`logits` is damaged"):
        again["logits"]
    unverified = ActivationLoader.from_saver(saver).query().open(-1, verify=False)
    assert not any(unverified["logits"].tolist()[0][0])


def test_a_cache_that_knows_its_run_is_saved_by_itself(llama: HookedModel, saver: ActivationSaver) -> None:
    cache = llama.extract_cache([PROMPT, "x"], ["last"], CONFIG)
    saver.save_cache(cache, {"note": "n"}, tag="t")
    (run,) = ActivationLoader.from_saver(saver).query(tag="t", model_name="llama", extraction_config=CONFIG).results
    assert run[3]["note"] == "n"
    with pytest.raises(ValueError, match="does not say which run it came from"):
        saver.save_cache(llama.forward(PROMPT))


def test_the_folder_may_stand_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIVATION_BASE_DIR", str(tmp_path))
    saved(ActivationSaver.from_env("e"), {"x": 1})
    assert len(ActivationLoader.from_env("e").query()) == 1
    monkeypatch.delenv("ACTIVATION_BASE_DIR")
    monkeypatch.chdir(tmp_path)
    for kind in (ActivationSaver, ActivationLoader):
        with pytest.raises(ValueError, match="ACTIVATION_BASE_DIR"):
            kind.from_env()


def test_what_cannot_be_kept_is_an_error_and_leaves_nothing(saver: ActivationSaver, tmp_path: Path) -> None:
    for given, metadata in (({"x": object()}, {}), ({"x": 1}, {"f": object()}), ({"x": 1}, {"tag": "mine"})):
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


def test_rows_of_several_types_are_refused_and_named(llama: HookedModel, saver: ActivationSaver) -> None:
    numpy = pytest.importorskip("numpy")
    cache = llama.forward([[1, 2], [3]])
    cache["mixed"] = [numpy.ones(2, "float32"), numpy.ones(3, "float64")]
    with pytest.raises(InputError, match="'mixed' are of several types: F32, F64"):
        saved(saver, cache)
    cache["mixed"] = [numpy.ones(2, "float64"), numpy.ones(3, "float64")]
    saved(saver, cache)
    assert [len(row) for row in ActivationLoader.from_saver(saver).query().load()[0]["mixed"]] == [2, 3]


def test_numbers_that_a_run_does_not_keep_are_named(llama: HookedModel, saver: ActivationSaver) -> None:
    with pytest.raises(InputError, match=r"'a\.b' is of type object"):
        saved(saver, {"a": {"b": object()}})
    with pytest.raises(InputError, match=r"'l\.1' is of type range"):
        saved(saver, {"l": [1.0, range(3)]})
    for options, says in (
        ({"part": 3, "run": "x"}, "part is 3; it must be a pair"),
        ({"part": (3, 2), "run": "x"}, "number of a part is 3"),
        ({"unit": -1}, "unit is -1"),
    ):
        with pytest.raises(InputError, match=says):
            llama.extract_to_store(saver, TEXTS, **options)
    assert len(ActivationLoader.from_saver(saver).query()) == 0


def test_one_key_is_a_list_of_one(llama: HookedModel, saver: ActivationSaver) -> None:
    saved(saver, llama.forward(PROMPT, extraction_config=CONFIG))
    result = ActivationLoader.from_saver(saver).query()
    assert list(result.load(-1, keys="resid_out_1")[0]) == ["resid_out_1"]
    with pytest.raises(InputError, match="a layer is -1"):
        result.open(-1).layer(-1)


def test_interventions_of_a_run_are_never_left_out(llama: HookedModel, saver: ActivationSaver) -> None:
    change = Intervention("full", "resid_out_0", ["last"])
    loader = ActivationLoader.from_saver(saver)
    known = llama.extract_cache([PROMPT], ["last"], CONFIG, [change])
    for given in (None, []):
        saved(saver, known, model=llama, interventions=given)
    assert [run[3]["interventions"][0]["activation"] for run in loader.query()] == ["resid_out_0"] * 2
    llama.register_interventions(change)
    try:
        with pytest.raises(InputError, match="registered interventions"):
            saved(saver, llama.forward(PROMPT), model=llama)
        saved(saver, llama.forward(PROMPT), model=llama, interventions=llama.interventions, tag="told")
    finally:
        llama.clean_interventions()
    assert len(loader.query(tag="told", interventions=[change])) == 1 and len(loader.query()) == 3


def test_results_are_cut_pickled_and_copied(saver: ActivationSaver) -> None:
    for number in range(3):
        saved(saver, {"number": number}, tag=str(number))
    result = ActivationLoader.from_saver(saver).query()
    for copied in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result), result[:]):
        assert [run for _, _, run, _ in copied] == [run for _, _, run, _ in result]
        assert copied.load(-1)[0] == {"number": 2}
    part = result[0:2]
    assert isinstance(part, QueryResult) and part.load(-1)[0] == {"number": 1} and len(part) == 2
    result.remove(0)
    with pytest.raises(FileNotFoundError):
        part.load(0)
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickle.dumps(part))


@pytest.mark.filterwarnings("ignore")
def test_places_are_refused_while_a_run_cannot_be_read(saver: ActivationSaver) -> None:
    paths = [saved(saver, {"number": number}, tag=str(number)) for number in range(3)]
    loader = ActivationLoader.from_saver(saver)
    assert loader.query().load(-1)[0] == {"number": 2}
    record = paths[2] / "metadata.json"
    text = record.read_bytes()
    record.write_bytes(bytes([text[0] ^ 1]) + text[1:])
    result = loader.query()
    # The newest run that can be read is not the newest run.
    for place in (-1, -2, -3):
        for act in (result.load, result.remove):
            with pytest.raises(FormatError, match=paths[2].name):
                act(place)
    assert all(path.is_dir() for path in paths)
    # A number in the list of what was found means what it did.
    assert result.load(1)[0] == {"number": 1}


def test_a_result_may_be_made_without_a_store() -> None:
    empty = QueryResult()
    assert (
        str(empty) == "no runs"
        and len(empty) == 0
        and empty.results == []
        and len(pickle.loads(pickle.dumps(empty))) == 0
    )
    with pytest.raises(FileNotFoundError, match="no run -1"):
        empty.load()
    empty.results.append(("first", Path("model"), Path("run"), {"tag": "a"}))
    assert str(empty) == "0 - Experiment: first, Model: model, Time Folder: run\n  Tag: a"
    empty.results.append(("first", Path("model"), Path("run"), {"tag": "\x1b[31m\n"}))
    assert repr(empty).endswith(r"  Tag: \x1b[31m\n")
    assert empty[:2].results == empty.results and empty.get_paths() == [Path("run")] * 2


def test_metadata_is_the_story_and_not_what_the_store_keeps(saver: ActivationSaver) -> None:
    saved(saver, {"x": 1}, other_metadata={"seed": 3})
    result = ActivationLoader.from_saver(saver).query(experiment_name="first")
    run = result.open()
    assert "_store" not in result[0][3] and run.metadata == result[0][3] == result.load()[1]
    assert run.metadata["seed"] == 3 and "manifest" in run.record["_store"]


def test_a_query_may_print_what_it_found(saver: ActivationSaver, capsys: pytest.CaptureFixture[str]) -> None:
    saved(saver, {"x": 1})
    loader = ActivationLoader.from_saver(saver)
    loader.query(verbose=True)
    assert capsys.readouterr().out.startswith("0 - Experiment: first")
    with pytest.raises(ValueError, match="tag='pilot' looks for a tag"):
        loader.query(None, None, None, None, None, None, None, None, "pilot")  # type: ignore[arg-type]


@pytest.mark.torch
def test_a_result_is_a_table(saver: ActivationSaver) -> None:
    for number in range(2):
        saved(saver, {"x": 1}, tag=str(number), other_metadata={"seed": number})
    pytest.importorskip("pandas")
    table = ActivationLoader.from_saver(saver).query().to_pandas()
    assert table["seed"].tolist() == [0, 1] and table["tag"].tolist() == ["0", "1"]
    assert table["experiment_name"].tolist() == ["first", "first"] and "_store" not in table


@pytest.mark.torch
def test_an_object_is_written_as_the_original_wrote_it(saver: ActivationSaver, tmp_path: Path) -> None:
    import torch

    saver.save_object_to_path(torch.tensor([1, 2]), {"key": "value"}, tmp_path / "a" / "b")
    assert torch.load(tmp_path / "a" / "b" / "tensor.pt").tolist() == [1, 2]
    assert json.loads((tmp_path / "a" / "b" / "metadata.json").read_text()) == {"key": "value"}
