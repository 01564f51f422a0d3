"""The original's functions on PyTorch modules are not here: asking for a name says what to use instead."""

from typing import Any

from easyroutine.replaced import replaced_name

__all__: list[str] = []


def __getattr__(name: str) -> Any:
    raise replaced_name(__name__, name)
