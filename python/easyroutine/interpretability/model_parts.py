"""The parts at a model's ends, for code that asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from easyroutine import tensors
from easyroutine._core import Lens, Model
from easyroutine.replaced import instead_of

__all__ = ["LMHead", "LastLayerNorm", "ModelConfig"]


class ModelConfig(Mapping[str, Any]):
    """A model's config: sizes under transformers' names, and every key of config.json, as attributes or by key."""

    def __init__(self, config: Mapping[str, Any], sizes: Mapping[str, Any]) -> None:
        self._values = {**config, **sizes}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._values:
            return self._values[name]
        instead = instead_of(self, name)
        if instead is not None:
            raise instead
        raise AttributeError(f"the config has no {name!r}; it has {', '.join(self._values)}")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def to_dict(self) -> dict[str, Any]:
        """The config as a new dictionary."""
        return dict(self._values)

    def __repr__(self) -> str:
        return f"ModelConfig({self._values!r})"


def layernorm_type(kind: str) -> str:
    """The original's name for a kind of norm: ``RMS`` or ``LayerNorm``."""
    return "RMS" if kind == "rms" else "LayerNorm"


@dataclass
class LMHead:
    """The unembedding."""

    #: [V, D] in float32, whichever dtype the model computes in.
    weight: Any
    #: [V], if there is one.
    bias: Any = None
    #: Logits are divided by this.
    divisor: float | None = None
    #: They then become ``c * tanh(logit / c)``.
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

    #: ``layer`` subtracts the mean; ``rms`` does not.
    kind: str
    #: Added under the square root.
    eps: float
    #: [D], including what the family adds to it.
    weight: Any = None
    #: [D], if there is one.
    bias: Any = None

    def weight_like(self, array: Any) -> Any:
        """The weight in an array's library; 1 if there is none."""
        return 1.0 if self.weight is None else _like(self.weight, array)

    def bias_like(self, array: Any) -> Any:
        """The bias in an array's library; 0 if there is none."""
        return 0.0 if self.bias is None else _like(self.bias, array)

    @classmethod
    def of(cls, model: Model) -> LastLayerNorm | None:
        """The final norm of a model."""
        found = Lens.of_model(model).final_norm()
        if found is None:
            return None
        kind, eps, weight, bias = found
        return cls(kind, eps, tensors.handed_out(weight), tensors.handed_out(bias))


def _like(value: Any, array: Any) -> Any:
    """Numbers in an array's library, on the device where it computes."""
    own = tensors.as_tensor(value, "a weight of the norm")
    if tensors.is_torch(array):
        return own.torch().to(array.device)
    return own.numpy()
