"""Metadata of a run as JSON and arrays, and back: each value returns equal and of its class, or is rejected by its
place.
"""

from __future__ import annotations

import base64
import json
import math
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from easyroutine import tensors
from easyroutine._core import Run
from easyroutine.errors import InputError
from easyroutine.interpretability.stored_arrays import array_of, raw_array

__all__ = ["Encoder", "has_arrays", "leaf", "record_of", "unleaf"]

#: Deeper values could not be read back.
_DEEPEST = 60
#: The key that marks an array in JSON.
_TENSOR = "_tensor"
_SEQUENCES: dict[type, str] = {tuple: "tuple", set: "set", frozenset: "frozenset"}
_KEYS: dict[type, str] = {int: "int", float: "float", bool: "bool", type(None): "none", tuple: "tuple"}


class Encoder:
    """Encodes values as JSON, with what JSON cannot hold beside it.

    ``arrays`` holds the arrays of ``{"_tensor": N}``: type, shape, bytes. ``types`` gives, by JSON pointer, the class
    of a value where JSON has no such class.
    """

    def __init__(self) -> None:
        self.arrays: list[tuple[str, list[int], bytes]] = []
        self.types: dict[str, Any] = {}

    def encoded(self, value: Any, place: str, pointer: str, depth: int = 0) -> Any:
        """A value as JSON; ``place`` names it in errors."""
        if depth > _DEEPEST:
            raise InputError(f"{place:.80}… is nested more than {_DEEPEST} deep")
        if tensors.is_array(value):
            raw, note = raw_array(value, place)
            self.types[pointer] = note
            self.arrays.append(raw)
            return {_TENSOR: len(self.arrays) - 1}
        kind = type(value)
        if kind is dict:
            return self._mapping(value, place, pointer, depth)
        if kind is list or kind in _SEQUENCES:
            if kind is not list:
                self.types[pointer] = _SEQUENCES[kind]
            items = sorted(value, key=repr) if kind in (set, frozenset) else value
            return [self.encoded(one, f"{place}[{n}]", f"{pointer}/{n}", depth + 1) for n, one in enumerate(items)]
        held, class_name = leaf(value, place)
        if class_name is not None:
            self.types[pointer] = class_name
        return held

    def written(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """JSON values with their arrays, in the engine's form."""
        return {"json": json.dumps(values), "arrays": self.arrays}

    def _mapping(self, value: dict[Any, Any], place: str, pointer: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        kinds: dict[str, str] = {}
        for key, one in value.items():
            text, kind = _key(key, place)
            if text in found:
                raise InputError(f"two keys of {place} are written {text!r}", "make them texts that differ")
            if text == _TENSOR:
                raise InputError(
                    f"{place} has the key {_TENSOR!r}, by which a run knows its arrays", "name it otherwise"
                )
            if kind is not None:
                kinds[text] = kind
            found[text] = self.encoded(one, f"{place}[{key!r}]", f"{pointer}/{_escaped(text)}", depth + 1)
        if kinds:
            self.types[pointer] = {"keys": kinds}
        return found


def record_of(text: str, opened: Callable[[], Run] | None) -> dict[str, Any]:
    """A record as originally given: restores arrays, tuples, keys and big numbers from their JSON form.

    ``opened`` gives the run, which is opened only for arrays. Without it arrays remain descriptions.
    """
    record: dict[str, Any] = json.loads(text)
    store = record.get("_store")
    types = store.get("types") if isinstance(store, dict) else None
    run: list[Run] = []

    def read(description: dict[str, Any], note: Any) -> Any:
        if opened is None:
            return description
        if not run:
            run.append(opened())
        dtype, shape, _, data, _ = run[0].read(str(description[_TENSOR]))
        made = array_of(dtype, shape, data, note if isinstance(note, str) else None)
        return tensors.handed_out(made) if note is None else made

    decoder = _Decoder(types if isinstance(types, dict) else {}, read)
    return {
        key: value if key == "_store" else decoder.decoded(value, f"/{_escaped(key)}") for key, value in record.items()
    }


def has_arrays(text: str) -> bool:
    """Whether a record may mention arrays."""
    return f'"{_TENSOR}"' in text


class _Decoder:
    """Undoes :class:`Encoder`. A note that does not fit is left alone: the value was changed after it was saved."""

    def __init__(self, types: Mapping[str, Any], read: Callable[[dict[str, Any], Any], Any]) -> None:
        self._types = types
        self._read = read

    def decoded(self, value: Any, pointer: str) -> Any:
        note = self._types.get(pointer)
        if isinstance(value, dict):
            if _TENSOR in value:
                return self._read(value, note)
            kinds = note.get("keys", {}) if isinstance(note, dict) else {}
            return {
                _key_of(key, kinds.get(key)): self.decoded(one, f"{pointer}/{_escaped(key)}")
                for key, one in value.items()
            }
        if isinstance(value, list):
            items = [self.decoded(one, f"{pointer}/{number}") for number, one in enumerate(value)]
            return next((kind for kind, name in _SEQUENCES.items() if name == note), list)(items)
        return unleaf(value, note)


def leaf(value: Any, place: str) -> tuple[Any, str | None]:
    """A single value as JSON holds it, and its class where JSON has no such class."""
    kind = type(value)
    if value is None or kind is bool:
        return value, None
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{place} is a text with half a surrogate pair, which no file of text holds") from None
        return value, None
    if kind is int:
        return (value, None) if -(2**63) <= value < 2**64 else (hex(value), "int")
    if kind is float:
        return (value, None) if math.isfinite(value) else (repr(value), "float")
    if kind is complex:
        return repr(value), "complex"
    if kind in (bytes, bytearray):
        return base64.b64encode(value).decode("ascii"), kind.__name__
    if isinstance(value, pathlib.Path):
        return leaf(str(value), place)[0], "path"
    found = _number_of_numpy(value)
    if found is None:
        raise InputError(
            f"{place} is of type {kind.__qualname__}, which cannot be kept with a run",
            "numbers, texts, bytes, paths, lists, tuples, sets, dict and arrays can",
        )
    return found


def unleaf(value: Any, note: Any) -> Any:
    """Undoes :func:`leaf`: the value it encoded as ``value`` and ``note``."""
    try:
        if note == "int":
            return int(value, 16)
        if note in ("float", "complex"):
            return float(value) if note == "float" else complex(value)
        if note in ("bytes", "bytearray"):
            data = base64.b64decode(value, validate=True)
            return data if note == "bytes" else bytearray(data)
        if note == "path":
            return pathlib.Path(value)
        if isinstance(note, str) and note.startswith("numpy.") and tensors.is_installed("numpy"):
            kind = tensors.needed("numpy", f"a number of {note}").dtype(note.removeprefix("numpy."))
            return kind.type(complex(value) if kind.kind == "c" else value)
    except (TypeError, ValueError):
        pass
    return value


def _number_of_numpy(value: Any) -> tuple[Any, str] | None:
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.generic):
        return None
    kind = value.dtype.kind
    if kind not in "biufc" or value.dtype.itemsize > (16 if kind == "c" else 8):
        return None
    held = value.item()
    return repr(held) if kind == "c" or not math.isfinite(held) else held, f"numpy.{value.dtype.name}"


def _key(key: Any, place: str) -> tuple[str, str | None]:
    """A key as text, and its class unless that is str."""
    kind = type(key)
    if kind is str:
        return str(leaf(key, f"a key of {place}")[0]), None
    if kind is tuple and all(type(one) in (int, str) for one in key):
        return json.dumps(key, separators=(",", ":")), "tuple"
    if kind in _KEYS and kind is not tuple:
        return repr(key), _KEYS[kind]
    raise InputError(
        f"{place} has the key {key!r:.60}, which cannot be kept with a run", "texts, numbers and tuples of them can"
    )


def _key_of(text: str, kind: str | None) -> Any:
    try:
        if kind == "tuple":
            return tuple(json.loads(text))
        if kind in ("int", "float"):
            return int(text) if kind == "int" else float(text)
    except (TypeError, ValueError):
        return text
    if kind == "bool":
        return text == "True"
    return None if kind == "none" else text


def _escaped(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")
