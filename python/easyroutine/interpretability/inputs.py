"""The model's inputs as rows of ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from easyroutine import tensors
from easyroutine.checks import whole
from easyroutine.conversations import Chats, is_conversation
from easyroutine.errors import InputError

if TYPE_CHECKING:
    from easyroutine.tokenizer import TextSpans, Tokenizer

__all__ = ["Row", "is_prompt", "one_row", "pivots_of", "prompts_of", "rows_of"]

_LARGEST = 2**32


@dataclass
class Row:
    """One row: its ids without padding, its text with each token's bytes, if known, and how many ids at its end were
    generated.
    """

    ids: list[int]
    text: TextSpans | None = None
    n_new: int = 0

    def for_engine(self) -> tuple[list[int], TextSpans | None]:
        """The row in the engine's form."""
        return self.ids, self.text


def rows_of(
    inputs: Any,
    tokenizer: Callable[[], Tokenizer] | None = None,
    chats: Chats | None = None,
    context: int | None = None,
) -> list[Row]:
    """Rows of a prompt, several prompts, ids, an array of ids, or a mapping with ``input_ids``.

    A prompt is a text or a conversation, which is a list of messages; one of more than ``context`` tokens is rejected
    before all of it is tokenized. The caller's object is never changed.
    """
    if isinstance(inputs, Mapping):
        return _of_mapping(inputs)
    prompts = prompts_of(inputs)
    if prompts is None:
        return [Row(ids) for ids in _table(inputs, "input_ids")]
    if tokenizer is None:
        raise InputError("these are texts, and only token ids are taken here")
    cut, chats, rows = tokenizer(), Chats({}) if chats is None else chats, []
    for number, prompt in enumerate(prompts):
        is_text = isinstance(prompt, str)
        # A chat template has already written the special tokens.
        text = prompt if is_text else chats.text(prompt, cut)
        rows.append(_of_text(number, text, cut, context, add_special_tokens=is_text))
    return rows


def is_prompt(value: Any) -> bool:
    """Whether this is one text or one conversation."""
    return isinstance(value, str) or is_conversation(value)


def prompts_of(inputs: Any) -> list[Any] | None:
    """The prompts, each a text or a conversation; None if the inputs are ids."""
    if is_prompt(inputs):
        return [inputs]
    if not isinstance(inputs, (list, tuple)) or not any(map(is_prompt, inputs)):
        return None
    wrong = next((number for number, one in enumerate(inputs) if not is_prompt(one)), None)
    if wrong is not None:
        raise InputError(
            f"prompt {wrong} is {inputs[wrong]!r:.80}, beside prompts that are texts or conversations",
            'a conversation is a list of messages: [{"role": "user", "content": "..."}]',
        )
    return list(inputs)


def _of_text(number: int, text: str, tokenizer: Tokenizer, context: int | None, *, add_special_tokens: bool) -> Row:
    limit = None if context is None else context + 1
    ids, spans, is_whole = tokenizer.row(text, add_special_tokens, limit, stacklevel=7)
    if not is_whole and context is not None:
        raise InputError(
            f"row {number} has more than {context} tokens; the model was built for {context} at most",
            "keep its first tokens: tokenizer(text, truncation=True, max_length=…)",
        )
    return Row(ids, spans)


def pivots_of(given: Any) -> list[int]:
    """Where rows are cut: integers of any library."""
    if given is None:
        return []
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise InputError(f"pivot_positions is {type(given).__name__}; it must be a list of positions")
    return [whole(one, "a position of pivot_positions", -(2**63), 2**63 - 1) for one in given]


def one_row(rows: list[Row], what: str) -> Row:
    """The only row."""
    if len(rows) != 1:
        raise InputError(f"{what} of one prompt at a time, not of {len(rows)}")
    return rows[0]


