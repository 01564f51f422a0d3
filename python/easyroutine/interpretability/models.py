"""The sizes of a model. Loading one is :meth:`~easyroutine.interpretability.HookedModel.from_pretrained`."""

from typing import Any

from easyroutine.interpretability.model_parts import ModelConfig
from easyroutine.replaced import replaced_name

__all__ = ["ModelConfig"]


def __getattr__(name: str) -> Any:
    raise replaced_name(__name__, name)
