"""Converts arrays of any library to the form a run stores, and back."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from easyroutine import tensors
from easyroutine._core import Tensor
from easyroutine.errors import ExchangeError, InputError

__all__ = ["array_of", "bytes_of", "dtype_of", "plain", "raw_array"]

#: Types of numpy and torch as safetensors spells them.
_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
}
_NAMES = {stored: name for name, stored in _DTYPES.items()}
#: Stored as pairs of float64: safetensors has no such type.
_PAIRS = "complex128"


def raw_array(value: Any, name: str) -> tuple[tuple[str, list[int], bytes], str]:
    """Type, shape and bytes of an array, and a note on its class: its library, and its type if that is not the stored
    one.
    """
    if isinstance(value, Tensor):
        return (dtype_of(value, name), list(value.shape), bytes_of(value)), "easyroutine"
    flat = plain(value, name)
    kind = str(flat.dtype).removeprefix("torch.")
    if tensors.is_torch(value):
        torch = sys.modules["torch"]
        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise ExchangeError(
                f"{name} is a {type(value).__name__}, which would not come back as one", "its plain tensor"
            )
        note = "torch"
        if kind == _PAIRS:
            flat = torch.view_as_real(flat)
    else:
        numpy = sys.modules["numpy"]
        if type(value) not in (numpy.ndarray, numpy.memmap):
            raise ExchangeError(
                f"{name} is a {type(value).__name__}, which would not come back as one", "numpy.asarray(it)"
            )
        note = "numpy" if value.dtype.isnative else f"numpy {value.dtype.str}"
        if kind == _PAIRS:
            flat = flat.reshape(-1).view("float64").reshape((*flat.shape, 2))
    if kind == _PAIRS and " " not in note:
        note = f"{note} {_PAIRS}"
    return (dtype_of(flat, name), list(tensors.shape_of(flat)), bytes_of(flat)), note


def plain(value: Any, name: str) -> Any:
    """The array in a form whose bytes can be read."""
    if isinstance(value, Tensor):
        return value
    try:
        return tensors.plain_array(value)
    except ExchangeError as error:
        raise ExchangeError(f"{name} cannot be kept: {error.message}", error.hint) from error


def dtype_of(value: Any, name: str) -> str:
    """The type of an array's numbers as safetensors spells it."""
    text = str(value.dtype).removeprefix("torch.")
    if text not in _DTYPES:
        raise InputError(f"{name} holds numbers of type {text}, which a run cannot keep")
    return _DTYPES[text]


def bytes_of(value: Any) -> bytes:
    """The bytes of a plain array."""
    if isinstance(value, Tensor):
        return value.tobytes()
    if tensors.is_torch(value):
        if not value.numel():
            return b""
        torch = sys.modules["torch"]
        raw = value.contiguous().flatten().view(torch.uint8)
        return bytes(raw.numpy()) if tensors.is_installed("numpy") else bytes(raw.tolist())
    return bytes(value.tobytes())


def array_of(
    dtype: str, shape: Sequence[int], data: bytes, note: str | None = None, start: int = 0, end: int | None = None
) -> Any:
    """The array of the numbers from ``start`` to ``end`` in these bytes.

    It is of the library that ``note`` names, if installed; else the package's own for float32 and int64, and of torch
    or numpy for all other types.
    """
    width = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "F32": 4, "U32": 4, "I32": 4}.get(
        dtype, 8
    )
    part = data if start == 0 and end is None else data[start * width : None if end is None else end * width]
    library, _, kind = (note or "").partition(" ")
    if library == "torch" and tensors.is_installed("torch"):
        found = _of_torch(dtype, shape, part)
        return sys.modules["torch"].view_as_complex(found) if kind else found
    if library == "numpy" and tensors.is_installed("numpy") and dtype != "BF16":
        return _as_noted(_of_numpy(dtype, shape, part), kind)
    if dtype in ("F32", "I64"):
        return Tensor.from_bytes(part, list(shape), _NAMES[dtype])
    if tensors.is_installed("torch"):
        return _of_torch(dtype, shape, part)
    if dtype == "BF16":
        raise InputError("a tensor of bfloat16 needs torch: numpy has no such type", "pip install torch")
    return _of_numpy(dtype, shape, part)


def _as_noted(found: Any, kind: str) -> Any:
    """A numpy array in the type of its note: pairs as complex numbers, bytes in another order."""
    if not kind:
        return found
    noted = sys.modules["numpy"].dtype(kind)
    if noted.kind == "c" and noted.itemsize == 16:
        found = found.view(_PAIRS).reshape(found.shape[:-1])
    return found.astype(noted)


def _of_torch(dtype: str, shape: Sequence[int], part: bytes) -> Any:
    torch = tensors.needed("torch", f"a tensor of {dtype}")
    kind = getattr(torch, _NAMES[dtype], None)
    if kind is None:
        raise InputError(f"this version of torch has no numbers of type {_NAMES[dtype]}", "a newer torch, or numpy")
    # torch rejects an empty buffer.
    flat = torch.frombuffer(bytearray(part), dtype=kind) if part else torch.empty(0, dtype=kind)
    return flat.reshape(tuple(shape))


def _of_numpy(dtype: str, shape: Sequence[int], part: bytes) -> Any:
    numpy = tensors.needed("numpy", f"a tensor of {dtype}")
    return numpy.frombuffer(bytearray(part), dtype=_NAMES[dtype]).reshape(tuple(shape))
