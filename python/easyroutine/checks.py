"""Checks of arguments before the engine sees them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from os import PathLike, fspath
from typing import Any

from easyroutine.errors import InputError

__all__ = ["folder", "function", "listed", "mapping", "number", "string", "sums_file", "token_id", "truth", "whole"]

#: The largest integer that the engine counts with, and the largest token id.
_MOST = 2**64 - 1
_LARGEST_ID = 2**32 - 1


def whole(value: Any, name: str, least: int = 0, most: int = _MOST) -> int:
    """An integer of any library, ``least`` or more."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {value!r}; it must be a whole number") from None
    if isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; it must be a whole number")
    if number < least:
        raise InputError(f"{name} is {number}; it must be at least {least}")
    if number > most:
        raise InputError(f"{name} is {number}; it must be at most {most}")
    return number


def sums_file(value: Any) -> str | None:
    """The file that keeps sums, if there is one."""
    file = None if value is None else string(fspath(value), "state")
    if file is not None and not file.endswith(".safetensors"):
        raise InputError(f"state is {file!r}; sums are kept in a .safetensors file")
    return file


def token_id(value: Any, name: str) -> int:
    """A token id, of whichever vocabulary."""
    return whole(value, name, 0, _LARGEST_ID)


def number(value: Any, name: str) -> float:
    """A number of any library."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {value!r:.80}; it must be a number that fits a float") from None


def string(value: Any, name: str) -> str:
    """A string that can be written as UTF-8."""
    if not isinstance(value, str):
        raise InputError(f"{name} is {value!r:.80}; it must be a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} holds half of a surrogate pair, {value[error.start]!r}, at {error.start}, which is not a character",
            'text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") mends it',
        ) from None
    return str(value)


def truth(value: Any, name: str) -> bool:
    """True or False, and nothing merely truthy."""
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise InputError(f"{name} is {value!r:.80}; it must be True or False")


def listed(value: Any, name: str, of: str) -> list[Any]:
    """The items of a list, a tuple, an array or a generator."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise InputError(f"{name} is {value!r:.80}; it must be a list of {of}")
    return list(value)


def function(value: Any, name: str) -> Callable[..., Any]:
    """A callable."""
    if callable(value):
        found: Callable[..., Any] = value
        return found
    raise InputError(f"{name} is {value!r:.80}; it must be a function")


def mapping(value: Any, name: str) -> Mapping[Any, Any]:
    """A mapping, such as a dictionary."""
    if not isinstance(value, Mapping):
        raise InputError(f"{name} is {value!r:.80}; it must be a dictionary")
    return value


def folder(value: Any, name: str) -> str:
    """A path, as a string."""
    if isinstance(value, bytes) or not isinstance(value, (str, PathLike)):
        raise InputError(f"{name} is {value!r:.80}; it must be a path")
    return string(fspath(value), name)
