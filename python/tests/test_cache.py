"""The cache: a mapping, joined, cut, measured, copied."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from conftest import PROMPT, largest_difference

from easyroutine import Tensor
from easyroutine.interpretability import ActivationCache, ExtractionConfig, HookedModel, Intervention, ValueWithInfo
from easyroutine.interpretability.activation_cache import just_me, just_old, sublist

pytestmark = pytest.mark.usefixtures("own_tensors")

CONFIG = ExtractionConfig(
    extract_resid_out=True, extract_last_layernorm=True, extract_head_out=True, extract_attn_pattern=True
)


def row(*numbers: float) -> Tensor:
    import struct

    return Tensor.from_bytes(struct.pack(f"{len(numbers)}f", *numbers), [1, len(numbers)], "float32")


def of_ids(model: HookedModel, ids: list[Any], positions: Any = ("all",)) -> ActivationCache:
    return model.forward(ids, target_token_positions=positions, extraction_config=CONFIG)


def test_it_is_a_mapping() -> None:
    cache = ActivationCache({"a": 1})
    cache["b"] = 2
    cache.update(c=3)
    assert list(cache) == ["a", "b", "c"] and len(cache) == 3 and "a" in cache and "x" not in cache
    assert cache.get("x") is None and list(cache.items())[0] == ("a", 1)
    del cache["a"]
    assert list(cache.values()) == [2, 3] and not cache.is_empty() and ActivationCache().is_empty()
    with pytest.raises(KeyError, match="holds no 'x'; it holds 'b', 'c'"):
        cache["x"]
    with pytest.raises(KeyError):
        del cache["x"]
    with pytest.raises(ValueError, match="a key of a cache is a string"):
        cache[1] = 2  # type: ignore[index]


def test_the_right_one_wins_in_a_sum() -> None:
    a, b = ActivationCache({"x": 1, "y": 2}), ActivationCache({"y": 3})
    assert dict(a + b) == {"x": 1, "y": 3} and dict(a) == {"x": 1, "y": 2}
    with pytest.raises(TypeError):
        a + 3  # type: ignore[operator]


def test_batches_joined_are_the_batch(llama: HookedModel) -> None:
    rows = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    whole = of_ids(llama, rows)
    joined = of_ids(llama, rows[:1])
    joined.cat(of_ids(llama, rows[1:]))
    assert list(joined) == list(whole)
    for key in whole:
        a, b = joined[key], whole[key]
        assert (a.value() == b.value()) if isinstance(a, ValueWithInfo) else (a == b), key


def test_ragged_batches_joined_are_the_ragged_batch(llama: HookedModel) -> None:
    rows = [[1, 2, 3], [4, 5]]
    whole, joined = of_ids(llama, rows), of_ids(llama, rows[:1])
    joined.cat(of_ids(llama, rows[1:]))
    assert joined["logits"] == whole["logits"] and isinstance(joined["logits"], list)
    assert joined["mapping_index"] == whole["mapping_index"] == {"all": [[0, 1, 2], [0, 1]]}
    assert joined["token_dict"] == whole["token_dict"]
    joined.cat(of_ids(llama, [[6, 7, 8]]))
    assert [len(one) for one in joined["logits"]] == [3, 2, 3]


def test_deferred_batches_are_joined_at_the_end(llama: HookedModel) -> None:
    cache = ActivationCache()
    with cache.deferred_mode():
        for number in range(4):
            cache.cat(of_ids(llama, [[number, 1]], ["last"]))
        assert cache.is_empty()
        with pytest.raises(ValueError, match="already"), cache.deferred_mode():
            pass
    assert cache["logits"].shape == (4, 1, 320)


def test_caches_with_other_keys_are_not_joined() -> None:
    cache = ActivationCache({"x": row(1)})
    with pytest.raises(ValueError, match="no 'y'"):
        cache.cat(ActivationCache({"x": row(1), "y": row(2)}))
    with pytest.raises(ValueError, match="no 'x'"):
        cache.cat(ActivationCache({"z": row(1)}))
    assert list(cache) == ["x"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1], [2, 3]], [1, 2, 3]),
        ([(1, 2), (3,)], [(1, 2), (3,)]),
        (["a", "b", "c"], ["a", "b", "c"]),
        ([1, 2, 3], [1, 2, 3]),
        ([{"a": [1]}, {"a": [2]}], {"a": [1, 2]}),
        ([{"a": 1}, {"b": 2}], [{"a": 1}, {"b": 2}]),
        ([None, None], [None, None]),
    ],
)
def test_values_are_joined_by_what_they_are(values: list[Any], expected: Any) -> None:
    cache = ActivationCache()
    cache.cat_all(ActivationCache({"x": value}) for value in values)
    assert cache["x"] == expected
    one_by_one = ActivationCache()
    for value in values:
        one_by_one.cat(ActivationCache({"x": value}))
    if not isinstance(values[0], dict) or values[0].keys() == values[1].keys():
        assert one_by_one["x"] == expected


def test_numbers_without_axes_become_one_axis_however_many_there_are() -> None:
    for count in (2, 3, 4):
        cache = ActivationCache()
        for number in range(count):
            cache.cat(ActivationCache({"kl": row(number)[0, 0]}))
        assert cache["kl"].tolist() == list(range(count))


def test_own_ways_of_joining_go_first() -> None:
    def joined(function: Any) -> Any:
        cache = ActivationCache()
        cache.register_aggregation("x", function)
        for number in (1, 2, 3):
            cache.cat(ActivationCache({"x_1": number}))
        return cache["x_1"]

    assert joined(just_old) == 1 and joined(just_me) == 3 and joined(sublist) == [1, 2, 3]
    assert joined(lambda a, b: a + b) == 6
    cache = ActivationCache({"x": 1})
    cache.register_aggregation("x", just_old)
    cache.remove_aggregation("x")
    cache.cat(ActivationCache({"x": 2}))
    assert cache["x"] == [1, 2]


def test_values_are_cut_by_specifier(llama: HookedModel) -> None:
    cache = of_ids(llama, [[1, 2, 3, 4]], ["last", (0, 2)])
    cut = cache.map_to_dict("resid_out_0")
    assert cut["last"] == cache["resid_out_0"][:, [0]].squeeze() and cut[(0, 2)].shape == (2, 48)


def test_memory_is_told_in_decimal_units() -> None:
    cache = ActivationCache({"x_1": row(*range(10)), "x_2": row(*range(10)), "d": {"a": row(1, 2)}, "n": 3})
    assert (cache.memory_size("x_1"), cache.memory_size("d"), cache.memory_size()) == ("40 B", "8 B", "88 B")
    cache.update({"pattern_L0H0": row(1), "pattern_L0H1": row(1), "pattern_L1H0": row(1)})
    assert cache.memory_tree()["x_1"] == "40 B" and cache.memory_tree()["d"] == {"a": "8 B"}
    tree = cache.memory_tree(grouped_tree=True)
    assert tree == {
        "x": "80 B (2 items)",
        "pattern_L0": "8 B (2 items)",
        "pattern_L1": "4 B (1 items)",
        "d": {"a": "8 B"},
        "n": "0 B",
    }
    with pytest.raises(KeyError):
        cache.memory_size("y")


def test_memory_is_printed_where_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    ActivationCache({"x": row(1)}).memory_tree()
    assert capsys.readouterr().out == ""
    ActivationCache({"x": row(1)}).memory_tree(print_tree=True)
    assert "x  4 B" in capsys.readouterr().out


def test_values_with_a_word_do_what_the_value_does() -> None:
    numpy = pytest.importorskip("numpy")
    value = ValueWithInfo(numpy.array([1.0, 2.0]), "two")
    assert (value.shape, value.info(), len(value), value[1]) == ((2,), "two", 2, 2.0)
    assert (value + 1).tolist() == [2, 3] and (1 - value).tolist() == [0, -1] and (value * value).tolist() == [1, 4]
    assert (-value).tolist() == [-1, -2] and (value > 1).tolist() == [False, True]
    assert numpy.asarray(value).sum() == 3
    # As the value compares, by its numbers; as a member of sets, by what it is.
    assert (value == 1).tolist() == [True, False] and (value != value).tolist() == [False, False]
    assert value.value().tolist() == [1, 2] and len({value, value}) == 1
    cache = ActivationCache()
    cache.add_with_info("x", 1, "a number")
    assert cache["x"].info() == "a number" and pickle.loads(pickle.dumps(cache))["x"].value() == 1


def test_metadata_is_of_the_run() -> None:
    cache = ActivationCache()
    cache.add_metadata(["last"], "model", ExtractionConfig(extract_embed=True), None)
    assert cache["metadata"]["extraction_config"]["extract_embed"] is True
    cache.cat(cache.copy())
    assert cache["metadata"]["model_name"] == "model"


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_hold_the_same(llama: HookedModel, make: Any) -> None:
    cache = of_ids(llama, [[1, 2]], ["last"])
    same = make(cache)
    assert list(same) == list(cache) and same["logits"] == cache["logits"]
    same.cat(of_ids(llama, [[3]], ["last"]))
    assert same["logits"].shape[0] == 2 and cache["logits"].shape[0] == 1
    assert same["token_dict"] == {"last": [[1], [0]]}


def test_moving_to_main_memory_changes_nothing() -> None:
    cache = ActivationCache({"x": row(1), "y": {"a": row(2)}})
    assert cache.cpu() is cache and cache["x"].tolist() == [[1]]


def test_a_notebook_shows_a_table(llama: HookedModel) -> None:
    shown = of_ids(llama, [[1, 2]])._repr_html_()
    assert "resid_out_0" in shown and "1 × 2 × 48" in shown
    assert "&lt;b&gt;" in ActivationCache({"<b>": 1})._repr_html_()


@pytest.mark.torch
def test_torch_tensors_share_memory_and_stay_what_they_are(llama: HookedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("EASYROUTINE_TENSORS", "auto")
    cache = of_ids(llama, [[1, 2, 3]])
    pointer = cache.raw("logits").data_ptr()
    logits = cache["logits"]
    assert isinstance(logits, torch.Tensor) and logits.data_ptr() == pointer and cache["logits"] is logits
    logits.zero_()
    assert cache["logits"].sum() == 0
    assert isinstance(cache["last_layernorm"]["mean"], torch.Tensor)
    assert isinstance(cache["head_out_L0H0"].value(), torch.Tensor)
    assert torch.is_tensor(torch.stack([cache["head_out_L0H0"], cache["head_out_L0H1"]]))
    cache.cat(of_ids(llama, [[4, 5, 6]]))
    assert cache["logits"].shape == (2, 3, 320) and isinstance(cache["logits"], torch.Tensor)
    assert torch.equal(pickle.loads(pickle.dumps(cache))["logits"], cache["logits"])


def test_a_data_set_is_one_cache(llama: HookedModel) -> None:
    batches = [
        {"input_ids": [[1, 2, 3]], "attention_mask": [[1, 1, 1]], "label": ["a"], "pivot_positions": [1]},
        {"input_ids": [[4, 5], [6, 7]], "label": ["b", "c"], "pivot_positions": [1]},
    ]
    cache = llama.extract_cache(
        batches,
        ["inputs-partition-1", "last"],
        CONFIG,
        batch_saver=lambda others: {"labels": others["label"]},
        dict_token_index=None,
    )
    assert cache["labels"] == ["a", "b", "c"] and len(cache["logits"]) == 3
    assert cache["token_dict"] == {"inputs-partition-1": [[1, 2], [1], [1]], "last": [[2], [1], [1]]}
    assert cache["metadata"]["model_name"] == "llama" and cache["metadata"]["interventions"] is None
    assert cache["metadata"]["target_token_positions"] == ["inputs-partition-1", "last"]
    alone = llama.forward([6, 7], target_token_positions=["last"])["logits"][0]
    assert cache["logits"][2][1:] == alone


TEXTS = [PROMPT, "x", "Paris is the capital of France, as everybody knows", "London", PROMPT, "The sky is blue"]


@pytest.mark.parametrize(
    ("positions", "changes", "avg"),
    [
        (["last"], [], False),
        (["all"], [], False),
        (["all", "last"], [], True),
        (["random-text-1", "inputs-partition-0"], [], False),
        (["last", 0], [Intervention("full", "resid_out_0", ["last"], multiplication_value=0.5)], False),
    ],
    ids=["dense", "ragged", "means", "drawn", "changed"],
)
def test_rows_are_packed_and_become_the_same_to_the_bit(
    llama: HookedModel, positions: Any, changes: Any, avg: bool
) -> None:
    config = ExtractionConfig(
        extract_resid_out=True, extract_last_layernorm=True, extract_head_out=True, extract_attn_pattern=True, avg=avg
    )
    data = [{**llama.get_tokenizer()([text]), "label": [text]} for text in TEXTS]
    for batch in data:
        batch["pivot_positions"] = [len(batch["input_ids"][0]) // 2]
    if changes:
        for batch in data:
            batch["pivot_positions"] = [0]

    def run(model: HookedModel = llama, **options: Any) -> ActivationCache:
        return model.extract_cache(
            data, positions, config, changes, lambda others: {"labels": others["label"]}, seed=5, **options
        )

    # A function that looks at batches makes them run as they came.
    watched = copy.copy(llama)
    watched.register_forward_hook("resid_out_0", lambda value, key: None)
    expected = run(watched)
    for budget in (4096, 20, 1):
        found = run(batch_tokens=budget)
        assert set(found) == set(expected) and found["labels"] == TEXTS
        for key in expected:
            assert found[key] == expected[key] or plain(found[key]) == plain(expected[key]), key


def plain(value: Any) -> Any:
    """A value with what is said of it."""
    if isinstance(value, ValueWithInfo):
        return value.info(), plain(value.value())
    return [plain(one) for one in value] if isinstance(value, list) else value


def test_rows_that_are_spoken_of_run_in_the_batches_that_they_came_in(llama: HookedModel) -> None:
    batches = [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]]
    change = Intervention("full", "resid_out_2", ["last"], operation="resample", source_row=0)
    found = llama.extract_cache(batches, ["last"], interventions=[change])["logits"]
    for number, batch in enumerate(batches):
        alone = llama.forward(batch, ["last"], interventions=[change])["logits"]
        assert found[2 * number : 2 * number + 2] == alone
    assert found[1] == found[0] and found[2] != found[0]


def test_what_is_kept_of_some_batches_alone_is_an_error(llama: HookedModel) -> None:
    batches = [{"input_ids": [[1]], "label": "a"}, {"input_ids": [[2]]}]
    with pytest.raises(ValueError, match="'label' of some batches"):
        llama.extract_cache(batches, ["last"], batch_saver=dict)
    with pytest.raises(ValueError, match="batch_tokens is 0"):
        llama.extract_cache(["x"], ["last"], batch_tokens=0)


def test_texts_are_run_some_at_a_time(llama: HookedModel) -> None:
    texts = [PROMPT, "x", "Paris", "London"]
    cache = llama.extract_cache(texts, ["last"])
    assert cache["logits"].shape == (4, 1, 320)
    several = HookedModel.from_pretrained(llama.config.model_name, batch_size=3)
    assert several.extract_cache(texts, ["last"])["logits"] == cache["logits"]
    with pytest.raises(ValueError, match="empty"):
        llama.extract_cache([], ["last"])
    with pytest.raises(ValueError, match="call forward"):
        llama.extract_cache(PROMPT, ["last"])  # type: ignore[arg-type]


def test_means_over_examples_go_on_from_batch_to_batch(llama: HookedModel) -> None:
    rows = [[[1, 2, 3]], [[4, 5, 6]], [[7, 8, 9]]]
    config = ExtractionConfig(extract_attn_pattern=True, avg_over_example=True)
    whole = llama.forward([row[0] for row in rows], extraction_config=config)["avg_pattern_L0H1"]
    assert whole.shape == (1, 3, 3)
    # A mean is summed in another order, and in a loop of one's own rounded to float32 from batch to batch.
    carried = llama.extract_cache(rows, ["all"], config)["avg_pattern_L0H1"]
    assert largest_difference(carried.tolist(), whole.tolist()) < 1e-6
    external = ActivationCache()
    for number, batch in enumerate(rows):
        llama.forward(batch, extraction_config=config, external_cache=external, batch_idx=number)
    assert largest_difference(external["avg_pattern_L0H1"].tolist(), whole.tolist()) < 1e-6
    with pytest.raises(ValueError, match="batch_idx"):
        llama.forward(rows[0], extraction_config=config, external_cache=external)


def test_a_mean_goes_on_over_batches_of_any_size(llama: HookedModel) -> None:
    rows = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]
    config = ExtractionConfig(extract_attn_pattern=True, avg_over_example=True)
    whole = llama.forward(rows, extraction_config=config)["avg_pattern_L1H2"].tolist()
    external, first = ActivationCache(), llama.forward(rows[:1], extraction_config=config)
    for number, batch in enumerate((rows[:1], rows[1:])):
        llama.forward(batch, extraction_config=config, external_cache=external, batch_idx=number)
    assert largest_difference(external["avg_pattern_L1H2"].tolist(), whole) < 1e-6
    # The cache of the first batch may carry the means too, and its copy.
    for carrier in (first.copy(), pickle.loads(pickle.dumps(first))):
        found = llama.forward(rows[1:], extraction_config=config, external_cache=carrier, batch_idx=1)
        assert largest_difference(found["avg_pattern_L1H2"].tolist(), whole) < 1e-6
    gathered = llama.extract_cache([rows[:3]], ["all"], config)
    found = llama.forward(rows[3:], extraction_config=config, external_cache=gathered, batch_idx=1)
    assert largest_difference(found["avg_pattern_L1H2"].tolist(), whole) < 1e-6
    anew = llama.forward(rows[3:], extraction_config=config, external_cache=gathered, batch_idx=0)
    assert anew["avg_pattern_L1H2"] == llama.forward(rows[3:], extraction_config=config)["avg_pattern_L1H2"]
    # Means that somebody put there: over one row a batch, as in the original, which is said.
    one = llama.forward(rows[:1], extraction_config=config)
    unknown = ActivationCache({key: value for key, value in one.items() if key.startswith("avg_pattern_")})
    with pytest.warns(UserWarning, match="assuming 1, one per earlier batch"):
        llama.forward(rows[1:2], extraction_config=config, external_cache=unknown, batch_idx=1)
    both = llama.forward(rows[:2], extraction_config=config)["avg_pattern_L1H2"].tolist()
    assert largest_difference(unknown["avg_pattern_L1H2"].tolist(), both) < 1e-6
    with pytest.raises(ValueError, match="no means to go on from"):
        llama.forward(rows, extraction_config=config, batch_idx=1)


def test_patterns_are_cut_by_their_own_rows(llama: HookedModel) -> None:
    config = ExtractionConfig(
        extract_attn_pattern=True, extract_attn_scores=True, attn_pattern_row_positions=[1, (2, 4), 4]
    )
    cache = llama.forward([1, 2, 3, 4, 5], ["last", (0, 2)], extraction_config=config)
    for key in ("pattern_L0H1", "scores_L0H1"):
        cut = cache.map_to_dict(key)
        assert list(cut) == [1, (2, 4), 4] and cut[(2, 4)] == cache[key][:, [1, 2]].squeeze()
    assert list(cache.map_to_dict("logits")) == ["last", (0, 2)]
    config.avg_over_example = True
    mean = llama.forward([1, 2, 3, 4, 5], ["last", (0, 2)], extraction_config=config)
    assert mean.map_to_dict("avg_pattern_L0H1")[4] == mean["avg_pattern_L0H1"][:, [3]].squeeze()


@pytest.mark.parametrize("rows", [None, ["last", (1, 4)]])
def test_blocks_of_patterns_are_cut_by_specifier(llama: HookedModel, rows: Any) -> None:
    config = ExtractionConfig(extract_attn_pattern=True, attn_pattern_avg="sum", attn_pattern_row_positions=rows)
    cache = llama.forward([1, 2, 3, 4, 5], [(0, 3), "last"], extraction_config=config)
    for of_cache in (cache, pickle.loads(pickle.dumps(cache))):
        cut = of_cache.map_to_dict("pattern_L0H1")
        for number, specifier in enumerate(rows or [(0, 3), "last"]):
            assert cut[specifier] == cache["pattern_L0H1"][:, [number]].squeeze()
    assert cache.map_to_dict("logits")[(0, 3)].shape == (3, 320)


def test_caches_of_other_positions_are_not_joined(llama: HookedModel) -> None:
    last, first = of_ids(llama, [[1, 2, 3]], ["last"]), of_ids(llama, [[1, 2, 3]], [0])
    with pytest.raises(ValueError, match=r"one holds \['last'\] of 1 rows, the other \[0\] of 1 rows"):
        last.cat(first)
    assert last["logits"].shape == (1, 1, 320)
    for other in (first, of_ids(llama, [[4, 5]], ["last"])):
        with pytest.raises(ValueError, match="one table of positions"):
            last + other
    more = llama.forward([1, 2, 3], ["last"], extraction_config=ExtractionConfig(extract_resid_mid=True))
    both = last + more
    assert both["mapping_index"] == {"last": [0]} and both.map_to_dict("resid_mid_0")["last"].shape == (48,)
    both = ActivationCache({"label": "a"}) + last
    both.cat(ActivationCache({"label": "b"}) + last)
    assert both["token_dict"] == {"last": [[2], [2]]}


def test_means_over_examples_are_not_put_behind_each_other(llama: HookedModel) -> None:
    config = ExtractionConfig(extract_attn_pattern=True, avg_over_example=True)
    caches = [llama.forward(ids, extraction_config=config) for ids in ([1, 2], [3, 4])]
    with pytest.raises(ValueError, match="'avg_pattern_L0H0' is a mean over examples"):
        caches[0].cat(caches[1])
    joined = ActivationCache()
    joined.register_aggregation("avg_pattern_", just_me)
    joined.cat_all(caches)
    assert joined["avg_pattern_L0H0"] == caches[1]["avg_pattern_L0H0"]


def test_heads_of_a_layer_are_stacked(llama: HookedModel) -> None:
    config = ExtractionConfig(extract_attn_pattern=True, extract_head_out=True)
    cache = llama.forward([[1, 2, 3], [4, 5, 6]], extraction_config=config)
    stacked = cache.stack_heads("pattern_L1")
    assert stacked.shape == (2, 4, 3, 3) and cache.stack_heads("head_out_L2").shape == (2, 4, 3, 48)
    for head in range(4):
        assert stacked[:, head].tolist() == cache[f"pattern_L1H{head}"].tolist()
    ragged = llama.forward([[1, 2, 3], [4, 5]], extraction_config=config).stack_heads("pattern_L1")
    assert [row.shape for row in ragged] == [(4, 3, 3), (4, 2, 2)]
    assert ragged[0][2].tolist() == cache["pattern_L1H2"][0].tolist()
    with pytest.raises(KeyError, match="no heads of 'resid_out'; it holds those of 'pattern_L0'"):
        cache.stack_heads("resid_out")


@pytest.mark.torch
def test_heads_are_stacked_as_torch_and_numpy_do(llama: HookedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ExtractionConfig(extract_attn_pattern=True)
    cache = llama.forward([[1, 2, 3]], extraction_config=config)
    own = cache.stack_heads("pattern_L0").tolist()
    for backend in ("torch", "numpy"):
        monkeypatch.setenv("EASYROUTINE_TENSORS", backend)
        other = llama.forward([[1, 2, 3]], extraction_config=config).stack_heads("pattern_L0")
        assert other.tolist() == own and type(other).__module__.split(".")[0] == backend


def test_tensors_that_do_not_fit_are_rows_of_runs_and_wholes_of_others(llama: HookedModel) -> None:
    wide, narrow = row(1, 2, 3), row(1, 2)
    cache = ActivationCache({"x": wide})
    for _ in range(2):
        cache.cat(ActivationCache({"x": narrow}))
    assert isinstance(cache["x"], list) and [one.tolist() for one in cache["x"]] == [
        wide.tolist(),
        narrow.tolist(),
        narrow.tolist(),
    ]
    first, second = of_ids(llama, [[1, 2, 3]], ["all"]), of_ids(llama, [[4, 5], [6, 7]], ["all"])
    first.cat(second)
    assert [one.shape for one in first["resid_out_0"]] == [(3, 48), (2, 48), (2, 48)]
