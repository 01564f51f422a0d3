"""Converts another library's norm and unembedding to the engine's form."""

from __future__ import annotations

import copy
import sys
from typing import Any

from easyroutine import tensors
from easyroutine._core import Tensor
from easyroutine.errors import InputError
from easyroutine.interpretability.model_parts import LMHead

__all__ = ["head_of", "norm_numbers"]

#: Kind, eps, weight and bias of a norm.
NormNumbers = tuple[str, float, "Tensor | None", "Tensor | None"]

_EPS = ("eps", "variance_epsilon", "epsilon", "norm_eps")
_OTHERWISE = (
    "LastLayerNorm(kind, eps, weight, bias) says what it computes; model.get_last_layernorm() gives a model's own"
)


def head_of(given: Any, model_config: Any) -> LMHead:
    """An unembedding: ours unchanged; a matrix or torch module with the scale and softcap that the config names."""
    if isinstance(given, LMHead):
        return given
    weight, bias = getattr(given, "weight", given), getattr(given, "bias", None)
    config = _number_of(model_config, "text_config", lambda found: found) or model_config
    divisor = _number_of(config, "logits_scaling")
    scale = _number_of(config, "logit_scale")
    if scale is not None:
        divisor = (divisor or 1.0) / scale
    return LMHead(weight, bias, divisor, _number_of(config, "final_logit_softcapping"))


def _number_of(config: Any, name: str, read: Any = float) -> Any:
    found = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
    return None if found is None else read(found)


def norm_numbers(norm: Any) -> NormNumbers | None:
    """Kind, eps, weight and bias of a final norm.

    A torch module is probed: its output on a few vectors shows whether it subtracts the mean, and whether it multiplies
    by its weight or, like Gemma's, by 1 + weight.
    """
    if norm is None:
        return None
    weight, bias = (getattr(norm, name, None) for name in ("weight", "bias"))
    kind = getattr(norm, "kind", None)
    if kind is not None:
        return kind, float(norm.eps), _tensor(weight, "weight"), _tensor(bias, "bias")
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(norm, torch.nn.Module):
        raise InputError(f"a final norm is a LastLayerNorm or a module of torch, not {type(norm).__name__}", _OTHERWISE)
    with torch.no_grad():
        return _tried(norm, weight, bias, torch)


def _tried(norm: Any, weight: Any, bias: Any, torch: Any) -> NormNumbers:
    name = type(norm).__name__
    eps = next((getattr(norm, one) for one in _EPS if hasattr(norm, one)), None)
    if eps is None:
        # torch's own RMSNorm defaults to the type's eps.
        eps = torch.finfo(torch.float32).eps
    module = copy.deepcopy(norm).to("cpu", torch.float32).eval()
    shape: Any = getattr(norm, "normalized_shape", ()) if weight is None else weight.shape
    if len(shape) != 1:
        raise InputError(f"{name} is not a norm of vectors: its weight has shape {list(shape)}", _OTHERWISE)
    width = shape[0]
    vectors = torch.randn(4, width, generator=torch.Generator().manual_seed(0)) + 0.5
    # As small as eps too, so that its effect shows.
    vectors = torch.cat([vectors, vectors * float(eps) ** 0.5])
    try:
        found = module(vectors)
    except Exception as error:
        raise InputError(f"{name} cannot be applied to vectors of {width} numbers: {error}", _OTHERWISE) from error
    plain = 1.0 if module.weight is None else module.weight
    shift = getattr(module, "bias", None)
    for kind in ("rms", "layer"):
        centred = vectors - vectors.mean(-1, keepdim=True) if kind == "layer" else vectors
        scaled = centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps)
        for factor in (plain, 1.0 + plain):
            expected = scaled * factor + (0.0 if shift is None else shift)
            if isinstance(found, torch.Tensor) and torch.allclose(found, expected, rtol=1e-3, atol=1e-4):
                used = None if weight is None else _tensor(factor, "weight")
                return kind, float(eps), used, _tensor(shift, "bias")
    raise InputError(f"{name} computes neither a LayerNorm nor an RMSNorm of its weight and eps", _OTHERWISE)


def _tensor(value: Any, name: str) -> Tensor | None:
    return None if value is None else tensors.as_tensor(value, f"{name} of the norm")