def _of_mapping(inputs: Mapping[str, Any]) -> list[Row]:
    if "input_ids" not in inputs:
        keys = ", ".join(map(repr, inputs)) or "nothing"
        raise InputError(f"the inputs have no 'input_ids'; they have {keys}")
    ids = _table(inputs["input_ids"], "input_ids")
    mask_given = inputs.get("attention_mask")
    masks = None if mask_given is None else _table(mask_given, "attention_mask")
    for key in inputs:
        if key in ("input_ids", "attention_mask", "offset_mapping"):
            continue
        if key == "token_type_ids" and not any(map(any, _table(inputs[key], key))):
            continue
        if key == "pixel_values":
            raise InputError("'pixel_values': models with a vision tower are not built")
        raise InputError(f"{key!r} is not something that the model reads", "it reads 'input_ids' and 'attention_mask'")
    texts = getattr(inputs, "texts", None)
    if texts is not None and len(texts) != len(ids):
        texts = None
    rows = []
    for number, row in enumerate(ids):
        kept = row if masks is None else _unpadded(row, masks, number, len(ids))
        if not kept:
            raise InputError(f"row {number} of 'input_ids' is empty: a row needs at least one token")
        text = texts[number] if texts is not None and len(texts[number][1]) == len(kept) else None
        rows.append(Row(kept, text))
    return rows


def _unpadded(row: list[int], masks: list[list[int]], number: int, n_rows: int) -> list[int]:
    if len(masks) != n_rows:
        raise InputError(f"'attention_mask' has {len(masks)} rows, 'input_ids' {n_rows}")
    mask = masks[number]
    if len(mask) != len(row):
        raise InputError(f"row {number} of 'attention_mask' has {len(mask)} values, of 'input_ids' {len(row)}")
    wrong = next((one for one in mask if one not in (0, 1)), None)
    if wrong is not None:
        raise InputError(f"row {number} of 'attention_mask' holds {wrong}; a mask is made of 0 and 1")
    if 1 not in mask:
        raise InputError(f"row {number} of 'attention_mask' has no 1: the row is empty")
    first, end = mask.index(1), len(mask) - mask[::-1].index(1)
    if 0 in mask[first:end]:
        hole = mask.index(0, first)
        raise InputError(
            f"row {number} of 'attention_mask' has a hole at {hole}: the tokens of a row must be contiguous"
        )
    return row[first:end]


def _table(value: Any, key: str) -> list[list[int]]:
    """Integers with one or two axes, as rows."""
    if tensors.is_array(value):
        shape = tensors.shape_of(value)
        if len(shape) not in (1, 2):
            raise InputError(f"{key!r} has shape {list(shape)}; it must be [S] or [B, S]")
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple)):
        raise InputError(
            f"{key!r} is {type(value).__name__}; it must be a list, or an array of numpy or torch, of whole numbers"
        )
    if not value:
        raise InputError(f"{key!r} is empty")
    rows = [one.tolist() if hasattr(one, "tolist") else one for one in value]
    if not any(isinstance(one, (list, tuple)) for one in rows):
        rows = [rows]
    return [_row(row, number, key) for number, row in enumerate(rows)]


def _row(row: Any, number: int, key: str) -> list[int]:
    if not isinstance(row, (list, tuple)):
        raise InputError(f"row {number} of {key!r} is {type(row).__name__}, beside rows that are lists")
    if not row:
        raise InputError(f"row {number} of {key!r} is empty: a row needs at least one token")
    out = []
    for at, one in enumerate(row):
        if isinstance(one, (list, tuple)):
            raise InputError(f"row {number} of {key!r} holds lists; {key!r} is [S] or [B, S]")
        if isinstance(one, bool) and key != "input_ids":
            one = int(one)
        if isinstance(one, bool) or not hasattr(one, "__index__"):
            raise InputError(f"row {number} of {key!r} holds {one!r} at {at}, which is not a whole number")
        if not 0 <= int(one) < _LARGEST:
            raise InputError(f"row {number} of {key!r} holds {one} at {at}, which is not a token id")
        out.append(int(one))
    return out
