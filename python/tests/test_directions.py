"""Probes and steering vectors against the references of the fixtures, from a cache, a store and a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY
from test_dictionary import near, tensors_of

from easyroutine import Tensor, tensors
from easyroutine.errors import EasyroutineError
from easyroutine.interpretability import ActivationLoader, ActivationSaver, Directions, ExtractionConfig, HookedModel

CASES = ROOT / "fixtures/directions"
EVERY_LAYER = ExtractionConfig(extract_resid_out=True, save_logits=False)


@pytest.fixture(autouse=True)
def own_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_chosen", "easyroutine")


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return HookedModel.from_pretrained(str(TINY / "gpt2"))


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CASES / name).read_text("utf-8").splitlines()]


def activations(model: HookedModel, ids: list[list[int]]) -> Any:
    return model.forward(ids, ["last"], extraction_config=EVERY_LAYER)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("logistic", {}),
        ("logistic_weak", {"c": 0.01}),
        ("logistic_standardised", {"c": 0.1, "standardise": True}),
        ("mean_difference", {"method": "mean_difference"}),
    ],
)
def test_probes_are_those_of_scikit_learn(model: HookedModel, name: str, options: dict[str, Any]) -> None:
    rows = lines("probes/prompts.jsonl")
    expect = json.loads((CASES / "probes/expect.json").read_text("utf-8"))
    reference = tensors_of(CASES / "probes/reference.safetensors")
    found = activations(model, [row["ids"] for row in rows])
    probe = Directions.probe(
        found, [row["label"] for row in rows], held_out=[row["split"] == "test" for row in rows], **options
    )
    assert probe.site == "resid_out" and sorted(probe.vectors) == [0, 1, 2] == sorted(probe.biases)
    for layer in range(3):
        accuracy = probe.accuracy[f"resid_out_{layer}"]
        assert accuracy["fitted"] == pytest.approx(expect[f"{name}.{layer}"]["accuracy_train"])
        assert accuracy["held_out"] == pytest.approx(expect[f"{name}.{layer}"]["accuracy_test"])
        if name in ("logistic", "logistic_weak"):
            near(probe.vectors[layer], reference[f"{name}.{layer}.weight"], 1e-4)
    assert "resid_out_2" in probe.to_svg() and probe.to_png().startswith(b"\x89PNG")
    scores = probe.scores(found["resid_out_1"], 1)
    assert scores.shape == (100, 1)


def test_a_steering_vector_steers_from_memory_and_from_its_files(model: HookedModel, tmp_path: Path) -> None:
    pairs = lines("steering/pairs.jsonl")
    expect = json.loads((CASES / "steering/expect.json").read_text("utf-8"))
    reference = tensors_of(CASES / "steering/reference.safetensors")
    positive, negative = (
        activations(model, [row[f"{side}_ids"] for row in pairs]) for side in ("positive", "negative")
    )
    for method in ("caa", "pca_diff", "pca_center"):
        made = Directions.steering(positive, negative, method=method)  # type: ignore[arg-type]
        for layer in range(3):
            near(made.vectors[layer], reference[f"{method}.{layer}"], 1e-4)
    keys = ["resid_out_1", "resid_out_2"]
    made = Directions.steering(positive, negative, keys=keys)
    made.save(tmp_path / "v.safetensors")
    made.save(tmp_path / "v.gguf", model_hint="gpt2")
    ids = model.generate("the capital of France is", max_new_tokens=8, interventions=[made.steer(1, -4.0)])
    for name in ("v.safetensors", "v.gguf"):
        read = Directions.load(tmp_path / name)
        near(read.vectors[1], made.vectors[1], 0)
        again = model.generate("the capital of France is", max_new_tokens=8, interventions=[read.steer(1, -4.0)])
        assert again == ids
    assert expect["generations"]


def test_a_saved_run_is_fitted_like_the_cache_it_was(model: HookedModel, tmp_path: Path) -> None:
    rows = lines("probes/prompts.jsonl")
    ids, labels = [row["ids"] for row in rows], [row["label"] for row in rows]
    saver = ActivationSaver(tmp_path)
    model.extract_to_store(saver, [{"input_ids": one} for one in ids], ["last"], EVERY_LAYER)
    run = ActivationLoader.from_saver(saver).query().open(-1)
    stored, cached = Directions.probe(run, labels), Directions.probe(activations(model, ids), labels)
    for layer in range(3):
        near(stored.vectors[layer], cached.vectors[layer], 1e-6)
    assert stored.accuracy == cached.accuracy


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: Directions.probe(x, [1, 1, 1, 1]), "1 values; two are expected"),
        (lambda x: Directions.probe(x, [1, 0, 1]), "3 vectors, one a label"),
        (lambda x: Directions.probe(x, [0, 1, 0, 1], held_out=[True]), "held_out has 1 rows"),
        (lambda x: Directions.probe(x, [0, 1, 0, 1], method="svm"), "svm"),  # type: ignore[arg-type]
        (lambda x: Directions.probe(x, [0, 1, 0, 1], keys=["mlp_out_1"]), "mlp_out_1"),
        (lambda x: Directions.probe([1, 2], [0, 1]), "a mapping is expected"),  # type: ignore[arg-type]
        (lambda x: Directions.steering(x, x), "resid_out_3"),
        (lambda x: Directions.probe(x, [0, 1, 0, 1], c=-1.0), "C is -1"),
        (lambda x: Directions.load("v.pt"), ".safetensors or .gguf"),
        (lambda x: Directions.probe(x, [0, 1, 0, 1]).save("p.gguf"), "bias"),
        (lambda x: Directions.probe(x, [0, 1, 0, 1]).steer(9), "no direction of layer 9"),
        (lambda x: Directions.probe(x, [0, 1, 0, 1]).scores([[1.0, 2.0]], 3), "vectors of 3"),
    ],
)
def test_what_no_direction_can_be_made_of_is_refused_in_words_of_python(make: Any, words: str) -> None:
    rows = [[0.5, 1.0, -2.0], [1.5, -1.0, 0.0], [0.25, 3.0, 1.0], [4.0, 0.0, 0.5]]
    with pytest.raises(EasyroutineError) as error:
        make({"resid_out_3": rows, "other": 1})
    assert words in str(error.value) and "--" not in str(error.value)


def test_arrays_of_any_kind_are_vectors() -> None:
    flat = Tensor.from_bytes(bytes(48), [4, 3], "float32")
    with pytest.raises(EasyroutineError, match="same mean"):
        Directions.probe({"resid_out_0": flat}, ["a", "b", "a", "b"], method="mean_difference")
