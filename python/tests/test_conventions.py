"""Numbers are what their documentation says: norms that are given, means, ratios, directions, what is followed."""

from __future__ import annotations

import math
from typing import Any

import pytest
from conftest import TINY

from easyroutine.errors import InputError
from easyroutine.interpretability import ExtractionConfig, HookedModel
from easyroutine.interpretability.tools import LogitLens
from easyroutine.tensors import as_tensor

IDS = [5, 6, 7, 8, 9]
LENS = ExtractionConfig(extract_resid_out=True, extract_last_layernorm=True)


def listed(value: Any) -> Any:
    return as_tensor(value, "value").tolist()


def modules(torch: Any) -> dict[str, Any]:
    """Norms as the families write them."""

    class Plain(torch.nn.Module):
        """x w / rms(x), as in Llama."""

        def __init__(self, weight: Any, eps: float) -> None:
            super().__init__()
            self.weight, self.variance_epsilon = torch.nn.Parameter(weight), eps

        def forward(self, x: Any) -> Any:
            y = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
            return (self.factor() * y).to(x.dtype)

        def factor(self) -> Any:
            return self.weight.float()

    class OffsetNorm(Plain):
        """x (1 + w) / rms(x), as in Gemma."""

        def __init__(self, weight: Any, eps: float) -> None:
            super().__init__(weight - 1, eps)
            self.eps = eps

        def factor(self) -> Any:
            return 1 + self.weight.float()

    class Unknown(Plain):
        def forward(self, x: Any) -> Any:
            return x * self.weight

    return {"plain": Plain, "offset": OffsetNorm, "unknown": Unknown}


@pytest.mark.torch
@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "granite", "phi3"])
@pytest.mark.parametrize("kind", ["plain", "offset", "torch"])
def test_a_norm_that_is_given_is_what_it_computes(family: str, kind: str) -> None:
    import torch

    model = HookedModel.from_pretrained(TINY / family)
    norm, head = model.get_last_layernorm(), model.get_lm_head()
    assert norm is not None
    weight = as_tensor(norm.weight, "weight").torch()
    if kind == "torch":
        if not hasattr(torch.nn, "RMSNorm"):
            pytest.skip("this torch has no RMSNorm")
        module = torch.nn.RMSNorm(len(weight), eps=norm.eps)
        module.weight.data.copy_(weight)
    else:
        module = modules(torch)[kind](weight, norm.eps)
    cache = model.forward(IDS, ["all"], extraction_config=LENS)
    expected = listed(LogitLens.from_model(model).compute(cache, "resid_out_1")["logit_lens_resid_out_1"])
    # The matrix alone: scale and softcap are those of the config.
    for matrix in (head, head.weight):
        lens = LogitLens(matrix, module, family, model.model_config)
        found = listed(lens.compute(cache, "resid_out_1")["logit_lens_resid_out_1"])
        pairs = zip(found[0], expected[0], strict=True)
        assert max(abs(a - b) for one, two in pairs for a, b in zip(one, two, strict=True)) < 1e-4
    assert weight.requires_grad is False and module.training


@pytest.mark.torch
def test_a_module_that_is_no_norm_is_refused() -> None:
    import torch

    matrix = torch.ones(7, 4)
    for wrong in (modules(torch)["unknown"](torch.ones(4), 1e-6), torch.nn.Linear(4, 4), torch.nn.ReLU(), 3, object()):
        with pytest.raises(InputError, match="LastLayerNorm"):
            LogitLens(matrix, wrong, "x", None)


@pytest.mark.torch
def test_the_norms_of_transformers_are_read() -> None:
    import torch

    found = pytest.importorskip("transformers.models.gemma2.modeling_gemma2")
    model = HookedModel.from_pretrained(TINY / "gemma2")
    norm = model.get_last_layernorm()
    assert norm is not None
    module = found.Gemma2RMSNorm(len(norm.weight), eps=norm.eps)
    module.weight.data.copy_(torch.tensor(listed(norm.weight)) - 1)
    lens = LogitLens(model.get_lm_head(), module, "gemma2", model.model_config)
    cache = model.forward(IDS, ["all"], extraction_config=LENS)
    expected = LogitLens.from_model(model).compute(cache, "resid_out_1")["logit_lens_resid_out_1"]
    assert torch.allclose(lens.compute(cache, "resid_out_1")["logit_lens_resid_out_1"], expected, atol=1e-4)


