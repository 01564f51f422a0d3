"""Runs on disk: saved, found by what is known of them, read back as they were."""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import PROMPT

from easyroutine.errors import FormatError, InputError
from easyroutine.interpretability import (
    ActivationCache,
    ActivationLoader,
    ActivationSaver,
    ExtractionConfig,
    HookedModel,
    Intervention,
    QueryResult,
    ValueWithInfo,
)

pytestmark = pytest.mark.usefixtures("own_tensors")

CONFIG = ExtractionConfig(
    extract_resid_out=True, extract_attn_pattern=True, extract_head_out=True, extract_last_layernorm=True
)


@pytest.fixture
def saver(tmp_path: Path) -> ActivationSaver:
    return ActivationSaver(tmp_path, experiment_name="first")


def saved(saver: ActivationSaver, given: Any, **options: Any) -> Any:
    arguments = {"target_token_positions": ["last"], "interventions": None, "extraction_config": CONFIG}
    return saver.save(given, options.pop("model", "org/model"), **{**arguments, **options})


def same(a: Any, b: Any) -> bool:
    if isinstance(a, ValueWithInfo):
        return isinstance(b, ValueWithInfo) and a.info() == b.info() and same(a.value(), b.value())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


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


def cut(value: Any, start: int, stop: int) -> Any:
    if isinstance(value, ValueWithInfo):
        return ValueWithInfo(cut(value.value(), start, stop), value.info())
    if isinstance(value, dict):
        return {key: cut(one, start, stop) for key, one in value.items()}
    return value[start:stop]


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


TEXTS = [PROMPT, "x", "Paris is the capital of France, as everybody knows", "London", PROMPT, "The sky is blue"]
STREAMED = ExtractionConfig(extract_resid_out=True, extract_attn_pattern=True, extract_last_layernorm=True)


def digest(path: str) -> str:
    record = json.loads((Path(path) / "metadata.json").read_text(encoding="utf-8"))
    return str(record["_store"]["digest"])


@pytest.mark.parametrize("positions", ["last", "all"])
def test_a_data_set_goes_straight_into_a_store(
    llama: HookedModel, saver: ActivationSaver, tmp_path: Path, positions: str
) -> None:
    path = llama.extract_to_store(saver, TEXTS, [positions], STREAMED, tag="streamed", unit=2, other_metadata={"n": 6})
    assert isinstance(path, Path) and saver.base_dir in path.parents
    result = ActivationLoader.from_saver(saver).query(tag="streamed", extraction_config=STREAMED, custom_keys={"n": 6})
    run = result.open(-1)
    expected = llama.extract_cache(TEXTS, [positions], STREAMED)
    assert set(expected) - {"metadata"} == set(run)
    for key in run:
        assert same(run[key], expected[key]), key
    assert same(run.rows("resid_out_1", 1, 5), cut(expected["resid_out_1"], 1, 5))
    # Three shards, whatever the batches; and what the command writes of the same prompts.
    assert len(list((Path(path) / "data").iterdir())) == 3
    assert digest(llama.extract_to_store(saver, TEXTS, [positions], STREAMED, unit=2, batch_tokens=7) or "") == digest(
        path
    )
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    keys = "resid_out_*,pattern_*,last_layernorm,logits"
    words = [
        "extract",
        "--file",
        str(file),
        "-m",
        llama.config.model_name,
        "-a",
        keys,
        "--positions",
        positions,
        "--unit",
        "2",
    ]
    store = tmp_path / "commands"
    store.mkdir()
    subprocess.run([os.environ["EASYROUTINE_NATIVE"], *words, "-o", str(store)], check=True, timeout=120)
    (theirs,) = ActivationLoader(store).query().get_paths()
    assert digest(theirs) == digest(path)


def test_a_run_in_a_store_is_gone_on_with_and_shared(llama: HookedModel, saver: ActivationSaver) -> None:
    change = [Intervention.add("resid_out_0", [float(i) for i in range(48)])]
    whole = llama.extract_to_store(saver, TEXTS, ["last"], STREAMED, change, unit=1)
    assert whole is not None

    def part(number: int) -> str | None:
        return llama.extract_to_store(saver, TEXTS, ["last"], STREAMED, change, unit=1, run="shared", part=(number, 3))

    assert part(3) is None and part(1) is None
    shared = part(2)
    assert shared is not None and digest(shared) == digest(whole)
    assert part(2) == shared
    again = llama.extract_to_store(saver, TEXTS, ["last"], STREAMED, change, unit=1, run="shared", resume=True)
    assert again == shared
    with pytest.raises(ValueError):
        llama.extract_to_store(saver, TEXTS, ["last"], STREAMED, change, unit=1, run="shared")
    # Other values than those of the run that it would go on with.
    other = [Intervention.add("resid_out_0", [1.0] * 48)]
    assert llama.extract_to_store(saver, TEXTS, ["last"], STREAMED, change, unit=1, run="open", part=(1, 2)) is None
    with pytest.raises(ValueError, match="interventions"):
        llama.extract_to_store(saver, TEXTS, ["last"], STREAMED, other, unit=1, run="open", resume=True)
    done = llama.extract_to_store(saver, TEXTS, ["last"], STREAMED, change, unit=1, run="open", resume=True)
    assert done is not None and digest(done) == digest(whole)


