"""What the original does wrong, done right: one test for each fault that was seen there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from conftest import largest_difference

from easyroutine.interpretability import (
    ActivationCache,
    ActivationLoader,
    ActivationSaver,
    ExtractionConfig,
    HookedModel,
    Intervention,
    LogitLens,
    TokenIndex,
)

pytestmark = pytest.mark.usefixtures("own_tensors")

IDS = [5, 17, 200, 3, 42, 9]


def kept(model: HookedModel, *flags: str, ids: Any = IDS, positions: Any = ("all",), **options: Any) -> ActivationCache:
    config = ExtractionConfig(**dict.fromkeys(flags, True), **options.pop("config", {}))
    return model.forward(ids, target_token_positions=positions, extraction_config=config, **options)


def numbers(cache: ActivationCache, key: str) -> Any:
    return cache[key].tolist()[0]


def test_each_head_has_values_of_its_own(llama: HookedModel) -> None:
    cache = kept(llama, "extract_head_values", "extract_values")
    whole = numbers(cache, "values_L1")
    h = llama.model_config.head_dim
    for head in range(4):
        group = head // 2
        assert numbers(cache, f"head_values_L1H{head}") == [row[group * h : (group + 1) * h] for row in whole]


def test_the_middle_of_the_stream_is_the_stream(llama: HookedModel) -> None:
    cache = kept(llama, "extract_resid_in", "extract_attn_out", "extract_resid_mid")
    rows = zip(numbers(cache, "resid_in_1"), numbers(cache, "attn_out_1"), strict=True)
    sums = [[a + b for a, b in zip(x, y, strict=True)] for x, y in rows]
    assert largest_difference(numbers(cache, "resid_mid_1"), sums) < 1e-6


def test_input_ids_are_ids(llama: HookedModel) -> None:
    assert numbers(kept(llama, "save_input_ids", positions=["last", 0]), "input_ids") == [9, 5]


def test_projected_keys_and_queries_are_there(llama: HookedModel) -> None:
    cache = kept(llama, "extract_head_keys_projected", "extract_head_queries_projected")
    assert cache["projected_key_L0H0"].shape == cache["projected_query_L2H3"].shape == (1, 6, 48)


def test_rows_of_a_batch_are_rows(llama: HookedModel) -> None:
    cache = kept(llama, "extract_resid_out", ids=[IDS[:3], IDS[3:]])
    assert cache["resid_out_0"].shape == (2, 3, 48)
    assert cache["token_dict"] == {"all": [[0, 1, 2], [0, 1, 2]]}


def test_an_average_is_of_every_key(llama: HookedModel) -> None:
    cache = kept(llama, "extract_last_layernorm", positions=[(0, 4), "last"], config={"avg": True})
    assert cache["logits"].shape == (1, 2, 320) and cache["last_layernorm"]["mean"].shape == (1, 2)
    each = kept(llama, "extract_last_layernorm", positions=[(0, 4)])["last_layernorm"]["variance"].tolist()[0]
    assert cache["last_layernorm"]["variance"].tolist()[0][0] == pytest.approx(sum(each) / 4)


def test_an_intervention_on_a_head_changes_that_head_alone(llama: HookedModel) -> None:
    edit = [Intervention("full", "head_out_L1H2", ["all"])]
    before, after = kept(llama, "extract_head_out"), kept(llama, "extract_head_out", interventions=edit)
    for head in (0, 1, 3):
        assert numbers(before, f"head_out_L1H{head}") == numbers(after, f"head_out_L1H{head}")
    assert not any(any(row) for row in numbers(after, "head_out_L1H2"))


def test_the_baseline_of_the_last_token_is_finite(llama: HookedModel) -> None:
    cache = kept(llama, "extract_attn_pattern", positions=["last"], config={"attn_pattern_avg": "baseline_ratio"})
    weight = numbers(kept(llama, "extract_attn_pattern", positions=["last"]), "pattern_L0H0")[0][0]
    assert numbers(cache, "pattern_L0H0")[0][0] == pytest.approx(weight * 6, rel=1e-5)


@pytest.mark.parametrize("average", ["mean", "sum"])
def test_patterns_are_averaged_by_groups(llama: HookedModel, average: str) -> None:
    groups = [(0, 2), (2, 4)]
    cache = kept(llama, "extract_attn_pattern", positions=groups, config={"attn_pattern_avg": average})
    assert cache["pattern_L0H0"].shape == (1, 2, 2)


@pytest.mark.parametrize("kind", ["columns_pre_softmax", "rows_pre_softmax", "grid_pre_softmax"])
def test_no_change_before_the_softmax_lets_a_token_see_later_ones(llama: HookedModel, kind: Any) -> None:
    positions: Any = (["all"], [0, 1]) if kind.startswith("grid") else [0, 1]
    cache = kept(llama, "extract_attn_pattern", interventions=[Intervention(kind, "pattern_L1H0", positions)])
    pattern = numbers(cache, "pattern_L1H0")
    assert all(weight == 0.0 for query, row in enumerate(pattern) for weight in row[query + 1 :])
    assert all(weight == weight for row in pattern for weight in row)


def test_positions_of_a_change_need_not_be_extracted(llama: HookedModel) -> None:
    edit = [Intervention("columns", "pattern_L0H0", [2])]
    assert kept(llama, positions=["last"], interventions=edit)["logits"] != kept(llama, positions=["last"])["logits"]


def test_a_failed_run_leaves_the_next_one_well(llama: HookedModel) -> None:
    clean = llama.forward(IDS)["logits"]
    for wrong in ({"target_token_positions": [99]}, {"interventions": [Intervention("full", "resid_out_0", [99])]}):
        with pytest.raises(ValueError, match="99"):
            llama.forward(IDS, **wrong)
    assert llama.forward(IDS)["logits"] == clean


def test_specifiers_mean_what_they_say() -> None:
    index, tokens = TokenIndex("m"), list("abcdef")
    assert index.get_token_index([-6, (1, 6), (1, -1)], tokens) == [0, 1, 2, 3, 4, 5, 1, 2, 3, 4]
    assert index.get_token_index(["last-3", "last-4"], tokens, "dict") == {"last-3": [3], "last-4": [2]}
    assert index.get_token_index("inputs-partition-0", tokens) == [0, 1, 2, 3, 4, 5]
    cut = TokenIndex("m", pivot_positions=[4, 2])
    assert cut.get_token_index("inputs-partition-1", tokens, "all") == ([2, 3], {"inputs-partition-1": [2, 3]})
    assert TokenIndex("m", pivot_tokens=["c"]).get_token_index("inputs-partition-1", tokens) == [2, 3, 4, 5]
    assert len(cut.get_token_index("random-inputs-partition-0-1", tokens)) == 1
    with pytest.raises(ValueError, match="outside"):
        index.get_token_index(6, tokens)


def test_deferred_joining_ends() -> None:
    cache = ActivationCache()
    with cache.deferred_mode():
        cache.cat(ActivationCache({"x": [1]}))
        cache.cat(ActivationCache({"x": [2]}))
    assert cache["x"] == [1, 2]


def test_a_run_of_torch_tensors_is_json_and_is_read_again(llama: HookedModel, tmp_path: Path) -> None:
    saver = ActivationSaver(tmp_path)
    vector = [[0.5] * 48]
    edits = [Intervention("full", "resid_out_0", ["last"], vector)]
    for _ in range(2):
        # Twice in one second.
        saver.save(llama.forward(IDS), llama, [(0, 2), "last"], edits, ExtractionConfig())
    found = ActivationLoader.from_saver(saver).query(target_token_positions=[(0, 2), "last"], interventions=edits)
    assert len(found) == 2 and time.time() > 0
    assert found.load(-1)[0]["logits"] == llama.forward(IDS)["logits"]


def test_the_lens_has_the_right_vocabulary(llama: HookedModel) -> None:
    assert LogitLens.from_model(llama).get_vocab_size() == 320


def test_a_prompt_of_one_batch_is_never_changed(llama: HookedModel) -> None:
    batch = {"input_ids": [IDS], "attention_mask": [[1] * 6], "label": ["x"], "pixel": None}
    before = dict(batch)
    llama.extract_cache([batch], ["last"])
    assert batch == before
