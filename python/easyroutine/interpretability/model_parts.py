"""What a model's ends are made of, for code that asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from easyroutine import tensors
from easyroutine._core import Lens, Model

__all__ = ["LMHead", "LastLayerNorm", "ModelConfig"]


class ModelConfig(Mapping[str, Any]):
    """A model's config: sizes under the names of transformers, and every key of config.json, as attributes or by key."""

    def __init__(self, config: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
        self._values = {**config, **sizes}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"the config has no {name!r}; it has {', '.join(self._values)}") from None

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def to_dict(self) -> dict[str, Any]:
        """As a dictionary of its own."""
        return dict(self._values)

    def __repr__(self) -> str:
        return f"ModelConfig({self._values!r})"


@dataclass
class LMHead:
    """The unembedding."""

    #: [V, D] in float32, whatever the model is computed in.
    weight: Any
    #: [V], where there is one.
    bias: Any = None
    #: Logits are divided by this.
    divisor: float | None = None
    #: Then they become ``c * tanh(logit / c)``.
    softcap: float | None = None

    @classmethod
    def of(cls, model: Model) -> LMHead:
        """The unembedding of a model."""
        lens = Lens.of_model(model)
        bias, divisor, softcap = lens.rules()
        return cls(tensors.handed_out(lens.matrix()), tensors.handed_out(bias), divisor, softcap)


@dataclass
class LastLayerNorm:
    """The final norm."""

    #: ``layer``: the mean is removed; ``rms``: it is not.
    kind: str
    #: Added below the root.
    eps: float
    #: [D], whatever the family adds to it included.
    weight: Any = None
    #: [D], where there is one.
    bias: Any = None

    @classmethod
    def of(cls, model: Model) -> LastLayerNorm | None:
        """The final norm of a model."""
        found = Lens.of_model(model).final_norm()
        if found is None:
            return None
        kind, eps, weight, bias = found
        return cls(kind, eps, tensors.handed_out(weight), tensors.handed_out(bias))
