"""Arithmetic on the engine's tensors, by numpy, or by torch if numpy is not installed; it returns their arrays."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from easyroutine._core import Tensor
from easyroutine.errors import MissingPackageError
from easyroutine.tensors import is_installed, is_torch

__all__ = ["equip"]

_BINARY = ("add", "sub", "mul", "truediv", "pow", "matmul")
_COMPARISONS = ("lt", "le", "gt", "ge")
_UNARY = ("neg", "abs")
_REDUCTIONS = {
    "mean": "The mean of all numbers, or along an axis.",
    "sum": "The sum of all numbers, or along an axis.",
    "min": "The smallest number, or those along an axis.",
    "max": "The largest number, or those along an axis.",
    "argmin": "Where the smallest number stands, counted over all numbers or along an axis.",
    "argmax": "Where the largest number stands, counted over all numbers or along an axis.",
}
#: torch's names for numpy's keywords.
_OF_TORCH = {"dim": "axis", "keepdim": "keepdims"}


def _as_array(value: Any) -> Any:
    """The engine's tensor as an array with arithmetic, sharing memory; anything else unchanged."""
    if not isinstance(value, Tensor):
        return value
    if is_installed("numpy"):
        return value.numpy()
    if is_installed("torch"):
        return value.torch()
    raise MissingPackageError(
        "arithmetic of tensors needs numpy or torch, and neither is installed", "pip install numpy"
    )


def _calculated(name: str, *values: Any) -> Any:
    if any(is_torch(value) for value in values):
        values = tuple(value.torch() if isinstance(value, Tensor) else value for value in values)
    return getattr(operator, name)(*map(_as_array, values))


def _binary(name: str) -> Callable[..., Any]:
    return lambda self, other, /: _calculated(name, self, other)


def _reflected(name: str) -> Callable[..., Any]:
    return lambda self, other, /: _calculated(name, other, self)


def _unary(name: str) -> Callable[..., Any]:
    return lambda self, /: _calculated(name, self)


def _reduction(name: str) -> Callable[..., Any]:
    def reduced(self: Tensor, axis: Any = None, **options: Any) -> Any:
        named = {_OF_TORCH.get(key, key): value for key, value in options.items()}
        if axis is not None:
            named["axis"] = axis
        return getattr(_as_array(self), name)(**named)

    return reduced


def _missing(self: Tensor, name: str) -> Any:
    raise AttributeError(
        f"easyroutine's Tensor has no attribute {name!r}; for what numpy and torch can do: .numpy(), .torch()"
    )


def _put(name: str, method: Callable[..., Any], says: str | None = None) -> None:
    method.__name__, method.__qualname__, method.__doc__ = name, f"Tensor.{name}", says
    setattr(Tensor, name, method)


def equip() -> None:
    """Adds operators and reductions to the engine's class; runs when the package is imported."""
    for name in _BINARY:
        _put(f"__{name}__", _binary(name))
        _put(f"__r{name}__", _reflected(name))
    for name in _COMPARISONS:
        _put(f"__{name}__", _binary(name))
    for name in _UNARY:
        _put(f"__{name}__", _unary(name))
    for name, says in _REDUCTIONS.items():
        _put(name, _reduction(name), says)
    _put("__getattr__", _missing)