def test_directions_of_probabilities_are_their_differences(llama: HookedModel) -> None:
    lens = LogitLens.from_model(llama)
    cache = llama.forward([IDS], ["all"], extraction_config=LENS)
    chances = listed(lens.compute(cache, "resid_out_1", apply_softmax=True)["logit_lens_resid_out_1"])[0]
    logits = listed(lens.compute(cache, "resid_out_1")["logit_lens_resid_out_1"])[0]
    assert all(math.isclose(sum(row), 1, rel_tol=1e-4) for row in chances)
    for softmax, rows in ((True, chances), (False, logits)):
        pair = listed(lens.compute(cache, "resid_out_1", [(7, 8)], apply_softmax=softmax)["logit_lens_resid_out_1"])[0]
        one = listed(lens.compute(cache, "resid_out_1", [7], apply_softmax=softmax)["logit_lens_resid_out_1"])[0]
        assert pair == pytest.approx([row[7] - row[8] for row in rows], abs=1e-5)
        assert one == pytest.approx([row[7] for row in rows], abs=1e-5)
        share = lens.compute(cache, "resid_out_1", [(7, 8)], apply_softmax=softmax, metric="accuracy")
        assert listed(share["logit_lens_resid_out_1"]) == [float(row[7] > row[8]) for row in rows]


def test_what_is_followed_is_a_log_probability(llama: HookedModel) -> None:
    followed = 7
    result = llama.lens([IDS], track=followed)
    cache = llama.forward([IDS], ["all"], extraction_config=LENS)
    lens = LogitLens.from_model(llama)
    chances = lens.compute(cache, "resid_out_1", apply_softmax=True, norm="own")["logit_lens_resid_out_1"]
    expected = [row[followed] for row in listed(chances)[0]]
    records = [one for one in result.records() if one["layer"] == 1]
    assert [math.exp(one["tracked"]) for one in records] == pytest.approx(expected, rel=1e-4)
    assert all(one["logprob"] <= 0 and one["logprob_of_final_top"] <= 0 for one in records)
    assert all(one["tracked"] is None for one in llama.lens([IDS]).records())


def sweep(model: HookedModel, **options: Any) -> Any:
    return model.sweep(IDS, along="positions", site="resid_in", layers=[1], by="mean", **options)


def test_a_mean_is_over_rows_where_their_lengths_agree(llama: HookedModel) -> None:
    base = [[1, 2, 3, 4, 5], [11, 12, 13, 14, 15]]
    by_rows, by_tokens = sweep(llama, base=base, mean_over="rows"), sweep(llama, base=base, mean_over="tokens")
    assert sweep(llama, base=base).values == by_rows.values != by_tokens.values
    assert "each position by itself" in str(by_rows.to_dict()["words"]) and "all tokens" in str(
        by_tokens.to_dict()["words"]
    )
    # One row as long is what stands there in it, position by position.
    one = sweep(llama, base=base[:1])
    assert one.values == llama.sweep(IDS, site="resid_in", layers=[1], by="resample", base=base[:1]).values
    uneven = [[1, 2, 3], [4, 5, 6, 7, 8]]
    assert sweep(llama, base=uneven).values == sweep(llama, base=uneven, mean_over="tokens").values
    # Of the prompt itself a mean over rows would change nothing.
    assert sweep(llama, base=[IDS]).values == sweep(llama, base=[IDS], mean_over="tokens").values
    for wrong in ({"base": uneven, "mean_over": "rows"}, {"base": base, "mean_over": "columns"}):
        with pytest.raises(InputError, match="tokens"):
            sweep(llama, **wrong)
    with pytest.raises(InputError, match="mean_over"):
        llama.sweep(IDS, by="zero", mean_over="rows")


@pytest.mark.parametrize("rows", [None, ["last", (2, 4)]])
def test_blocks_of_patterns_are_what_they_are_called(llama: HookedModel, rows: Any) -> None:
    """Groups by groups, also without row positions, where the original kept every weight."""
    groups = [(0, 2), (2, 4), "last"]
    spans = {"last": [4], (0, 2): [0, 1], (2, 4): [2, 3]}
    whole = llama.forward([IDS], ["all"], extraction_config=ExtractionConfig(extract_attn_pattern=True))
    pattern = listed(whole["pattern_L1H2"])[0]
    for name in ("mean", "sum", "baseline_ratio"):
        config = ExtractionConfig(extract_attn_pattern=True, attn_pattern_avg=name, attn_pattern_row_positions=rows)
        found = listed(llama.forward([IDS], groups, extraction_config=config)["pattern_L1H2"])[0]
        for row_group, values in zip(rows or groups, found, strict=True):
            for group, value in zip(groups, values, strict=True):
                queries, keys = spans[row_group], spans[group]
                total = sum(pattern[i][j] for i in queries for j in keys)
                uniform = sum(1 / (i + 1) for i in queries for j in keys if j <= i)
                cells = len(queries) * len(keys)
                expected = {
                    "sum": total,
                    "mean": total / cells,
                    # Both means over all cells: the original's second one is over rows alone, len(keys) times this.
                    "baseline_ratio": (total / cells) / (uniform / cells) if uniform else math.nan,
                }[name]
                assert value == pytest.approx(expected, rel=1e-4, nan_ok=True), (name, row_group, group)
