"""Numbers, looked at before the engine has them."""

from __future__ import annotations

import operator
from typing import Any

from easyroutine.errors import InputError

__all__ = ["number", "token_id", "whole"]

#: What the engine counts with, and its ids.
_MOST = 2**64 - 1
_LARGEST_ID = 2**32 - 1


def whole(value: Any, name: str, least: int = 0, most: int = _MOST) -> int:
    """A whole number of any library, ``least`` or more."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {value!r}; it is a whole number") from None
    if isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; it is a whole number")
    if number < least:
        raise InputError(f"{name} is {number}; it is at least {least}")
    if number > most:
        raise InputError(f"{name} is {number}; it is at most {most}")
    return number


def token_id(value: Any, name: str) -> int:
    """The id of a token, of whatever vocabulary."""
    return whole(value, name, 0, _LARGEST_ID)


def number(value: Any, name: str) -> float:
    """A number of any library."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {value!r}; it is a number") from None