def test_what_a_store_cannot_be_filled_with_is_an_error(llama: HookedModel, saver: ActivationSaver) -> None:
    rows_apart = Intervention("full", "resid_out_1", ["last"], operation="resample", source_row=0)
    for options in (
        {"extraction_config": ExtractionConfig(avg=True)},
        {"interventions": [rows_apart]},
        {"unit": 0},
        {"part": (3, 2), "run": "x"},
        {"part": (0, 2), "run": "x"},
        {"part": (1, 2)},
        {"resume": True},
        {"run": "../x"},
        {"batch_tokens": 0},
        {"target_token_positions": [99]},
        {"other_metadata": {"tag": "x"}},
    ):
        with pytest.raises(ValueError):
            llama.extract_to_store(saver, TEXTS, **options)
    remove = llama.register_forward_hook("resid_out_0", lambda value, key: None)
    with pytest.raises(ValueError, match="without hooks"):
        llama.extract_to_store(saver, TEXTS)
    remove()
    assert len(ActivationLoader.from_saver(saver).query()) == 0


STREAMING = """
import sys
from easyroutine.interpretability import ActivationSaver, ExtractionConfig, HookedModel
model = HookedModel.from_pretrained({model!r}, threads=1)
saver = ActivationSaver({base!r})
print("ready", flush=True)
try:
    model.extract_to_store(saver, [[[7] * 60]] * 6000, ["last"], ExtractionConfig(extract_resid_out=True), unit=50, run="long")
except KeyboardInterrupt as stopped:
    print(stopped, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are of Unix")
def test_control_c_keeps_whole_units_and_the_run_goes_on(llama: HookedModel, tmp_path: Path) -> None:
    program = STREAMING.format(model=llama.config.model_name, base=str(tmp_path))
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None and run.stdout.readline() == "ready\n"
    # As soon as a unit is there.
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("default/llama/*/data/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    out, _ = run.communicate(timeout=60)
    assert out == "what is done is kept: run='long', resume=True goes on\n"
    kept = len(list(tmp_path.glob("default/llama/*/data/*.safetensors")))
    assert 0 < kept < 120
    config = ExtractionConfig(extract_resid_out=True)
    rows = [[[7] * 60]] * 6000
    path = llama.extract_to_store(ActivationSaver(tmp_path), rows, ["last"], config, unit=50, run="long", resume=True)
    assert path is not None and len(list(Path(path).glob("data/*.safetensors"))) == 120


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
        ({"part": 3, "run": "x"}, "part is 3; it is a pair"),
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


def test_who_joins_with_another_story_is_refused(llama: HookedModel, saver: ActivationSaver) -> None:
    def fill(**more: Any) -> Any:
        return llama.extract_to_store(saver, TEXTS, ["last"], STREAMED, unit=2, run="words", **more)

    first = fill(tag="one", other_metadata={"n": 1}, part=(1, 2))
    assert first is None
    for other, differs in (({"tag": "two", "other_metadata": {"n": 1}}, "`tag`"), ({"tag": "one"}, "`other_metadata`")):
        for joining in ({"part": (2, 2)}, {"resume": True}):
            with pytest.raises(InputError, match=differs):
                fill(**other, **joining)
    assert fill(tag="one", other_metadata={"n": 1}, resume=True)
    with pytest.raises(InputError, match="`tag` was"):
        fill(tag="two", other_metadata={"n": 1}, resume=True)


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


def test_a_result_may_be_made_without_a_store() -> None:
    empty = QueryResult()
    assert str(empty) == "" and len(empty) == 0 and empty.results == [] and len(pickle.loads(pickle.dumps(empty))) == 0
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
    table = ActivationLoader.from_saver(saver).query().to_pandas()
    assert table["seed"].tolist() == [0, 1] and table["tag"].tolist() == ["0", "1"]
    assert table["experiment_name"].tolist() == ["first", "first"] and "_store" not in table


def labelled(texts: list[str]) -> list[dict[str, Any]]:
    return [{"text": text, "label": text[0], "number": number} for number, text in enumerate(texts)]


def test_what_is_said_of_each_row_is_kept_with_it(llama: HookedModel, saver: ActivationSaver) -> None:
    llama.extract_to_store(saver, labelled(TEXTS), ["last"], STREAMED, unit=2, tag="labelled")
    plain = llama.extract_to_store(saver, TEXTS, ["last"], STREAMED, unit=2)
    loader = ActivationLoader.from_saver(saver)
    run = loader.query(tag="labelled").open()
    assert run["label"] == [text[0] for text in TEXTS] and run["number"] == list(range(len(TEXTS)))
    assert run.rows("label", 1, 4) == run["label"][1:4] and run.fields == ["label", "number"]
    assert run["resid_out_0"].tolist() == loader.query().open(str(plain).rpartition("/")[2])["resid_out_0"].tolist()
    cache, metadata = loader.query(tag="labelled").load()
    assert cache["label"] == run["label"]
    assert metadata["fields"] == {"label": list(dict.fromkeys(run["label"])), "number": run["number"]}
    letter = run["label"][0]
    assert len(loader.query(where=f"fields.label ~ '{letter}'")) == 1
    assert len(loader.query(where="fields.label ~ 'nobody'")) == 0
    # Another label is another run.
    other = [{**one, "label": "x"} for one in labelled(TEXTS)]
    for data, fits in ((labelled(TEXTS), True), (other, False)):
        options = {"run": "shared", "part": (1, 2), "unit": 1}
        if fits:
            assert llama.extract_to_store(saver, data, ["last"], STREAMED, **options) is None
        else:
            with pytest.raises(ValueError, match="fields"):
                llama.extract_to_store(saver, data, ["last"], STREAMED, **options)


def test_fields_are_one_value_a_row(llama: HookedModel, saver: ActivationSaver) -> None:
    tokenizer = llama.get_tokenizer()
    batch = {**tokenizer(TEXTS[:2], padding=True), "label": ["a", "b"], "more": [1, None]}
    one = {**tokenizer(TEXTS[2]), "label": "c", "more": [True]}
    llama.extract_to_store(
        saver, [batch, one, {"text": TEXTS[3:5], "label": ["d", "e"], "more": [2.5, "x"]}], tag="all"
    )
    llama.extract_to_store(saver, [batch, one], keep_fields=["label"], tag="some")
    llama.extract_to_store(saver, [{**one, "picture": object()}], keep_fields=[], tag="none")
    loader = ActivationLoader.from_saver(saver)
    run = loader.query(tag="all").open()
    assert run["label"] == ["a", "b", "c", "d", "e"] and run["more"] == [1, None, True, 2.5, "x"]
    assert loader.query(tag="some").open().fields == ["label"] and loader.query(tag="none").open().fields == []
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ([{**batch, "label": ["a"]}], {}, "one value a row"),
        ([{**one, "picture": object()}], {}, "'picture' of row 0 is object"),
        ([batch, {**one, "new": 1}], {}, "row 0 of the data set has no 'new'"),
        ([batch], {"keep_fields": ["nothing"]}, "has no 'nothing'; it has 'label', 'more'"),
        ([batch], {"keep_fields": "label"}, r"keep_fields=\['label'\]"),
        ([{**one, "score": float("nan")}], {}, "finite"),
        ([{**one, "resid_out_0": 1}], {}, "cannot be called `resid_out_0`"),
        ([one], {"other_metadata": {"fields": 1}}, "other_metadata has 'fields'"),
    ]
    for data, options, says in wrong:
        with pytest.raises(ValueError, match=says):
            llama.extract_to_store(saver, data, **options)


@pytest.mark.torch
def test_fields_are_a_table(llama: HookedModel, saver: ActivationSaver) -> None:
    llama.extract_to_store(saver, labelled(TEXTS), ["last"], STREAMED)
    table = ActivationLoader.from_saver(saver).query().open().to_pandas()
    assert table["number"].tolist() == list(range(len(TEXTS))) and list(table) == ["label", "number"]


@pytest.mark.torch
def test_an_object_is_written_as_the_original_wrote_it(saver: ActivationSaver, tmp_path: Path) -> None:
    import torch

    saver.save_object_to_path(torch.tensor([1, 2]), {"key": "value"}, tmp_path / "a" / "b")
    assert torch.load(tmp_path / "a" / "b" / "tensor.pt").tolist() == [1, 2]
    assert json.loads((tmp_path / "a" / "b" / "metadata.json").read_text()) == {"key": "value"}
