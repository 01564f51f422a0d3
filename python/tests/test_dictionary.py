"""Dictionaries from Python, against the references of the fixtures."""

from __future__ import annotations

import json
import struct
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY

from easyroutine import Tensor, tensors
from easyroutine.errors import EasyroutineError, InputError, KeyNotFoundError
from easyroutine.interpretability import ActivationLoader, ActivationSaver, Dictionary, HookedModel

CASES = ROOT / "fixtures/dictionaries"


@pytest.fixture(autouse=True)
def own_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_chosen", "easyroutine")


def reference(case: str) -> dict[str, Tensor]:
    return tensors_of(CASES / case / "reference.safetensors")


def tensors_of(file: Path) -> dict[str, Tensor]:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = (8 + length + at for at in entry["data_offsets"])
            found[name] = Tensor.from_bytes(data[start:end], entry["shape"], "float32")
    return found


def flat(value: Any) -> list[float]:
    return [x for one in value for x in flat(one)] if isinstance(value, list) else [value]


def near(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    ours, theirs = flat(found.tolist()), flat(expected.tolist())
    assert len(ours) == len(theirs)
    largest = max(abs(x) for x in theirs)
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= tolerance * largest


def opened(case: str) -> Dictionary:
    expect = json.loads((CASES / case / "expect.json").read_text("utf-8"))
    factor = expect.get("norm_factor") if expect["format"] == "saelens" else None
    return Dictionary(CASES / case, norm_factor=factor)


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir() if path.is_dir()))
def test_features_and_reconstructions_are_those_of_the_references(case: str) -> None:
    # These two stand for checkpoints whose own code chooses features by another rule than sae-lens.
    differs = case.startswith("llama_scope")
    with pytest.warns(UserWarning, match="length of their decoder row") if differs else nullcontext():
        dictionary = opened(case)
    expected = reference(case)
    dictionary.check()
    if not dictionary.is_set:
        features = dictionary.encode(expected["x"])
        near(features, expected["features"])
        near(dictionary.decode(features, expected["x"]), expected["reconstruction"])
        return
    features = []
    for layer in range(len(dictionary.layers)):
        features.append(dictionary.encode(expected["x"][layer], layer))
        near(features[-1], expected["features"][layer])
        given = features if "clt" in case and layer > 0 else features[-1]
        near(dictionary.decode(given, expected["x"][layer], layer), expected["reconstruction"][layer])


def test_a_dictionary_says_what_it_is_and_where_it_stands() -> None:
    dictionary = opened("gemma_scope_2_clt")
    assert dictionary.certificate["format"] == "gemma_scope_2_clt"
    assert dictionary.layers == [0, 1, 2, 3]
    model = HookedModel.from_pretrained(str(TINY / "gemma3_text"))
    with pytest.warns(UserWarning, match="trained on `google/gemma-3-tiny`"):
        assert dictionary.fit(model)[2] == ("mlp_in_2", "mlp_out_2")
    assert "gemma_scope_2_clt" in repr(dictionary)
    assert dictionary.direction(3, 0, target=2).shape == (48,)


@pytest.mark.parametrize(
    ("open_it", "words"),
    [
        (lambda: Dictionary(CASES / "saelens_expected_average"), "norm_factor"),
        (lambda: Dictionary(CASES), "dictionaries"),
        (lambda: Dictionary(CASES / "nowhere"), "nowhere"),
        (lambda: opened("gemma_scope_2_clt").encode(Tensor.from_bytes(bytes(192), [48], "float32")), "name one"),
        (lambda: opened("saelens_standard").encode(Tensor.from_bytes(bytes(188), [47], "float32")), "48"),
        (lambda: opened("saelens_standard").direction(64), "no feature 64"),
        (lambda: opened("saelens_standard").ablate(64), "no feature 64"),
        (lambda: opened("gemma_scope_2_clt").ablate(1), "name one"),
        (lambda: opened("saelens_standard").encode(Tensor.from_bytes(bytes(192), [48], "float32"), layer=5), "layer 5"),
    ],
)
def test_what_is_wrong_is_named_in_words_of_python(open_it: Any, words: str) -> None:
    with pytest.raises(EasyroutineError) as error:
        open_it()
    assert words in str(error.value) and "--" not in str(error.value)


@pytest.fixture(scope="module")
def gpt2() -> HookedModel:
    return HookedModel.from_pretrained(str(TINY / "gpt2"))


