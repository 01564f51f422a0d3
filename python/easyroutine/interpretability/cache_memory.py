"""The memory that a cache's values take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from easyroutine import tensors
from easyroutine._core import readable
from easyroutine.interpretability.value_with_info import ValueWithInfo

__all__ = ["bytes_of", "tree_of"]

#: The suffix of a key: a layer, or a layer and a head, of which the layer is kept.
_PLACE = re.compile(r"(.+?)(?:_\d+|(_L\d+)H\d+)$")

#: A size as text, or the sizes of a value's parts.
Size = str | dict[Any, Any] | list[Any]


def bytes_of(value: Any) -> int:
    """The size of a value in bytes: of an array, or of all arrays in it."""
    if isinstance(value, ValueWithInfo):
        return bytes_of(value.value())
    if tensors.is_array(value):
        return tensors.nbytes(value)
    if isinstance(value, Mapping):
        return sum(bytes_of(one) for one in value.values())
    if isinstance(value, (list, tuple)):
        return sum(bytes_of(one) for one in value if not isinstance(one, (int, float, str)))
    return 0


def tree_of(values: Mapping[str, Any], grouped: bool) -> dict[str, Size]:
    """The size of each value, largest first; ``grouped`` adds up one activation's layers, and each layer's heads."""
    by_size = sorted(values.items(), key=lambda entry: -bytes_of(entry[1]))
    if not grouped:
        return {key: _size(value) for key, value in by_size}
    groups: dict[str, list[Any]] = {}
    alone: dict[str, Size] = {}
    for key, value in by_size:
        place = _PLACE.match(key)
        if place is None or isinstance(value, (Mapping, list)):
            alone[key] = _size(value)
        else:
            groups.setdefault(place.group(1) + (place.group(2) or ""), []).append(value)
    tree: dict[str, Size] = {
        name: f"{readable(sum(map(bytes_of, parts)))} ({len(parts)} items)"
        for name, parts in sorted(groups.items(), key=lambda group: -sum(map(bytes_of, group[1])))
    }
    return {**tree, **alone}


def _size(value: Any) -> Size:
    if isinstance(value, Mapping):
        return {key: _size(one) for key, one in value.items()}
    if isinstance(value, list) and any(tensors.is_array(one) for one in value):
        return [_size(one) for one in value]
    return readable(bytes_of(value))
