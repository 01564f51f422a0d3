"""Data sets that go straight into a store: in units, shared, gone on with, with what is said of each row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXTS, cut, same

from easyroutine.errors import InputError
from easyroutine.interpretability import (
    ActivationLoader,
    ActivationSaver,
    ExtractionConfig,
    HookedModel,
    Intervention,
)

pytestmark = pytest.mark.usefixtures("own_tensors")

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


def test_a_run_that_is_gone_on_with_and_was_never_begun_begins_and_says_so(
    llama: HookedModel, saver: ActivationSaver, capsys: pytest.CaptureFixture[str]
) -> None:
    for said in ("no run 'fresh' was begun before: it begins now\n", ""):
        assert llama.extract_to_store(saver, TEXTS, ["last"], STREAMED, run="fresh", resume=True)
        assert capsys.readouterr().err == said
    assert llama.extract_to_store(saver, TEXTS, ["last"], STREAMED, run="other")
    assert capsys.readouterr().err == ""


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
    assert out == "what is done is kept: run='long', resume=True continues\n"
    kept = len(list(tmp_path.glob("default/llama/*/data/*.safetensors")))
    assert 0 < kept < 120
    config = ExtractionConfig(extract_resid_out=True)
    rows = [[[7] * 60]] * 6000
    path = llama.extract_to_store(ActivationSaver(tmp_path), rows, ["last"], config, unit=50, run="long", resume=True)
    assert path is not None and len(list(Path(path).glob("data/*.safetensors"))) == 120


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
    assert len(loader.query(where=f"fields.label = '{letter}' and fields.number > 1")) == 1
    # A column of this name is a label, unless the run keeps what a classifier gives.
    llama.extract_to_store(saver, [{"text": "a", "score": 0.5}], ["last"], STREAMED, run="scored")
    assert loader.query().open("scored")["score"] == [0.5]
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
        ([{**batch, "label": ["a"]}], {}, "one value for each"),
        ([{**one, "picture": object()}], {}, "'picture' of row 0 is object"),
        ([batch, {**one, "new": 1}], {}, "row 0 of the data set has no 'new'"),
        ([batch], {"keep_fields": ["nothing"]}, "has no 'nothing'; it has 'label', 'more'"),
        ([batch], {"keep_fields": "label"}, r"keep_fields=\['label'\]"),
        ([{**one, "score": float("nan")}], {}, "finite"),
        ([{**one, "logits": 1}], {}, "cannot be called `logits`: a run has that name"),
        ([one], {"other_metadata": {"fields": 1}}, "other_metadata has 'fields'"),
    ]
    for data, options, says in wrong:
        with pytest.raises(ValueError, match=says):
            llama.extract_to_store(saver, data, **options)


@pytest.mark.torch
def test_fields_are_a_table(llama: HookedModel, saver: ActivationSaver) -> None:
    llama.extract_to_store(saver, labelled(TEXTS), ["last"], STREAMED)
    pytest.importorskip("pandas")
    table = ActivationLoader.from_saver(saver).query().open().to_pandas()
    assert table["number"].tolist() == list(range(len(TEXTS))) and list(table) == ["label", "number"]
