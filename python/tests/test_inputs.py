"""Whatever ids come in as, the numbers are the same; what cannot be meant is refused by name."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easyroutine.interpretability import HookedModel
from easyroutine.interpretability.inputs import rows_of

IDS = [5, 17, 200, 3, 42]


def logits(model: HookedModel, inputs: Any) -> Any:
    return [row.tolist() for row in model.forward(inputs).raw("logits")]


@pytest.mark.parametrize(
    "inputs",
    [
        IDS,
        tuple(IDS),
        [IDS],
        numpy.array(IDS),
        numpy.array([IDS], dtype=numpy.int32),
        {"input_ids": IDS},
        {"input_ids": [IDS], "attention_mask": [[1] * 5]},
        {"input_ids": numpy.array([IDS]), "attention_mask": numpy.ones((1, 5), dtype=bool)},
        UserDict({"input_ids": numpy.array([IDS])}),
        {"input_ids": [numpy.array(IDS)]},
        {"input_ids": [[0, 0, *IDS]], "attention_mask": [[0, 0, 1, 1, 1, 1, 1]]},
        {"input_ids": [[*IDS, 0]], "attention_mask": [[1, 1, 1, 1, 1, 0]]},
        {"input_ids": [IDS], "token_type_ids": [[0] * 5]},
    ],
)
def test_every_way_of_giving_ids_gives_the_same_bits(llama: HookedModel, inputs: Any) -> None:
    assert logits(llama, inputs) == logits(llama, [IDS])


@pytest.mark.torch
def test_tensors_of_torch_give_the_same_bits(llama: HookedModel) -> None:
    import torch

    ids = torch.tensor([IDS])
    for inputs in (ids, ids[0], {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, [ids[0]]):
        assert torch.equal(llama.forward(inputs)["logits"], llama.forward(IDS)["logits"])


def test_text_is_what_its_tokens_are(llama: HookedModel) -> None:
    tokenizer = llama.get_tokenizer()
    texts = ["The capital", "of France is Paris"]
    assert logits(llama, texts) == logits(llama, tokenizer(texts, padding=True))
    assert logits(llama, texts[0]) == logits(llama, tokenizer.encode(texts[0]))


def test_a_row_is_the_same_alone_and_in_a_batch(llama: HookedModel) -> None:
    rows = [IDS, [7], [1, 2, 3]]
    together = llama.forward(rows).raw("logits")
    for row, found in zip(rows, together, strict=True):
        assert found == llama.forward(row).raw("logits")[0]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([], "'input_ids' is empty"),
        ([[1, 2], []], "row 1 of 'input_ids' is empty"),
        ({"ids": [1]}, "no 'input_ids'; they have 'ids'"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, "row 0 of 'attention_mask' has 1 values"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1, 1], [1, 1]]}, "'attention_mask' has 2 rows"),
        ({"input_ids": [[1, 2, 3]], "attention_mask": [[1, 0, 1]]}, "a hole at 1"),
        ({"input_ids": [[1, 2]], "attention_mask": [[0, 0]]}, "has no 1"),
        ({"input_ids": [[1, 2]], "attention_mask": [[2, 1]]}, "holds 2"),
        ({"input_ids": [1, 2], "position_ids": [0, 1]}, "'position_ids' is not something"),
        ({"input_ids": [1, 2], "pixel_values": [0]}, "vision tower"),
        ({"input_ids": [1, 2], "token_type_ids": [0, 1]}, "'token_type_ids'"),
        ([1, 2.5], "holds 2.5 at 1"),
        ([1, -1], "holds -1 at 1"),
        ([[1, 2], 3], "row 1 of 'input_ids' is int"),
        ([[[1]]], "holds lists"),
        (numpy.ones((1, 1, 2), dtype=int), r"shape \[1, 1, 2\]"),
        (numpy.array([0.5]), "not a whole number"),
        (None, "'input_ids' is NoneType"),
        ("", "row 0"),
        ([320], "token id 320 at 0 is beyond the vocabulary of 320"),
        ([1] * 5000, "5000 tokens"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(llama: HookedModel, inputs: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        llama.forward(inputs)


def test_the_callers_inputs_are_not_changed(llama: HookedModel) -> None:
    inputs = {"input_ids": [[0, 5, 6]], "attention_mask": [[0, 1, 1]]}
    llama.forward(inputs)
    assert inputs == {"input_ids": [[0, 5, 6]], "attention_mask": [[0, 1, 1]]}


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(JUNK | st.fixed_dictionaries({"input_ids": JUNK, "attention_mask": JUNK}))
def test_any_object_gives_rows_of_ids_or_a_clear_error(inputs: Any) -> None:
    try:
        rows = rows_of(inputs, None)
    except ValueError as error:
        assert str(error)
        return
    assert rows and all(row.ids and all(isinstance(one, int) for one in row.ids) for row in rows)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 319), min_size=1, max_size=6), min_size=1, max_size=4),
    st.sampled_from(["left", "right"]),
)
def test_padding_never_shows(rows: list[list[int]], side: str) -> None:
    width = max(map(len, rows))
    ids, masks = [], []
    for row in rows:
        fill = [0] * (width - len(row))
        ids.append(fill + row if side == "left" else row + fill)
        ones = [1] * len(row)
        masks.append(fill + ones if side == "left" else ones + fill)
    found = rows_of({"input_ids": ids, "attention_mask": masks}, None)
    assert [row.ids for row in found] == rows
