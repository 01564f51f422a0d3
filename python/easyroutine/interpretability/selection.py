"""The tokens selected in every row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Union

from easyroutine._core import layers as layers_by_text
from easyroutine.checks import listed, whole
from easyroutine.errors import InputError

__all__ = ["Layers", "Position", "Selection", "as_json", "layer_numbers", "normalised"]

#: One way to name tokens of a row: ``"last"``, ``-1``, ``(2, 5)``, ``"text: Paris"``.
Position = Union[str, int, tuple[int, int]]

#: Layers: numbers, of which -1 is the last, and ``"emb"``; or one string such as ``"emb,0:30:5,-1"``.
Layers = Union[str, int, Iterable[Union[int, str]]]

#: For one row: indices in the row, and the columns of each specifier.
RowSelection = tuple[list[int], list[tuple[int, int]]]


@dataclass
class Selection:
    """The positions requested, and what they selected in each row."""

    specifiers: list[Position]
    rows: list[RowSelection]
    averaged: bool = False

    def tables(self, suffix: str = "") -> dict[str, dict[Any, Any]]:
        """``mapping_index`` and ``token_dict``, as the cache shows them."""
        mapping: dict[Any, Any] = {}
        tokens: dict[Any, Any] = {}
        for number, specifier in enumerate(self.specifiers):
            if specifier in mapping:
                # Requested twice: the first place is shown.
                continue
            columns = [list(range(*groups[number])) for _, groups in self.rows]
            if self.averaged:
                mapping[specifier] = [number]
            elif all(one == columns[0] for one in columns):
                mapping[specifier] = columns[0]
            else:
                mapping[specifier] = columns
            places = [[indices[c] for c in range(*groups[number])] for indices, groups in self.rows]
            tokens[specifier] = places[0] if len(places) == 1 else places
        if self.averaged:
            mapping["info"] = "avg"
        tables = {f"mapping_index{suffix}": mapping}
        if not suffix:
            tables["token_dict"] = tokens
        return tables

    @classmethod
    def joined(cls, parts: Sequence[Selection | None]) -> Selection | None:
        """The rows of all, or None if they are not for the same positions."""
        known = [part for part in parts if part is not None]
        if len(known) != len(parts) or not known:
            return None
        first = known[0]
        if any(part.specifiers != first.specifiers or part.averaged != first.averaged for part in known):
            return None
        return cls(first.specifiers, [row for part in known for row in part.rows], first.averaged)


def normalised(positions: Any, name: str = "target_token_positions") -> list[Position]:
    """Positions as a list: a bare one means a list of one, and a pair in a list is a range."""
    if isinstance(positions, (str, int)) or (
        isinstance(positions, tuple) and len(positions) == 2 and all(_is_int(one) for one in positions)
    ):
        positions = [positions]
    if not isinstance(positions, (list, tuple)):
        raise InputError(
            f"{name} is a list of positions, not {type(positions).__name__}",
            'for example "last", -1, (2, 5), "text: Paris"',
        )
    if not positions:
        raise InputError(f"{name} is empty", '["all"] names every token')
    return [_one(position, name) for position in positions]


def layer_numbers(layers: Layers, n_layers: int) -> list[int]:
    """Layer numbers in the order of the model, each once; -1 is the embedding.

    ``layers`` are numbers (negative ones count from the last) and strings in the usual grammar: ``"emb"``, ``"4:9"``,
    ``"0:30:5,-1"``.
    """
    if isinstance(layers, (str, int)):
        layers = [layers]
    found: set[int] = set()
    for layer in listed(layers, "layers", "layers"):
        if isinstance(layer, str):
            found.update(layers_by_text(layer, n_layers))
        else:
            found.add(whole(layer, "a layer", -n_layers, n_layers - 1) % n_layers)
    if not found:
        raise InputError("layers is empty", "leave it out for all of them")
    return sorted(found)


def _one(position: Any, name: str) -> Position:
    if isinstance(position, str):
        return position
    if _is_int(position):
        return whole(position, f"a position of {name}", -(2**63), 2**63 - 1)
    if isinstance(position, (list, tuple)) and len(position) == 2 and all(_is_int(one) for one in position):
        return (int(position[0]), int(position[1]))
    raise InputError(
        f"{name}: {position!r} names no tokens",
        'a position is a string such as "last", a whole number, or a pair (start, end)',
    )


def _is_int(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def as_json(positions: Sequence[Position]) -> str:
    """Positions in the engine's form."""
    return json.dumps(list(positions))
