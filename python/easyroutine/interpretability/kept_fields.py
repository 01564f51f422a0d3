"""Fields of a data set's rows besides the text: a label, a number, the name of a source file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from easyroutine import tensors
from easyroutine.checks import listed, string
from easyroutine.errors import InputError

__all__ = ["kept_fields"]

#: The fields of a batch, its number of rows, and whether it is a single row.
BatchFields = tuple[Mapping[str, Any], int, bool]


def kept_fields(batches: Iterable[BatchFields], keep: Sequence[str] | None) -> list[tuple[str, list[Any]]]:
    """One value per row for each field: those named in ``keep``, or all that the batches hold."""
    if isinstance(keep, str):
        raise InputError("keep_fields is a list of names, not a string", f"keep_fields=[{keep!r}]")
    batches = list(batches)
    every = dict.fromkeys(name for said, _, _ in batches for name in said)
    names = (
        list(every)
        if keep is None
        else [string(name, "one of keep_fields") for name in listed(keep, "keep_fields", "names")]
    )
    fields: list[tuple[str, list[Any]]] = [(name, []) for name in names]
    first_row = 0
    for said, n_rows, is_one in batches:
        for name, values in fields:
            if name not in said:
                raise InputError(
                    f"row {first_row} of the data set has no {name!r}, and other rows have one"
                    if keep is None
                    else f"row {first_row} of the data set has no {name!r}; it has {_listed(said)}",
                    "keep_fields names the fields to keep; keep_fields=[] keeps none",
                )
            values.extend(_values(said[name], name, n_rows, is_one, first_row))
        first_row += n_rows
    return fields


def _listed(said: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, said)) or "nothing beside its text"


def _values(given: Any, name: str, n_rows: int, is_one: bool, first_row: int) -> list[Any]:
    """The values of the rows of one batch."""
    if tensors.is_array(given):
        given = given.tolist()
    if is_one:
        # A batch of one under another name: a list of one, as tokenizers and loaders make it.
        rows = given if isinstance(given, (list, tuple)) and len(given) == 1 else [given]
    elif isinstance(given, (list, tuple)):
        rows = list(given)
    else:
        rows = [given] if n_rows == 1 else []
    if len(rows) != n_rows:
        raise InputError(
            f"the field {name!r} of the batch that begins with row {first_row} does not have one value for each of its {n_rows} rows"
        )
    return [_plain(one, name, first_row + number) for number, one in enumerate(rows)]


def _plain(value: Any, name: str, row: int) -> Any:
    """A string, a number, a boolean or None."""
    if hasattr(value, "item") and not isinstance(value, (bool, int, float, str)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"the field {name!r} of row {row} is {value}, but a run keeps only finite numbers")
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise InputError(f"the field {name!r} of row {row} is a whole number beyond 64 bits", "keep it as a text")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(
        f"the field {name!r} of row {row} is {type(value).__name__}; kept fields are texts, numbers, True, False or None",
        "keep_fields names the fields to keep; keep_fields=[] keeps none",
    )
