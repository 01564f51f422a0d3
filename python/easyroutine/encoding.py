"""The output of a tokenizer, and rows of ids in the shapes that callers use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from easyroutine import tensors
from easyroutine.errors import InputError

__all__ = ["BatchEncoding", "TextSpans", "filled", "ids_of", "in_characters", "token_ids"]

_Item = TypeVar("_Item")

#: A text and the bytes that each of its tokens covers.
TextSpans = tuple[str, list[tuple[int, int]]]


class BatchEncoding(Mapping[str, Any]):
    """The output of a tokenizer: ``input_ids`` and ``attention_mask``, by key or attribute."""

    def __init__(self, data: Mapping[str, Any], texts: Sequence[TextSpans] | None = None) -> None:
        self.data = dict(data)
        #: The texts that the rows were cut from, for positions such as ``"text: Paris"``.
        self.texts = list(texts) if texts is not None else None

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "data":
            raise AttributeError(name)
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device: Any) -> BatchEncoding:
        """Moves torch tensors in place."""
        self.data = {k: v.to(device) if tensors.is_torch(v) else v for k, v in self.data.items()}
        return self

    def __repr__(self) -> str:
        return repr(self.data)


def token_ids(value: Any) -> list[int]:
    """The ids of one row: an integer, a list of them, or an array [S] or [1, S]."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], (list, tuple)):
        value = value[0]
    found = ids_of(value)
    return [found] if isinstance(found, int) else found


def ids_of(value: Any) -> Any:
    """An integer or a list of integers."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if hasattr(value, "__index__") and not isinstance(value, bool):
        found: Any = int(value)
        least = found
    else:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise InputError(f"token ids are whole numbers, not {type(value).__name__}")
        found = []
        for one in value:
            if isinstance(one, (list, tuple)) or isinstance(ids_of(one), list):
                raise InputError("token ids are of one row here", "batch_decode takes several rows")
            found.append(ids_of(one))
        least = min(found, default=0)
    if least < 0:
        raise InputError(f"token id {least} is below zero")
    if isinstance(found, int) and found >= 2**32:
        raise InputError(f"{found} is not a token id")
    return found


def filled(table: list[list[_Item]], filler: _Item, width: int, left: bool) -> list[list[_Item]]:
    """Pads rows to one width."""
    fills = [[filler] * (width - len(row)) for row in table]
    return [fill + row if left else row + fill for row, fill in zip(table, fills, strict=True)]


def in_characters(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Converts spans of bytes to spans of characters."""
    if text.isascii():
        return list(spans)
    written = text.encode()
    at, last = {0: 0}, 0
    for byte in sorted({byte for span in spans for byte in span}):
        at[byte] = at[last] + len(written[last:byte].decode())
        last = byte
    return [(at[start], at[end]) for start, end in spans]