def ids_of(case: str) -> list[list[int]]:
    data = (CASES / case / "reference.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entry = json.loads(data[8 : 8 + length])["input_ids"]
    start, end = (8 + length + at for at in entry["data_offsets"])
    width = 8 if entry["dtype"] == "I64" else 4
    numbers = struct.unpack(f"<{(end - start) // width}{'q' if width == 8 else 'i'}", data[start:end])
    columns = entry["shape"][1]
    return [list(numbers[at : at + columns]) for at in range(0, len(numbers), columns)]


@pytest.mark.parametrize("case", ["saelens_standard", "sparsify_skip_transcoder", "circuit_tracer_plt"])
def test_spliced_ablated_clamped_and_steered_runs_have_the_logits_of_the_references(case: str) -> None:
    expect = json.loads((CASES / case / "expect.json").read_text("utf-8"))
    model = HookedModel.from_pretrained(str(TINY / expect["model"]))
    dictionary, expected, ids = opened(case), reference(case), ids_of(case)

    def logits(*changes: Any) -> Any:
        return model.forward(ids, "last", interventions=list(changes))["logits"]

    plain = logits()
    near(logits(dictionary.splice()), expected["logits.spliced"])
    assert flat(logits(dictionary.splice(keep_error=True)).tolist()) == flat(plain.tolist())
    if dictionary.is_set:
        return
    near(logits(dictionary.ablate(expect["ablated"])), expected["logits.ablated"])
    near(logits(dictionary.clamp(expect["steered"], expect["clamp_value"])), expected["logits.clamped"])
    near(logits(dictionary.steer(expect["steered"], expect["steer_strength"])), expected["logits.steered"])
    assert logits(dictionary.scale(expect["ablated"], 0.0)) == logits(dictionary.ablate(expect["ablated"]))


def test_features_of_a_run_are_those_that_its_activations_encode_to(gpt2: HookedModel) -> None:
    dictionary, expected, ids = opened("saelens_standard"), reference("saelens_standard"), ids_of("saelens_standard")
    found = dictionary.features(gpt2, ids)
    assert found.shape == (2, 10, 64) and tuple(found.indices.shape) == (len(found.values), 3)
    near(found.dense(), expected["features"])
    last = dictionary.features(gpt2, ids, "last")
    assert last.of_token(1, 0) == found.of_token(1, 9)
    changed = dictionary.features(gpt2, ids, interventions=[dictionary.ablate(last.of_token(1, 0)[0][0])])
    assert changed.shape == found.shape


def test_features_in_a_store_are_those_of_a_run(gpt2: HookedModel, tmp_path: Path) -> None:
    dictionary, ids = opened("saelens_standard"), ids_of("saelens_standard")
    rows = [ids[0], ids[1][:6], ids[1]]
    saver = ActivationSaver(tmp_path, "features")
    with pytest.raises(InputError, match="must be a Dictionary"):
        gpt2.extract_to_store(saver, rows, dictionaries={"sae": "a path"})
    with pytest.raises(InputError, match="workers do not open dictionaries"):
        gpt2.extract_to_store(saver, rows, dictionaries={"sae": dictionary}, engine="ray")
    kept = {"extraction_config": {"extract_resid_out": True}, "dictionaries": {"sae": dictionary}}
    gpt2.extract_to_store(saver, rows, run="first", **kept)
    run = ActivationLoader(tmp_path, "features").query().open(-1)
    found, expected = run.features("features_sae"), dictionary.features(gpt2, rows)
    assert found.indices.tolist() == expected.indices.tolist()
    assert found.values.tolist() == expected.values.tolist()
    assert found.shape == (3, 10, 64)
    assert run.metadata["extraction_config"]["dictionaries"]["sae"]["architecture"] == "standard"
    with pytest.raises(KeyNotFoundError, match="it has 'features_sae'"):
        run.features("features_other")
    other = {**kept, "dictionaries": {"sae": opened("saelens_v5_standard")}}
    with pytest.raises(EasyroutineError):
        gpt2.extract_to_store(saver, rows, run="first", resume=True, **other)


@pytest.mark.parametrize("case", ["saelens_standard", "sparsify_skip_transcoder", "circuit_tracer_clt"])
def test_what_is_attributed_to_a_feature_is_how_the_metric_changes_with_it(case: str) -> None:
    expect = json.loads((CASES / case / "expect.json").read_text("utf-8"))
    model = HookedModel.from_pretrained(str(TINY / expect["model"]))
    dictionary, (ids, *_) = opened(case), ids_of(case)
    layer = 1 if dictionary.is_set else None
    found = dictionary.attribution(model, [ids], "logit_diff", answer=3, against=5, layer=layer)
    features = dictionary.features(model, [ids], layer=layer)
    assert found.indices.tolist() == features.indices.tolist() and found.shape == features.shape

    def metric(*changes: Any) -> float:
        logits = model.forward([ids], "last", interventions=list(changes))["logits"].tolist()[0][0]
        return float(logits[3] - logits[5])

    largest = sorted(range(len(found.values)), key=lambda at: -abs(found.values.tolist()[at]))[:3]
    for at in largest:
        _, position, feature = found.indices.tolist()[at]
        up, down = (
            metric(dictionary.scale(feature, 1 + step, token_positions=[position], layer=layer))
            for step in (0.02, -0.02)
        )
        slope = (up - down) / 0.04
        assert found.values.tolist()[at] == pytest.approx(slope, rel=0.03, abs=2e-3)


def test_a_dictionary_is_measured_as_its_references_say(gpt2: HookedModel) -> None:
    case = "saelens_standard"
    stats = json.loads((CASES / case / "expect.json").read_text("utf-8"))["stats"]
    found = opened(case).measure(gpt2, ids_of(case), "all")
    for ours in ("ce_clean", "ce_spliced", "ce_zero", "ce_recovered"):
        assert found[ours] == pytest.approx(stats[ours], rel=1e-4)
    assert found["measured_tokens"] == 20


def test_changes_of_features_run_wherever_interventions_do(gpt2: HookedModel) -> None:
    dictionary = opened("saelens_standard")
    change, words = dictionary.steer(7, 60.0), "the cat sat"
    plain, steered = (gpt2.generate(words, max_new_tokens=4, interventions=each) for each in (None, [change]))
    assert plain != steered
    assert "features_saelens-standard:7@all+60" in gpt2.lens(words, interventions=[change]).to_json()
    cache = gpt2.extract_cache([words, "the dog"], interventions=[change])
    assert cache["metadata"]["interventions"][0]["feature"] == 7
    gpt2.register_interventions(change)
    registered = gpt2.generate(words, max_new_tokens=4)
    gpt2.clean_interventions()
    assert registered == steered
    with pytest.raises(EasyroutineError, match="RelP says nothing of features"):
        gpt2.gradients(words, ["resid_out_1"], "logit", answer=3, rule="relp", interventions=[change])


def test_paths_of_any_kind_are_taken() -> None:
    assert Dictionary.open(CASES / "saelens_standard").layers == [1]
    assert Dictionary(str(CASES / "saelens_standard")).layers == [1]
    assert Dictionary(Path(CASES / "saelens_standard/sae_weights.safetensors")).layers == [1]


def test_a_feature_takes_the_values_of_another_prompt_and_gradients_pass_through(gpt2: HookedModel) -> None:
    model, dictionary = gpt2, opened("saelens_standard")
    base, prompt = [3, 5, 7], [4, 6, 7]
    found = dictionary.features(model, [base])
    feature, _ = found.of_token(0, 2)[0]
    changed = dictionary.features(model, [prompt], interventions=dictionary.patch(found, feature))
    plain = dictionary.features(model, [prompt])
    assert [len(one.values.tolist()) > 0 for one in (changed, plain)] == [True, True]
    keep = dictionary.splice(keep_error=True)
    gradients = [
        model.gradients([prompt], ["input_embeddings"], "logit", answer=9, interventions=changes)
        for changes in ([], [keep], [dictionary.splice()])
    ]
    first, kept, spliced = (flat(one["input_embeddings_gradients"].tolist()) for one in gradients)
    assert first == kept
    assert first != spliced
    with pytest.raises(EasyroutineError, match="position 9"):
        dictionary.patch(found, feature, positions=[9])


def test_features_are_swept_one_after_another_each_a_run_with_that_change(gpt2: HookedModel) -> None:
    dictionary = opened("saelens_standard")
    row = ids_of("saelens_standard")[0]
    named = {"answer": 7, "against": 90, "metric": "logit_diff", "dictionaries": {"sae": dictionary}}
    grid = gpt2.sweep([row], along="features", top=3, **named)
    assert (len(grid.features), grid.columns) == (3, ["all positions"])

    def after(changes: Any) -> float:
        logits = flat(gpt2.forward([row], "last", interventions=changes)["logits"].tolist())
        return logits[7] - logits[90]

    for feature, (value,) in zip(grid.features, grid.values, strict=True):
        assert value == pytest.approx(after([dictionary.ablate(feature)]), abs=1e-5)
    base = list(reversed(row))
    found = dictionary.features(gpt2, [base])
    patched = gpt2.sweep([row], by="patch", base=[base], features=[grid.features[0], 5], positions=[1, -1], **named)
    assert patched.columns == ["position 1", f"position {len(row) - 1}"]
    change = dictionary.patch(found, grid.features[0], positions=[1])
    assert patched.values[0][0] == pytest.approx(after(change), abs=1e-5)
    assert "features_sae:5" in patched.table() and "features_sae:5" in patched.to_svg()
    assert repr(patched) == "PatchingGrid(logit_diff, 2 features by 2 columns)"
    for options, words in (
        ({"features": [64]}, "no feature 64"),
        ({"features": [1], "top": 2}, "give one of them"),
        ({"along": "heads"}, "positions or features"),
        ({"layers": [0]}, 'site="features_NAME_3"'),
        ({"estimate": True}, "attribution"),
        ({"site": "features_sea"}, "features_sae"),
        ({"metric": "kl", "answer": None, "against": None}, "features are not scored by"),
    ):
        with pytest.raises(EasyroutineError, match=words):
            gpt2.sweep([row], **{**named, **options})
    with pytest.raises(EasyroutineError, match="dictionaries="):
        gpt2.sweep([row], features=[1])
