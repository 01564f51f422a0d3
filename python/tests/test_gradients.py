"""Gradients in Python: references of autograd, edits, rows, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, largest_difference

from easyroutine.errors import EasyroutineError
from easyroutine.interpretability import ExtractionConfig, HookedModel, Intervention

IDS = [[5, 90, 17, 200, 31, 8], [44, 3, 121]]


def reference(name: str) -> Any:
    """A tensor of the references of gradients of llama."""
    return tensor_of(TINY / "llama" / "grad.safetensors", name)


def tensor_of(path: Path, name: str) -> Any:
    """A tensor of a file, as nested lists."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8 : 8 + length])[name]
    start, end = (8 + length + at for at in entry["data_offsets"])
    kind, size = ("f", 4) if entry["dtype"] == "F32" else ("q", 8)
    values: Any = list(struct.unpack(f"<{(end - start) // size}{kind}", data[start:end]))
    for width in reversed(entry["shape"][1:]):
        values = [values[at : at + width] for at in range(0, len(values), width)]
    return values


def test_gradients_are_those_of_autograd(llama: HookedModel) -> None:
    inputs = {"input_ids": reference("input_ids"), "attention_mask": reference("attention_mask")}
    pairs = reference("pairs")
    found = llama.gradients(
        inputs,
        ["resid_mid_*", "queries_L1", "input_embeddings"],
        answer=[pair[0] for pair in pairs],
        against=[pair[1] for pair in pairs],
    )
    assert largest_difference(found["metric"].tolist(), reference("logit_diff.value")) < 1e-4
    for key, name in (
        ("resid_mid_1", "resid_mid_1"),
        ("queries_L1", "queries_1"),
        ("input_embeddings", "input_embeddings"),
    ):
        expected = reference(f"logit_diff.{name}")
        most = max(abs(x) for row in expected for vector in row for x in vector)
        for ours, whole, mask in zip(found[f"{key}_gradients"], expected, inputs["attention_mask"], strict=True):
            real = [vector for vector, is_real in zip(whole, mask, strict=True) if is_real]
            assert largest_difference(ours.tolist(), real) < 1e-4 * most


def test_a_row_has_its_own_gradient_and_named_positions_are_cut(llama: HookedModel) -> None:
    together = llama.gradients(IDS, "resid_out_0", "ce", target_token_positions=["last", 0])
    for number, row in enumerate(IDS):
        alone = llama.gradients(row, "resid_out_0", "ce")
        whole = alone["resid_out_0_gradients"].tolist()[0]
        assert together["resid_out_0_gradients"][number].tolist() == [whole[-1], whole[0]]
        assert together["metric"][number] == alone["metric"][0]


def test_keep_gradient_adds_the_gradient_of_one_logit(llama: HookedModel) -> None:
    cache = llama.forward(
        IDS[0], ["last", 1], extraction_config=ExtractionConfig(keep_gradient=True), vocabulary_index=7
    )
    assert cache["input_embeddings_gradients"].shape == (1, 2, 48)
    expected = llama.gradients(IDS[0], "input_embeddings", "logit", answer=7, target_token_positions=["last", 1])
    assert cache["input_embeddings_gradients"].tolist() == expected["input_embeddings_gradients"].tolist()
    assert cache["logits"].shape[:2] == (1, 2)


def test_interventions_are_differentiated_through(llama: HookedModel) -> None:
    edit = Intervention(
        type="full",
        activation="resid_in_1",
        token_positions=["all"],
        patching_values="ablation",
        multiplication_value=0.0,
    )
    found = llama.gradients(IDS[0], ["resid_in_1", "resid_out_0"], answer=7, against=9, interventions=[edit])
    assert any(x != 0 for vector in found["resid_in_1_gradients"].tolist()[0] for x in vector)
    assert all(x == 0 for vector in found["resid_out_0_gradients"].tolist()[0] for x in vector)


def test_vectors_stand_for_a_metric(llama: HookedModel) -> None:
    whole = llama.gradients(IDS[0], ["resid_out_1", "input_embeddings"], answer=7, against=9)
    found = llama.gradients(IDS[0], "input_embeddings", vectors={"resid_out_1": whole["resid_out_1_gradients"]})
    assert found["input_embeddings_gradients"].tolist() == whole["input_embeddings_gradients"].tolist()
    assert "metric" not in found


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"answer": 7}, "needs against"),
        ({"metric": "ce", "answer": 7}, "does not read answer"),
        ({"metric": "rank", "answer": 7}, "has no gradient"),
        ({"metric": "kl"}, "log-probabilities"),
        ({"metric": "logit", "answer": [1, 2, 3]}, "3 tokens of answer for 1 rows"),
        ({"metric": "logit", "answer": 7, "keys": "projected_value_L0H0"}, "has no gradient"),
        ({"metric": "logit", "answer": 7, "rule": "lrp"}, "rule is gradient or relp"),
        ({"vectors": {"resid_out_1": [1.0]}, "answer": 7}, "answer has no effect"),
    ],
)
def test_what_has_no_gradient_is_refused(llama: HookedModel, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(EasyroutineError, match=says):
        llama.gradients(IDS[0], **{"keys": "resid_out_0", **arguments})


def test_hooks_cannot_be_differentiated(llama: HookedModel) -> None:
    remove = llama.register_forward_hook("resid_out_0", lambda value, key: value)
    try:
        with pytest.raises(EasyroutineError, match="hook"):
            llama.gradients(IDS[0], "resid_out_0", "ce")
    finally:
        remove()


def test_direct_contributions_sum_to_the_logit_difference(llama: HookedModel) -> None:
    parts = llama.direct_attribution(IDS[0], 7, 9, target_token_positions=["last", 2])
    names = ["input_embeddings", *(f"{part}_{layer}" for layer in range(3) for part in ("attn_out", "mlp_out"))]
    for t in range(2):
        total = sum(parts[name].tolist()[0][t] for name in names) + parts["bias"].tolist()[0]
        assert total == pytest.approx(parts["logit_diff"].tolist()[0][t], abs=1e-4)
    logits = llama.forward(IDS[0], ["last"])["logits"].tolist()[0][0]
    assert parts["logit_diff"].tolist()[0][0] == pytest.approx(logits[7] - logits[9], abs=1e-4)
    heads = llama.direct_attribution(IDS[0], 7, 9, by="head")
    of_layer = [heads[f"head_out_L1H{head}"].tolist()[0][0] for head in range(4)]
    assert sum(of_layer) + heads["attn_bias_1"].tolist()[0][0] == pytest.approx(
        parts["attn_out_1"].tolist()[0][0], abs=1e-4
    )
    with pytest.raises(EasyroutineError, match="by is part, head or neuron"):
        llama.direct_attribution(IDS[0], 7, by="layer")  # type: ignore[arg-type]
