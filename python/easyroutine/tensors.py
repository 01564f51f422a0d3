"""Exchange of numbers between the engine and other libraries."""

from __future__ import annotations

import importlib.util
import os
import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import inf
from typing import Any, Literal

from easyroutine._core import Tensor
from easyroutine.errors import EasyroutineError, ExchangeError, InputError, MissingPackageError

__all__ = ["Backend", "get_tensor_backend", "set_tensor_backend"]

Backend = Literal["auto", "torch", "numpy", "easyroutine"]
_BACKENDS = ("auto", "torch", "numpy", "easyroutine")
_chosen: str | None = None


@cache
def is_installed(package: str) -> bool:
    """Whether a package can be imported, found out without importing it."""
    return package in sys.modules or importlib.util.find_spec(package) is not None


def set_tensor_backend(name: Backend) -> None:
    """Chooses the type of returned activations.

    ``auto`` means ``torch.Tensor`` if torch is installed, else :class:`easyroutine.Tensor`. No choice copies. The
    environment variable ``EASYROUTINE_TENSORS`` sets the same.
    """
    global _chosen
    _checked(name, "tensor backend")
    _chosen = name


def get_tensor_backend() -> Literal["torch", "numpy", "easyroutine"]:
    """The type of returned activations."""
    name = _chosen or _checked(os.environ.get("EASYROUTINE_TENSORS") or "auto", "EASYROUTINE_TENSORS")
    if name == "auto":
        return "torch" if is_installed("torch") else "easyroutine"
    return name  # type: ignore[return-value]


def _checked(name: str, where: str) -> str:
    if name not in _BACKENDS:
        raise InputError(f"{where}: {name!r} is none of {', '.join(_BACKENDS)}")
    return name


def handed_out(value: Any) -> Any:
    """Converts the engine's tensors to the chosen library's, also within lists and dictionaries."""
    if isinstance(value, Tensor):
        backend = get_tensor_backend()
        if backend == "torch":
            return value.torch()
        return value.numpy() if backend == "numpy" else value
    if isinstance(value, list) and any(isinstance(one, Tensor) for one in value):
        return [handed_out(one) for one in value]
    if isinstance(value, dict) and any(isinstance(one, (Tensor, list)) for one in value.values()):
        return {key: handed_out(one) for key, one in value.items()}
    return value


def is_torch(value: Any) -> bool:
    """Whether this is a torch tensor, found out without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_numpy(value: Any) -> bool:
    """Whether this is a numpy array, found out without importing numpy."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def is_array(value: Any) -> bool:
    """Whether this is an array of any library."""
    return isinstance(value, Tensor) or is_torch(value) or is_numpy(value)


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of an array."""
    return tuple(int(size) for size in value.shape)


def nbytes(value: Any) -> int:
    """The size of an array's numbers in bytes."""
    return int(value.nbytes)


def as_tensor(value: Any, name: str) -> Tensor:
    """Numbers of any library, or nested lists, as a float32 tensor of the engine.

    Accepts views with any strides, tensors with gradients, other widths and byte orders; copies an array on a GPU to
    main memory. Rejects arrays without such numbers (complex, sparse, masked) and numbers beyond float32.
    """
    value = _without_info(value)
    if isinstance(value, Tensor):
        return value.float()
    try:
        if is_array(value):
            return Tensor.from_dlpack(plain_array(value)).float()
        if hasattr(value, "__dlpack__"):
            return Tensor.from_dlpack(value).float()
        if hasattr(value, "__array__") and is_installed("numpy"):
            return Tensor.from_dlpack(plain_array(needed("numpy", name).asarray(value))).float()
    except EasyroutineError as error:
        raise type(error)(f"{name}: {error.message}", error.hint) from error
    flat: list[float] = []
    shape = _flatten(value, flat, name, 0)
    return Tensor.from_bytes(array("f", flat).tobytes(), shape, "float32")


def plain_array(value: Any) -> Any:
    """A torch or numpy array as one in main memory, without gradient, in the machine's byte order.

    Raises ``ExchangeError`` for anything but a plain table of numbers: sparse, quantised, masked, of text or objects.
    """
    if is_torch(value):
        return _plain_torch(value)
    numpy = sys.modules["numpy"]
    if isinstance(value, numpy.ma.MaskedArray):
        raise ExchangeError("a masked array has no number where it is masked", "array.filled(0.0)")
    if value.dtype.kind not in "biufc":
        raise ExchangeError(f"an array of {value.dtype} does not hold numbers", "array.astype(float)")
    # Not every version exports arrays that are read-only, unaligned or of another byte order.
    return numpy.require(value, dtype=value.dtype.newbyteorder("="), requirements=["C", "A", "W", "E"])


