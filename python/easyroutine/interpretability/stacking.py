"""The heads of a layer as one array."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from easyroutine import tensors
from easyroutine._core import Tensor
from easyroutine.errors import InputError, KeyNotFoundError
from easyroutine.interpretability.value_with_info import ValueWithInfo

__all__ = ["stacked_heads"]


def stacked_heads(values: Mapping[str, Any], name: str) -> Any:
    """See :meth:`ActivationCache.stack_heads`."""
    pattern = re.compile(re.escape(name) + r"H(\d+)$")
    found = {int(match.group(1)): key for key in values if (match := pattern.match(key))}
    if not found:
        known = dict.fromkeys(key.rpartition("H")[0] for key in values if re.search(r"_L\d+H\d+$", key))
        raise KeyNotFoundError(
            f"the cache holds no heads of {name!r}; it holds those of {', '.join(map(repr, known)) or 'nothing'}"
        )
    heads = [_plain(values[found[head]]) for head in sorted(found)]
    if not isinstance(heads[0], list):
        return _stacked(heads, 1, name)
    if len({len(rows) for rows in heads}) > 1:
        raise InputError(f"the heads of {name!r} have different numbers of rows")
    return [_stacked(rows, 0, name) for rows in zip(*heads, strict=True)]


def _plain(value: Any) -> Any:
    return value.value() if isinstance(value, ValueWithInfo) else value


def _stacked(parts: Any, axis: int, name: str) -> Any:
    """Stacks arrays of one shape along a new axis, 0 or 1."""
    shapes = {tensors.shape_of(part) for part in parts}
    if len(shapes) > 1:
        raise InputError(f"the heads of {name!r} have different shapes: {', '.join(str(list(one)) for one in shapes)}")
    shape = shapes.pop()
    if any(tensors.is_torch(part) for part in parts):
        return sys.modules["torch"].stack([tensors._for_torch(part) for part in parts], dim=axis)
    if any(tensors.is_numpy(part) for part in parts):
        numpy = sys.modules["numpy"]
        return numpy.stack([numpy.asarray(part) for part in parts], axis=axis)
    data = [part.tobytes() for part in parts]
    if axis == 0:
        return Tensor.from_bytes(b"".join(data), [len(parts), *shape], parts[0].dtype)
    width = len(data[0]) // shape[0] if shape[0] else 0
    rows = (one[row * width : (row + 1) * width] for row in range(shape[0]) for one in data)
    return Tensor.from_bytes(b"".join(rows), [shape[0], len(parts), *shape[1:]], parts[0].dtype)
