"""The logit lens, and the lens of a prompt."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import PROMPT, ROOT, TINY, largest_difference, reference

from easyroutine import Tensor
from easyroutine.interpretability import (
    ActivationLoader,
    ActivationSaver,
    ExtractionConfig,
    HookedModel,
    Intervention,
    LensResult,
)
from easyroutine.interpretability.tools import LogitLens

pytestmark = pytest.mark.usefixtures("own_tensors")

CONFIG = ExtractionConfig(
    extract_resid_out=True,
    extract_embed=True,
    extract_attn_out=True,
    extract_mlp_out=True,
    extract_head_out=True,
    extract_last_layernorm=True,
)


def cache_of(model: HookedModel, positions: Any = ("all",)) -> Any:
    return model.forward(PROMPT, target_token_positions=positions, extraction_config=CONFIG)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "granite", "phi"])
@pytest.mark.parametrize("norm", ["cached", "own"])
def test_of_the_final_layer_it_gives_the_models_logits(family: str, norm: Any) -> None:
    model = HookedModel.from_pretrained(TINY / family)
    cache, last = cache_of(model), model.model_config.num_hidden_layers - 1
    found = LogitLens.from_model(model).compute(cache, f"resid_out_{last}", norm=norm)
    assert list(found) == [f"logit_lens_resid_out_{last}"]
    values = found[f"logit_lens_resid_out_{last}"]
    assert largest_difference(values.tolist(), cache["logits"].tolist()) < 1e-4


def test_keys_of_a_pattern_come_in_numerical_order(llama: HookedModel) -> None:
    lens, cache = LogitLens.from_model(llama), cache_of(llama)
    assert list(lens.compute(cache, "resid_out_{i}")) == [f"logit_lens_resid_out_{i}" for i in range(3)]
    heads = list(lens.compute(cache, "head_out_L{i}H{j}"))
    assert heads[0] == "logit_lens_head_out_L0H0" and heads[-1] == "logit_lens_head_out_L2H3" and len(heads) == 12
    mixed = dict.fromkeys(["x_10", "x_9", "x_1", "y_1", "x_1b"])
    assert lens.get_keys(mixed, "x_{i}") == ["x_1", "x_9", "x_10"]


def test_probabilities_sum_to_one(llama: HookedModel) -> None:
    lens = LogitLens.from_model(llama)
    found = lens.compute(cache_of(llama, ["last"]), "resid_out_1", apply_softmax=True)["logit_lens_resid_out_1"]
    assert sum(found[0, 0].tolist()) == pytest.approx(1, abs=1e-5)


def test_directions_are_ids_strings_and_pairs(llama: HookedModel) -> None:
    lens, cache = LogitLens.from_model(llama), cache_of(llama, ["last", 0])
    logits = lens.compute(cache, "resid_out_0")["logit_lens_resid_out_0"].tolist()[0]

    def along(directions: Any, **options: Any) -> Any:
        return lens.compute(cache, "resid_out_0", directions, **options)["logit_lens_resid_out_0"]

    assert along([260]).tolist()[0] == pytest.approx([row[260] for row in logits], abs=1e-5)
    difference = [row[260] - row[261] for row in logits]
    for directions in ([(260, 261)], (260, 261)):
        assert along(directions).tolist()[0] == pytest.approx(difference, abs=1e-5)
    text = llama.get_tokenizer().decode([70]), llama.get_tokenizer().decode([71])
    ids = tuple(llama.get_tokenizer().to_single_token(one) for one in text)
    assert along([text]) == along([ids])
    share = along([(260, 261)], metric="accuracy")
    assert share.tolist() == [float(x > 0) for x in difference]
    last = lens.compute(cache_of(llama, ["last"]), "resid_out_0", [(260, 261)], metric="accuracy")
    assert last["logit_lens_resid_out_0"].shape == () and float(last["logit_lens_resid_out_0"]) in (0, 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("resid_out_9",), "no 'resid_out_9'; they have"),
        (("resid_outt_{i}",), "no 'resid_outt_{i}'"),
        (("resid_out_0", [320]), "beyond the vocabulary"),
        (("resid_out_0", [71, 72]), "2 directions for 1 rows"),
        (("resid_out_0", [(1, 2, 3)]), "a pair of tokens"),
        (("resid_out_0", [-1]), "is not a token"),
        (("resid_out_0", ["two words"]), "is not one token"),
        (("resid_out_0", [71], True, False, "accuracy"), "needs pairs"),
        (("resid_out_0", None, True, False, "nothing"), "metric is"),
        (("logits",), "no lens reads it"),
    ],
)
def test_what_no_lens_reads_is_an_error(llama: HookedModel, arguments: Any, says: str) -> None:
    with pytest.raises((ValueError, KeyError), match=says):
        LogitLens.from_model(llama).compute(cache_of(llama), *arguments)


def test_the_cached_norm_needs_its_statistics(llama: HookedModel) -> None:
    lens = LogitLens.from_model(llama)
    cache = llama.forward(PROMPT, extraction_config=ExtractionConfig(extract_resid_out=True))
    with pytest.raises(ValueError, match="last_layernorm"):
        lens.compute(cache, "resid_out_0")
    lens.compute(cache, "resid_out_0", [5], apply_norm=False)
    lens.compute(cache, "resid_out_0", norm="own")
    averaged = llama.forward(
        PROMPT, extraction_config=ExtractionConfig(extract_resid_out=True, extract_last_layernorm=True, avg=True)
    )
    with pytest.raises(ValueError, match="no cached norm"):
        lens.compute(averaged, "resid_out_0")


def test_equal_and_special_directions_warn(llama: HookedModel) -> None:
    lens, cache = LogitLens.from_model(llama), cache_of(llama, ["last"])
    with pytest.warns(UserWarning, match="to_single_token"):
        lens.compute(cache, "resid_out_0", [(5, 5)])
    special = llama.get_tokenizer().all_special_ids[0]
    with pytest.warns(UserWarning, match="special token"):
        lens.compute(cache, "resid_out_0", [(special, 70)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lens.compute(cache, "resid_out_0", [(70, 71)])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "granite", "phi"])
def test_a_lens_of_a_models_parts_is_the_models_lens(family: str) -> None:
    model = HookedModel.from_pretrained(TINY / family)
    cache = cache_of(model)
    expected = LogitLens.from_model(model).compute(cache, "resid_out_1")["logit_lens_resid_out_1"]
    config = model.model_config
    own = LogitLens(model.get_lm_head(), model.get_last_layernorm(), model.name, config)
    by_name = LogitLens.from_model_name(str(TINY / family))
    for lens in (own, by_name, copy.deepcopy(own), pickle.loads(pickle.dumps(by_name))):
        assert lens.compute(cache, "resid_out_1")["logit_lens_resid_out_1"] == expected
        assert lens.get_vocab_size() == config.vocab_size and lens.to("cpu") is lens and lens.device() == "cpu"
    with pytest.raises(ValueError, match="needs 48|needs 64|needs"):
        LogitLens([[1.0, 2.0]], model.get_last_layernorm(), "x", None)
    with pytest.raises(ValueError, match=r"\[V, D\]"):
        LogitLens([1.0, 2.0], None, "x", None)


def translator(file: Path, layer: int) -> tuple[list[tuple[float, ...]], tuple[float, ...]]:
    """W and b of a layer, by their places in the archive that torch.save wrote."""
    with zipfile.ZipFile(file) as archive:
        weight, bias = (archive.read(f"params/data/{2 * layer + part}") for part in (0, 1))
    return list(struct.iter_unpack("<48f", weight)), struct.unpack("<48f", bias)


def test_a_tuned_lens_reads_each_stream_through_its_translator(llama: HookedModel) -> None:
    folder = ROOT / "fixtures" / "torch" / "tuned_lens"
    lens, plain = LogitLens.from_tuned_lens(folder, llama), LogitLens.from_model(llama)
    config = ExtractionConfig(extract_resid_in=True, extract_resid_out=True)
    cache = llama.forward(PROMPT, extraction_config=config)

    def read(lens: LogitLens, key: str, cache: Any = cache) -> Any:
        return lens.compute(cache, key, norm="own")[f"logit_lens_{key}"]

    # h + W h + b, by hand.
    weight, bias = translator(folder / "params.pt", 1)
    rows = cache["resid_in_1"].tolist()[0]
    by_hand = [
        [h[i] + sum(w * x for w, x in zip(weight[i], h, strict=True)) + bias[i] for i in range(48)] for h in rows
    ]
    expected = read(plain, "resid_in_1", {"resid_in_1": [by_hand]}).tolist()
    # Sums of 48 terms of size one, in f32 here and in f64 there.
    assert largest_difference(read(lens, "resid_in_1").tolist(), expected) < 2e-4
    assert largest_difference(read(plain, "resid_in_1").tolist(), expected) > 0.1
    assert read(lens, "resid_out_0") == read(lens, "resid_in_1")
    # What leaves the last layer is what the final norm reads anyway.
    assert read(lens, "resid_out_2") == read(plain, "resid_out_2")
    for other in (copy.deepcopy(lens), pickle.loads(pickle.dumps(lens))):
        assert read(other, "resid_in_1") == read(lens, "resid_in_1")


def test_a_tuned_lens_of_another_model_or_for_another_place_is_refused(llama: HookedModel, tmp_path: Path) -> None:
    folder = ROOT / "fixtures" / "torch" / "tuned_lens"
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        LogitLens.from_tuned_lens(tmp_path, llama)
    config = (folder / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(config.replace('"d_model": 48', '"d_model": 64'), encoding="utf-8")
    with pytest.raises(ValueError, match="a lens fits one model"):
        LogitLens.from_tuned_lens(tmp_path, llama)
    with pytest.raises(ValueError, match="no translator for `mlp_out_0`"):
        LogitLens.from_tuned_lens(folder, llama).compute(cache_of(llama), "mlp_out_0", norm="own")


def test_a_tuned_lens_of_another_model_is_read_with_a_warning(llama: HookedModel, tmp_path: Path) -> None:
    folder = ROOT / "fixtures" / "torch" / "tuned_lens"
    other = HookedModel.from_pretrained(TINY / "llama3")
    with pytest.warns(UserWarning, match="trained on tiny/llama, and this model is llama3"):
        LogitLens.from_tuned_lens(folder, other)
    shutil.copy(folder / "params.pt", tmp_path)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["unembed_hash"] = "d6c5cfc6a94c476eba7fe388c2811e0636ba32d91c5448a1d7b25850faea5bd6"
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    LogitLens.from_tuned_lens(tmp_path, llama)
    with pytest.warns(UserWarning, match="with another unembedding"):
        LogitLens.from_tuned_lens(tmp_path, other)


@pytest.mark.torch
def test_a_lens_takes_modules_of_torch(monkeypatch: pytest.MonkeyPatch, llama: HookedModel, gpt2: HookedModel) -> None:
    import torch

    monkeypatch.setenv("EASYROUTINE_TENSORS", "auto")
    weight, norm = gpt2.get_lm_head().weight, gpt2.get_last_layernorm()
    assert norm is not None
    module = torch.nn.LayerNorm(weight.shape[1], eps=norm.eps)
    with torch.no_grad():
        module.weight.copy_(norm.weight)
        module.bias.copy_(norm.bias)
    cache = cache_of(gpt2)
    expected = LogitLens.from_model(gpt2).compute(cache, "resid_out_1")["logit_lens_resid_out_1"]
    head = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        head.weight.copy_(weight)
    for matrix in (weight, head):
        found = LogitLens(matrix, module, "gpt2", None).compute(cache, "resid_out_1")
        assert torch.equal(found["logit_lens_resid_out_1"], expected)


def test_the_lens_of_a_prompt_is_a_table_and_a_picture(llama: HookedModel, tmp_path: Path) -> None:
    result = llama.lens(PROMPT, k=3, track="a")
    data = result.to_dict()
    assert data["schema"] == "easyroutine.lens/1" and len(data["layers"]) == 4
    records = result.records()
    assert len(records) == 4 * len(data["tokens"]) and {"entropy", "kl_to_final", "top"} <= set(records[0])
    final = [one for one in records if one["layer"] == 2]
    assert all(one["kl_to_final"] < 1e-6 for one in final)
    for metric in ("final", "p", "rank", "entropy", "kl", "tracked"):
        assert result.to_svg(metric=metric).startswith("<svg")
    page = result.to_html(tmp_path / "lens.html")
    assert (tmp_path / "lens.html").read_text(encoding="utf-8") == page and "default-src 'none'" in page
    assert result.to_png(tmp_path / "lens.png", dark=True)[:4] == b"\x89PNG"
    assert "<iframe srcdoc=" in result._repr_html_() and "<noscript><svg" in result._repr_html_()
    assert str(result) == result.table() and "\x1b" not in str(result) and "\x1b" in result.table(colour=True)
    assert result.to_csv().count("\n") > 4 and "|" in result.to_markdown()
    assert json.loads(result.to_json()) == data
    assert LensResult.from_json(result.to_json()).to_dict() == pickle.loads(pickle.dumps(result)).to_dict() == data


def test_the_lens_reads_layers_as_interventions_and_hooks_leave_them(llama: HookedModel) -> None:
    zero = Intervention("full", "resid_in_1", ["all"])
    clean, changed = llama.lens(PROMPT).to_dict(), llama.lens(PROMPT, interventions=zero)
    data = changed.to_dict()

    def top(result: Any, row: int) -> Any:
        # Distances to the final layer change with that layer.
        return [cell["top"] for cell in result["layers"][row]["positions"]]

    # The first row is the embedding.
    assert top(data, 1) == top(clean, 1) and top(data, 2) != top(clean, 2)
    assert data["settings"]["interventions"] == ["resid_in_1@all*0"] and "interventions" not in clean["settings"]
    assert "changed: resid_in_1@all*0" in changed.to_svg() and "changed: resid_in_1@all*0" in str(changed)
    watched = copy.copy(llama)
    watched.register_interventions(zero)

    def ramp(value: Tensor, key: str) -> Tensor:
        numbers = struct.pack(f"{value.numel()}f", *range(value.numel()))
        return Tensor.from_bytes(numbers, value.shape, "float32")

    watched.register_forward_hook("resid_out_2", ramp)
    both = watched.lens(PROMPT).to_dict()
    assert top(both, 2) == top(data, 2) and top(both, 3) != top(data, 3)
    assert both["settings"]["interventions"] == ["resid_in_1@all*0", "a function at resid_out_2"]


def test_the_lens_of_a_prompt_is_that_of_the_cache(llama: HookedModel) -> None:
    result = llama.lens(PROMPT, positions=["last"], layers=[1], norm="own", k=1)
    cache = cache_of(llama, ["last"])
    chances = LogitLens.from_model(llama).compute(cache, "resid_out_1", apply_softmax=True, norm="own")
    most = max(chances["logit_lens_resid_out_1"].tolist()[0][0])
    (record,) = result.records()
    assert 2.718281828459045 ** record["logprob"] == pytest.approx(most, rel=1e-5)


def test_a_lens_of_what_is_not_there_is_an_error(llama: HookedModel) -> None:
    for wrong in (
        {"layers": [3]},
        {"component": "mlp_hidden"},
        {"positions": [99]},
        {"track": "two words"},
        {"norm": "x"},
        {"track": 320},
    ):
        with pytest.raises(ValueError):
            llama.lens(PROMPT, **wrong)
    with pytest.raises(ValueError, match="one prompt at a time"):
        llama.lens(["a", "b"])
    with pytest.raises(ValueError, match="needs a token"):
        llama.lens("a").to_svg(metric="tracked")


def test_a_table_of_pandas(llama: HookedModel) -> None:
    pytest.importorskip("pandas")
    table = llama.lens(PROMPT, positions=["last"]).to_pandas()
    assert list(table["layer"]) == [-1, 0, 1, 2]


def test_the_reference_has_the_same_final_norm() -> None:
    # What the reference computed with transformers, through this package's own statistics.
    model = HookedModel.from_pretrained(TINY / "llama")
    ids = reference("llama", "full.input_ids")
    cache = model.forward(ids, extraction_config=CONFIG)
    found = LogitLens.from_model(model).compute(cache, "resid_out_2")["logit_lens_resid_out_2"]
    assert largest_difference(found.tolist(), reference("llama", "full.logits")) < 1e-4


def test_a_part_of_an_averaged_run_is_known_for_one(llama: HookedModel, tmp_path: Path) -> None:
    config = ExtractionConfig(extract_resid_out=True, extract_last_layernorm=True, avg=True)
    saver = ActivationSaver(tmp_path)
    saver.save(llama.forward(PROMPT, [(0, 2)], extraction_config=config), llama, [(0, 2)], None, config)
    part, _ = ActivationLoader.from_saver(saver).query().load(-1, keys=["resid_out_1", "last_layernorm"])
    with pytest.raises(ValueError, match="no cached norm"):
        LogitLens.from_model(llama).compute(part, "resid_out_1")


@pytest.mark.parametrize("norm", ["own", "cached"])
def test_a_norm_that_is_asked_for_and_not_is_refused(llama: HookedModel, norm: Any) -> None:
    cache = llama.forward(PROMPT, extraction_config=ExtractionConfig(extract_resid_out=True))
    with pytest.raises(ValueError, match="apply_norm=False"):
        LogitLens.from_model(llama).compute(cache, "resid_out_1", apply_norm=False, norm=norm)