def _plain_torch(value: Any) -> Any:
    torch = sys.modules["torch"]
    if value.layout != torch.strided:
        raise ExchangeError(f"a tensor of layout {value.layout} does not hold every number", "tensor.to_dense()")
    if value.is_quantized:
        raise ExchangeError("a quantised tensor holds codes, not numbers", "tensor.dequantize()")
    if value.device.type == "meta":
        raise ExchangeError("a tensor on torch's device 'meta' has a shape and no numbers")
    try:
        plain = value.detach().to("cpu")
        return plain.resolve_conj().resolve_neg()
    except (RuntimeError, NotImplementedError) as error:
        raise ExchangeError(f"torch cannot copy the tensor to main memory: {error}") from error


#: Lists nested deeper are not a table of numbers.
_DEEPEST = 32
#: The smallest number that rounds beyond the largest float32.
_LARGEST = (2 - 2**-24) * 2.0**127


def _flatten(value: Any, into: list[float], name: str, depth: int) -> list[int]:
    if depth > _DEEPEST:
        raise InputError(f"{name}: lists are nested more than {_DEEPEST} deep")
    value = _without_info(value)
    if is_array(value):
        value = as_tensor(value, name).tolist()
    if not isinstance(value, (list, tuple)):
        into.append(_number(value, name))
        return []
    shapes = [_flatten(one, into, name, depth + 1) for one in value]
    if any(shape != shapes[0] for shape in shapes):
        raise InputError(f"{name}: the nested lists are not of one shape")
    return [len(value), *(shapes[0] if shapes else [])]


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        # An integer beyond float64.
        number = _LARGEST
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name}: {type(value).__name__} is not a number") from None
    if _LARGEST <= abs(number) < inf:
        raise InputError(f"{name}: a number is beyond float32: {value!r:.40}")
    return number


def _without_info(value: Any) -> Any:
    # Imported here because `easyroutine.interpretability` imports this module.
    from easyroutine.interpretability.value_with_info import _unwrapped

    return _unwrapped(value)


def whole_numbers(rows: Sequence[Sequence[int]], kind: str | None) -> Any:
    """A table of integers as lists (None), ``pt`` or ``np``."""
    if kind is None:
        return rows
    if kind == "np":
        numpy = needed("numpy", 'return_tensors="np"')
        return numpy.array(rows, dtype=numpy.int64)
    torch = needed("torch", 'return_tensors="pt"')
    return torch.tensor(rows, dtype=torch.long)


def needed(package: str, what: str) -> Any:
    """Imports an optional package, or raises an error that says what needs it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingPackageError(f"{what} needs {package}, which is not installed", f"pip install {package}") from None


def concatenated(values: Sequence[Any]) -> Any:
    """Concatenates arrays of one kind along the first axis; arrays without axes count as one number.

    If the other axes differ, the result is a list of rows.
    """
    rows = [_with_rows(value) for value in values]
    inner = {shape_of(value)[1:] for value in rows}
    if len(inner) > 1:
        return [row for value in rows for row in value]
    if all(isinstance(value, Tensor) and value.dtype == rows[0].dtype for value in rows):
        length = sum(len(value) for value in rows)
        joined = b"".join(value.tobytes() for value in rows)
        return Tensor.from_bytes(joined, [length, *inner.pop()], rows[0].dtype)
    if any(is_torch(value) for value in rows):
        torch = sys.modules["torch"]
        return torch.cat([torch.as_tensor(_for_torch(value)) for value in rows])
    numpy = needed("numpy", "joining arrays of numpy")
    return numpy.concatenate([numpy.asarray(value) for value in rows])


def _with_rows(value: Any) -> Any:
    if shape_of(value):
        return value
    return value[None]


def _for_torch(value: Any) -> Any:
    return value.torch() if isinstance(value, Tensor) else value


def rows_of_hook(value: Any, key: str) -> Any:
    """Prepares what a hook returned for the engine."""
    name = f"what the hook at {key} returned"
    if isinstance(value, list) and value and all(is_array(one) for one in value):
        return [as_tensor(one, name) for one in value]
    if not is_array(value) and not hasattr(value, "__dlpack__"):
        raise InputError(f"{name} is {type(value).__name__}, neither None nor a tensor")
    return as_tensor(value, name)


def _torch_function(
    func: Callable[..., Any],
    types: Any,
    args: tuple[Any, ...] | None,
    kwargs: Mapping[str, Any] | None,
) -> Any:
    """Calls a torch function with the engine's tensors converted to torch's."""

    def converted(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.torch()
        if isinstance(value, (list, tuple)):
            return type(value)(converted(one) for one in value)
        return value

    arguments = [converted(value) for value in args or ()]
    return func(*arguments, **{key: converted(value) for key, value in (kwargs or {}).items()})
