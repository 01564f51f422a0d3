"""What does not fit is refused by an error of the package that names the argument, and nothing is taken for another."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY

from easyroutine.errors import EasyroutineError, StorageError
from easyroutine.interpretability import (
    ActivationCache,
    ActivationLoader,
    ActivationSaver,
    ExtractionConfig,
    HookedModel,
    Intervention,
    LensResult,
    LogitLens,
)
from easyroutine.interpretability.query_result import QueryResult
from easyroutine.interpretability.stored_run import StoredRun
from easyroutine.tokenizer import Tokenizer

IDS = [1, 2, 3, 4]
WIDE = 49
Call = Callable[[HookedModel], Any]


def lens(values: Any, **given: Any) -> Call:
    return lambda m: LogitLens.from_model(m).compute(
        {"resid_out_0": np.zeros(values, np.float32)}, "resid_out_0", apply_norm=False, **given
    )


#: What is called, and what its error says.
OF_A_MODEL: dict[str, tuple[Call, str]] = {
    "half of a pair": (lambda m: m.forward("a\ud800"), "surrogate pair"),
    "no positions": (lambda m: m.forward(IDS, None), "target_token_positions is a list"),  # type: ignore[arg-type]
    "empty positions": (lambda m: m.forward(IDS, []), "target_token_positions is empty"),
    "positions of a set": (lambda m: m.forward(IDS, {1, 2}), "not set"),  # type: ignore[arg-type]
    "positions of bytes": (lambda m: m.forward(IDS, b"last"), "not bytes"),  # type: ignore[arg-type]
    "positions of a mapping": (lambda m: m.forward(IDS, {"a": 1}), "not dict"),  # type: ignore[arg-type]
    "a huge position": (lambda m: m.forward(IDS, [2**80]), "a position of target_token_positions"),
    "NaN in a config": (
        lambda m: m.forward(IDS, extraction_config=ExtractionConfig(extract_embed=float("nan"))),  # type: ignore[arg-type]
        "extraction config",
    ),
    "another cache": (lambda m: m.forward(IDS, external_cache={}), "external_cache is dict"),  # type: ignore[arg-type]
    "a batch by name": (lambda m: m.forward(IDS, batch_idx="x"), "batch_idx is 'x'"),  # type: ignore[arg-type]
    "one number of interventions": (lambda m: m.forward(IDS, interventions=5), "interventions is 5"),  # type: ignore[arg-type]
    "strength": (
        lambda m: m.forward(IDS, interventions=[Intervention.add("resid_out_0", [0.0] * 48, strength="a")]),  # type: ignore[arg-type]
        "strength is 'a'",
    ),
    "apply_softmax": (
        lambda m: m.forward(IDS, interventions=[Intervention("rows", "pattern_L0H0", [0], apply_softmax="x")]),  # type: ignore[arg-type]
        "apply_softmax is 'x'",
    ),
    "the activation of an intervention": (
        lambda m: m.forward(IDS, interventions=[Intervention("full", 5, [0])]),  # type: ignore[arg-type]
        "the activation of an intervention is 5",
    ),
    "a number beyond all floats": (lambda m: m.generate(IDS, do_sample=True, temperature=10**400), "fits a float"),
    "do_sample": (lambda m: m.generate(IDS, do_sample="no"), "do_sample is 'no'"),  # type: ignore[arg-type]
    "stop_strings": (lambda m: m.generate(IDS, stop_strings=5), "stop_strings is 5"),  # type: ignore[arg-type]
    "on_token": (lambda m: m.generate(IDS, on_token=5), "on_token is 5"),  # type: ignore[arg-type]
    "a hook": (lambda m: m.register_forward_hook("resid_out_0", 5), "hook_function is 5"),  # type: ignore[arg-type]
    "a hook's place": (lambda m: m.register_forward_hook(5, print), "component is 5"),  # type: ignore[arg-type]
    "hooks to remove": (lambda m: m.remove_hooks(5), "hook_handlers is 5"),  # type: ignore[arg-type]
    "layers of a lens": (lambda m: m.lens(IDS, layers=5.5), "layers is 5.5"),  # type: ignore[arg-type]
    "no layers of a lens": (lambda m: m.lens(IDS, layers=[]), "layers is empty"),
    "component of a lens": (lambda m: m.lens(IDS, component=5), "component is 5"),  # type: ignore[arg-type]
    "width of a table": (lambda m: m.lens(IDS).table(width=-1), "width is -1"),
    "a report": (lambda m: LensResult.from_json(5), "text is 5"),  # type: ignore[arg-type]
    "layer of attention": (lambda m: m.attention(IDS, layer=True), "layer is True"),
    "layers of attention": (lambda m: m.attention(IDS, layer=[0, 1]), "layer is"),  # type: ignore[arg-type]
    "a wide row of a lens": (lens((1, 2, WIDE)), r"shape \[2, 49\]; this lens reads \[T, 48\]"),
    "one axis of a lens": (lens((48,)), "this lens reads"),
    "no rows of a lens": (lens((0, 2, 48)), "has no rows"),
    "no cache of a lens": (lambda m: LogitLens.from_model(m).compute(5, "a"), "activations is int"),  # type: ignore[arg-type]
    "a key of a lens": (lambda m: LogitLens.from_model(m).compute({}, 5), "target_key is 5"),  # type: ignore[arg-type]
    "no data set": (lambda m: m.extract_cache(5), "the data set is 5"),  # type: ignore[arg-type]
    "ids called text": (lambda m: m.extract_cache([{"text": [1, 2]}]), r"'text' of a batch is \[1, 2\]"),
    "a text called messages": (lambda m: m.extract_cache([{"messages": "hi"}]), "'messages' of a batch is 'hi'"),
    "batch_saver": (lambda m: m.extract_cache(["a"], batch_saver=5), "batch_saver is 5"),  # type: ignore[arg-type]
    "what batch_saver returns": (lambda m: m.extract_cache(["a"], batch_saver=lambda o: 5), "batch_saver returns"),  # type: ignore[arg-type,return-value]
    "an aggregation": (lambda m: m.extract_cache(["a"], register_aggregation=5), "register_aggregation is 5"),  # type: ignore[arg-type]
    "a saver": (lambda m: m.extract_to_store(5, ["a"]), "saver is 5"),  # type: ignore[arg-type]
    "along": (lambda m: m.sweep(IDS, along=5), "along is 5"),  # type: ignore[arg-type]
    "sites": (lambda m: m.sweep(IDS, site=5), "site is 5"),  # type: ignore[arg-type]
    "on_progress": (lambda m: m.sweep(IDS, on_progress=5), "on_progress is 5"),  # type: ignore[arg-type]
    "a patching query": (lambda m: m.compute_patching(["last"], [IDS], [IDS], 5), "patching_query is 5"),  # type: ignore[arg-type]
    "labels": (
        lambda m: m.compute_patching(["last"], [IDS], [IDS], {"activation_type": "resid_in_0"}, 5, [1]),  # type: ignore[arg-type]
        "base_dictonary_idxs is 5",
    ),
    "a cache of a number": (lambda m: ActivationCache(5), "made of a dictionary"),  # type: ignore[arg-type]
    "cat": (lambda m: ActivationCache({"a": 1}).cat(5), "external_cache is int"),  # type: ignore[arg-type]
    "a text of a number": (lambda m: m.get_tokenizer()(5), "text is 5"),
    "max_length": (lambda m: m.get_tokenizer()("a", truncation=True, max_length=2.5), "max_length is 2.5"),
    "a huge id": (lambda m: m.get_tokenizer().decode([2**70]), "not a token id"),
    "sequences": (lambda m: m.get_tokenizer().batch_decode(5), "sequences is 5"),
    "tokens": (lambda m: m.get_tokenizer().convert_tokens_to_ids(5), "tokens is 5"),
    "a conversation": (lambda m: m.get_tokenizer().apply_chat_template("hi"), "conversation is 'hi'"),
    "nothing to pad": (lambda m: m.get_tokenizer().pad({"x": 1}), "no 'input_ids'; it has 'x'"),
}


@pytest.mark.parametrize("name", OF_A_MODEL)
def test_what_does_not_fit_names_its_argument(llama: HookedModel, name: str) -> None:
    call, says = OF_A_MODEL[name]
    with pytest.raises(EasyroutineError, match=says):
        call(llama)


@pytest.mark.parametrize(
    "given",
    [
        {"model_name": 5},
        {"model_name": None},
        {"model_name": "\ud800"},
        {"revision": 5},
        {"pre": 5},
        {"pre": "qwen2"},
        {"offline": "x"},
        {"allow_config_keys": [5]},
        {"adapter": 5},
    ],
    ids=str,
)
def test_what_opens_no_model_names_its_argument(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(EasyroutineError, match=name):
        HookedModel.from_pretrained(**{"model_name": TINY / "llama", **given})


def test_a_rule_for_gguf_files_is_not_for_folders() -> None:
    with pytest.raises(EasyroutineError, match="pre='qwen2' is for GGUF files"):
        Tokenizer.from_pretrained(TINY / "llama", pre="qwen2")


@pytest.fixture
def found(llama: HookedModel, saver: ActivationSaver) -> QueryResult:
    saver.save(llama.forward(IDS), llama, ["all"], [], ExtractionConfig())
    return ActivationLoader.from_saver(saver).query()


OF_A_STORE: dict[str, tuple[Callable[[ActivationSaver, QueryResult, HookedModel], Any], str]] = {
    "base_dir": (lambda s, q, m: ActivationSaver(5), "base_dir is 5"),  # type: ignore[arg-type]
    "experiment_name": (lambda s, q, m: ActivationSaver(s.base_dir, 5), "experiment_name is 5"),  # type: ignore[arg-type]
    "model": (lambda s, q, m: s.save({}, 5, None, None, {}), "model is 5"),  # type: ignore[arg-type]
    "extraction_config": (lambda s, q, m: s.save({}, m, None, None, 5), "extraction_config is 5"),  # type: ignore[arg-type]
    "other_metadata": (lambda s, q, m: s.save({}, m, None, None, {}, 5), "other_metadata is 5"),  # type: ignore[arg-type]
    "tag": (lambda s, q, m: s.save({}, m, None, None, {}, None, 5), "tag is 5"),  # type: ignore[arg-type]
    "a key": (lambda s, q, m: s.save({"\ud800": 1}, m, None, None, {}), "a key of what is saved"),
    "where": (lambda s, q, m: ActivationLoader.from_saver(s).query(where=5), "where is 5"),  # type: ignore[arg-type]
    "custom_keys": (lambda s, q, m: ActivationLoader.from_saver(s).query(custom_keys=5), "custom_keys is 5"),  # type: ignore[arg-type]
    "positions": (lambda s, q, m: ActivationLoader.from_saver(s).query(target_token_positions=5.5), "not float"),
    "a place": (lambda s, q, m: q["a"], "a place is 'a'"),  # type: ignore[call-overload]
    "an example": (lambda s, q, m: q.open().rows("logits", 1.5, 2), "an example is 1.5"),  # type: ignore[arg-type]
    "a huge example": (lambda s, q, m: q.open().rows("logits", 0, 2**70), "an example is"),
    "keys": (lambda s, q, m: q.open().load(5), "keys is 5"),  # type: ignore[arg-type]
    "run": (lambda s, q, m: m.extract_to_store(s, ["a"], run=5), "run is 5"),  # type: ignore[arg-type]
    "resume": (lambda s, q, m: m.extract_to_store(s, ["a"], run="a", resume="x"), "resume is 'x'"),  # type: ignore[arg-type]
    "keep_fields": (lambda s, q, m: m.extract_to_store(s, ["a"], keep_fields=5), "keep_fields is 5"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", OF_A_STORE)
def test_what_does_not_fit_a_store_names_its_argument(
    llama: HookedModel, saver: ActivationSaver, found: QueryResult, name: str
) -> None:
    call, says = OF_A_STORE[name]
    with pytest.raises(EasyroutineError, match=says):
        call(saver, found, llama)


def test_a_stored_run_is_pickled(found: QueryResult) -> None:
    run = found.open()
    again: StoredRun = pickle.loads(pickle.dumps(run))
    assert again.path == run.path and again["logits"].tolist() == run["logits"].tolist()


def test_a_file_that_cannot_be_written_names_its_path(llama: HookedModel, tmp_path: Path) -> None:
    for write in (llama.lens(IDS).to_html, llama.lens(IDS).to_png):
        with pytest.raises(StorageError, match="nowhere"):
            write(tmp_path / "nowhere" / "file")
        with pytest.raises(EasyroutineError, match=r"path is 5\.5"):
            write(5.5)
