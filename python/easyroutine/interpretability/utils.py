"""Helpers that code for the original imports from here."""

from __future__ import annotations

from typing import Any

from easyroutine.replaced import replaced_name
from easyroutine.tokenizer import token_ids
from easyroutine.utils import repeat_kv

__all__ = ["get_attribute_by_name", "get_attribute_from_name", "repeat_kv", "to_string_tokens"]


def to_string_tokens(tokens: Any, processor: Any) -> list[str]:
    """The text of each id, decoded alone by ``processor``, a tokenizer; ``tokens`` are of one row."""
    return [str(processor.decode(one)) for one in token_ids(tokens)]


def get_attribute_by_name(obj: Any, attr_name: str) -> Any:
    """An attribute of an attribute: ``get_attribute_by_name(model, "config.batch_size")``; ``[0]`` is an item."""
    for part in attr_name.replace("[", ".").replace("]", "").split("."):
        obj = obj[int(part)] if part.isdecimal() else getattr(obj, part)
    return obj


def get_attribute_from_name(obj: Any, name: str) -> Any:
    """The same as :func:`get_attribute_by_name`."""
    return get_attribute_by_name(obj, name)


def __getattr__(name: str) -> Any:
    raise replaced_name(__name__, name)
