"""Converts caches, dictionaries and tensors to the form a run stores, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from easyroutine import tensors
from easyroutine._core import Run
from easyroutine.checks import string
from easyroutine.errors import InputError
from easyroutine.interpretability.activation_cache import ActivationCache
from easyroutine.interpretability.metadata import leaf, unleaf
from easyroutine.interpretability.selection import Selection
from easyroutine.interpretability.stored_arrays import array_of, bytes_of, dtype_of, plain, raw_array
from easyroutine.interpretability.value_with_info import ValueWithInfo

__all__ = ["Node", "entries_of", "read_object", "read_rows", "read_value", "tensors_of", "written_object"]

#: The key under which a run's values say how the Python object was built from its tensors.
_LAYOUT = "python"

#: The prefix of the final norm's statistics in a run.
_STATISTICS = "last_layernorm."

Written = dict[str, Any]
#: How a value is built from tensors and JSON.
Node = Mapping[str, Any]
#: Type, shape, kind, numbers and offsets of a tensor.
Stored = tuple[str, list[int], str, bytes, list[int]]


def written_object(given: Any) -> tuple[list[Written], dict[str, Any]]:
    """The tensors, and the values beside them."""
    for key in given if isinstance(given, Mapping) else ():
        if isinstance(key, str):
            string(key, "a key of what is saved")
    writer = _Writer(given)
    if isinstance(given, ActivationCache):
        layout: dict[str, Any] = {
            "cache": writer.entries(given._values, len(given._selection.rows) if given._selection else None)
        }
        for name, selection in (("selection", given._selection), ("pattern_rows", given._pattern_rows)):
            if selection is not None:
                layout[name] = [selection.specifiers, selection.rows, selection.averaged]
    elif isinstance(given, Mapping):
        layout = {"dict": writer.entries(given, None)}
    else:
        layout = {"value": writer.node(given, "tensor", None)}
    values: dict[str, Any] = {_LAYOUT: layout}
    if isinstance(given, Mapping):
        # The commonly used values also go where programs in other languages find them.
        for key in ("mapping_index", "mapping_index_rows", "token_dict"):
            if isinstance(given.get(key), Mapping):
                values[key] = {_key_text(one): value for one, value in given[key].items()}
    return writer.tensors, values


class _Writer:
    def __init__(self, given: Any) -> None:
        self.tensors: list[Written] = []
        # Arrays of a cache come back in the type chosen at reading time; all others in the class they had.
        self._is_cache = isinstance(given, ActivationCache)

    def entries(self, given: Mapping[Any, Any], n_rows: int | None) -> list[list[Any]]:
        return [[_key_node(key), self.node(value, str(key), n_rows)] for key, value in given.items()]

    def node(self, value: Any, name: str, n_rows: int | None) -> dict[str, Any]:
        if isinstance(value, ValueWithInfo):
            return {"info": value.info(), "of": self.node(value.value(), name, n_rows)}
        if tensors.is_array(value):
            return self._tensor(value, name, n_rows)
        if isinstance(value, list) and len(value) == n_rows and value and all(map(tensors.is_array, value)):
            return self._ragged([plain(row, repr(name)) for row in value], name)
        if isinstance(value, Mapping):
            return {"dict": [[_key_node(k), self.node(v, f"{name}.{k}", n_rows)] for k, v in value.items()]}
        if isinstance(value, (list, tuple)):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [self.node(one, f"{name}.{number}", None) for number, one in enumerate(value)]}
        held, note = leaf(value, repr(name))
        return {"json": held} if note is None else {"json": held, "as": note}

    def _tensor(self, value: Any, name: str, n_rows: int | None) -> dict[str, Any]:
        if self._is_cache:
            flat, note = plain(value, repr(name)), None
            dtype, shape, data = dtype_of(flat, repr(name)), list(tensors.shape_of(flat)), bytes_of(flat)
        else:
            (dtype, shape, data), note = raw_array(value, repr(name))
        kind = "dense" if n_rows is not None and len(shape) > 1 and shape[0] == n_rows else "object"
        node = self._put(name, dtype, shape, kind, data, [])
        return node if note is None else {**node, "as": note}

    def _ragged(self, rows: list[Any], name: str) -> dict[str, Any]:
        dtype, *others = dict.fromkeys(dtype_of(row, repr(name)) for row in rows)
        if others:
            raise InputError(
                f"the rows of {name!r} are of several types: {dtype}, {', '.join(others)}",
                "make them one type; other keys may have others",
            )
        shapes = [tensors.shape_of(row) for row in rows]
        data = b"".join(bytes_of(row) for row in rows)
        if len({shape[1:] for shape in shapes}) == 1 and shapes[0]:
            ends = [shape[0] for shape in shapes]
            whole = [sum(ends), *shapes[0][1:]]
            node = self._put(name, dtype, whole, "rows", data, _offsets(ends))
            return {"rows": node["tensor"], "shapes": [list(shape) for shape in shapes]}
        sizes = [_size(shape) for shape in shapes]
        node = self._put(name, dtype, [sum(sizes)], "ragged_nd", data, _offsets(sizes))
        return {"rows": node["tensor"], "shapes": [list(shape) for shape in shapes]}

    def _put(
        self, name: str, dtype: str, shape: list[int], kind: str, data: bytes, offsets: list[int]
    ) -> dict[str, Any]:
        self.tensors.append(
            {"name": name, "dtype": dtype, "shape": shape, "kind": kind, "data": data, "offsets": offsets}
        )
        return {"tensor": name}


def entries_of(run: Run, values: Mapping[str, Any]) -> list[tuple[Any, Node]]:
    """The saved keys, each with how it is built from tensors; for another program's run, its tensors and values."""
    layout = values.get(_LAYOUT)
    if not isinstance(layout, Mapping):
        return _without_layout(run, values)
    if "value" in layout:
        return [("tensor", layout["value"])]
    return [(_key(key), node) for key, node in layout["cache" if "cache" in layout else "dict"]]


