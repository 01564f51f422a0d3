"""A value with a description."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["ValueWithInfo"]


class ValueWithInfo:
    """A value with a description, such as its axes. It behaves like the value, also with ``==``."""

    __slots__ = ("_info", "_value")

    def __init__(self, value: Any, info: str) -> None:
        self._value = value
        self._info = info

    def value(self) -> Any:
        """The value alone."""
        return self._value

    def info(self) -> str:
        """The description."""
        return self._info

    def __getattr__(self, name: str) -> Any:
        if name in ("_value", "_info") or (name.startswith("__") and name not in _PROTOCOLS):
            raise AttributeError(name)
        return getattr(self._value, name)

    def __getitem__(self, index: Any) -> Any:
        return self._value[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._value[index] = value

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._value)

    def __float__(self) -> float:
        return float(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return f"ValueWithInfo({self._value!r}, info={self._info!r})"

    # As for tensors: equality compares contents, hashing uses identity.
    __hash__ = object.__hash__

    def __reduce__(self) -> tuple[type[ValueWithInfo], tuple[Any, str]]:
        return type(self), (self._value, self._info)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def plain(value: Any) -> Any:
            if isinstance(value, ValueWithInfo):
                return value._value
            if isinstance(value, (list, tuple)):
                return type(value)(plain(one) for one in value)
            return value

        return func(*plain(tuple(args)), **{key: plain(value) for key, value in (kwargs or {}).items()})


#: The protocols by which numpy and torch read the numbers.
_PROTOCOLS = ("__array__", "__array_interface__", "__dlpack__", "__dlpack_device__")


def _unwrapped(value: Any) -> Any:
    return value._value if isinstance(value, ValueWithInfo) else value


def _binary(operation: Callable[[Any, Any], Any]) -> Callable[[ValueWithInfo, Any], Any]:
    def method(self: ValueWithInfo, other: Any) -> Any:
        return operation(self._value, _unwrapped(other))

    return method


def _unary(operation: Callable[[Any], Any]) -> Callable[[ValueWithInfo], Any]:
    def method(self: ValueWithInfo) -> Any:
        return operation(self._value)

    return method


def _reflected(operation: Callable[[Any, Any], Any]) -> Callable[[ValueWithInfo, Any], Any]:
    def method(self: ValueWithInfo, other: Any) -> Any:
        return operation(other, self._value)

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    setattr(ValueWithInfo, f"__{_name}__", _binary(getattr(operator, _name)))
    setattr(ValueWithInfo, f"__r{_name}__", _reflected(getattr(operator, _name)))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ValueWithInfo, f"__{_name}__", _binary(getattr(operator, _name)))
for _name in ("neg", "abs"):
    setattr(ValueWithInfo, f"__{_name}__", _unary(getattr(operator, _name)))