def read_object(run: Run, values: Mapping[str, Any], entries: Sequence[tuple[Any, Node]]) -> Any:
    """The saved object with these entries."""
    layout = values.get(_LAYOUT)
    if isinstance(layout, Mapping) and "value" in layout:
        return tensors.handed_out(read_value(entries[0][1], run.read))
    found = {key: read_value(node, run.read) for key, node in entries}
    if isinstance(layout, Mapping) and "dict" in layout:
        return {key: tensors.handed_out(value) for key, value in found.items()}
    cache = ActivationCache()
    cache._values.update(found)
    for name, attribute in (("selection", "_selection"), ("pattern_rows", "_pattern_rows")):
        if isinstance(layout, Mapping) and name in layout:
            specifiers, rows, averaged = layout[name]
            setattr(
                cache,
                attribute,
                Selection(
                    [tuple(one) if isinstance(one, list) else one for one in specifiers],
                    [(indices, [(a, b) for a, b in groups]) for indices, groups in rows],
                    averaged,
                ),
            )
    return cache


def read_rows(node: Node, run: Run, start: int, stop: int, key: str) -> Any:
    """Some examples of a value."""
    if "info" in node:
        return ValueWithInfo(read_rows(node["of"], run, start, stop, key), node["info"])
    if "dict" in node:
        return {_key(name): read_rows(one, run, start, stop, key) for name, one in node["dict"]}
    if "rows" in node:
        return read_value({**node, "shapes": node["shapes"][start:stop]}, lambda name: run.read_rows(name, start, stop))
    if "tensor" in node or "ragged" in node:
        found = run.read_rows(node.get("tensor", node.get("ragged")), start, stop)
        if found[2] != "object":
            return read_value(node, lambda name: found)
    raise InputError(f"{key!r} does not hold one value per example", "read all of it: run[key]")


def tensors_of(node: Node) -> list[str]:
    """Names of the tensors that make up a value."""
    for kind in ("tensor", "rows", "ragged"):
        if kind in node:
            return [str(node[kind])]
    if "info" in node:
        return tensors_of(node["of"])
    parts = [one for _, one in node["dict"]] if "dict" in node else node.get("tuple", node.get("list", []))
    return [name for one in parts for name in tensors_of(one)]


def _without_layout(run: Run, values: Mapping[str, Any]) -> list[tuple[Any, Node]]:
    entries: dict[Any, Node] = {}
    for name, _, _, kind in run.tensors():
        node = {"ragged" if kind in ("rows", "ragged_nd") else "tensor": name}
        if name.startswith(_STATISTICS):
            statistics = entries.setdefault(_STATISTICS.removesuffix("."), {"dict": []})
            statistics["dict"].append([name.removeprefix(_STATISTICS), node])
        else:
            entries[name] = node
    for key, value in values.items():
        if key in ("mapping_index", "mapping_index_rows", "token_dict") and isinstance(value, Mapping):
            value = {_text_key(one): inner for one, inner in value.items()}
        entries[key] = {"json": value}
    return list(entries.items())


def _row_shape(kind: str, rows: int, shape: Sequence[int]) -> list[int]:
    if kind == "rows":
        return [rows, *shape[1:]]
    side = round(rows**0.5)
    return [side, side] if side * side == rows else [rows]


def read_value(node: Node, read: Callable[[str], Stored]) -> Any:
    """Builds a value; ``read`` gives the type, shape, kind, numbers and offsets of a tensor."""
    if "json" in node:
        return unleaf(node["json"], node["as"]) if "as" in node else node["json"]
    if "tensor" in node:
        dtype, shape, _, data, _ = read(node["tensor"])
        return array_of(dtype, shape, data, node.get("as"))
    if "rows" in node:
        dtype, _, _, data, _ = read(node["rows"])
        out, at = [], 0
        for shape in node["shapes"]:
            size = _size(shape)
            out.append(array_of(dtype, shape, data, None, at, at + size))
            at += size
        return out
    if "ragged" in node:
        dtype, shape, kind, data, offsets = read(node["ragged"])
        width = _size(shape[1:])
        return [
            array_of(dtype, _row_shape(kind, b - a, shape), data, None, a * width, b * width)
            for a, b in zip(offsets, offsets[1:], strict=False)
        ]
    if "info" in node:
        return ValueWithInfo(read_value(node["of"], read), node["info"])
    if "dict" in node:
        return {_key(key): read_value(one, read) for key, one in node["dict"]}
    items = [read_value(one, read) for one in node["tuple" if "tuple" in node else "list"]]
    return tuple(items) if "tuple" in node else items


def _size(shape: Sequence[int]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size


def _offsets(lengths: Sequence[int]) -> list[int]:
    offsets = [0]
    for length in lengths:
        offsets.append(offsets[-1] + length)
    return offsets


def _key_node(key: Any) -> Any:
    """A key in a form that JSON preserves: strings and integers unchanged, a pair as a list."""
    if isinstance(key, (str, int)) and not isinstance(key, bool):
        return key
    if isinstance(key, tuple) and all(isinstance(one, int) for one in key):
        return list(key)
    raise InputError(f"a key is a text, a whole number or a pair of them, not {key!r}")


def _key(node: Any) -> Any:
    return tuple(node) if isinstance(node, list) else node


def _key_text(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(key, separators=(",", ":"))


def _text_key(text: str) -> Any:
    """The position that a JSON key means."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value if isinstance(value, int) else text
