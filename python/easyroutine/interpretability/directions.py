"""Probes that tell two classes apart, and steering vectors."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any, Literal

from easyroutine import tensors
from easyroutine._core import Directions as _Engine
from easyroutine._core import Tensor
from easyroutine.checks import listed, number, string, truth
from easyroutine.errors import InputError
from easyroutine.interpretability.interventions import Intervention
from easyroutine.interpretability.pictures import framed, written, written_bytes

__all__ = ["Directions"]

_KEY = re.compile(r"([a-z_]+)_L?(\d+)")


class Directions:
    """A vector for each layer of one site: of a probe, with a bias, or for steering, without.

    Made by :meth:`probe` and :meth:`steering` from activations, or read from a file by :meth:`load`. Activations are a
    cache from ``model.extract_cache`` or ``model.forward``, a run of a store, or any mapping from keys
    (``resid_out_5``) to arrays [B, D] or [B, 1, D], one vector per row.
    """

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        layers = engine.layers()
        #: The vector [D] of each layer.
        self.vectors: dict[int, Any] = {layer: tensors.handed_out(vector) for layer, vector, _ in layers}
        #: The bias of each layer; only for probes.
        self.biases: dict[int, float] = {layer: bias for layer, _, bias in layers if bias is not None}
        #: The site, ``resid_out``; empty if the file does not say.
        self.site: str = engine.site
        #: ``logistic``, ``mean_difference``, ``caa``, ``pca_diff`` or ``pca_center``; empty if the file does not say.
        self.method: str = engine.method
        #: For each key the fractions of rows (for steering: pairs) on the right side, ``fitted`` and ``held_out``, and
        #: the accuracy of ``chance``. Empty for a file.
        self.accuracy: dict[str, dict[str, float | None]] = {
            key: {"fitted": fitted, "held_out": held_out, "chance": chance}
            for key, fitted, held_out, chance in engine.accuracies()
        }

    @classmethod
    def probe(
        cls,
        activations: Mapping[str, Any],
        labels: Sequence[Any],
        *,
        keys: Sequence[str] | None = None,
        method: Literal["logistic", "mean_difference"] = "logistic",
        c: float = 1.0,
        standardise: bool = False,
        held_out: Sequence[bool] | None = None,
    ) -> Directions:
        """Fits one probe per layer on rows of two classes; x is in the positive class if vector · x + bias is above 0.

        ``labels`` have two values; the larger is positive. ``logistic`` minimises ½‖w‖² + C Σ log(1 + exp(−y(w·x +
        b))), scikit-learn's ``LogisticRegression(C=c)``, with ``standardise=True`` on coordinates of mean 0 and
        deviation 1, though the vector applies to activations as they are. ``mean_difference`` cuts halfway between the
        means. Rows marked in ``held_out`` are left out of the fit, by default every fourth of each class. ``keys``
        selects from ``activations``; by default all of the stream's ``resid_out``.
        """
        classes = _classes(labels)
        site, given = _vectors(activations, keys, len(classes))
        held = None if held_out is None else [truth(one, "one of held_out") for one in held_out]
        made = _Engine.probe(
            site,
            given,
            classes,
            method=string(method, "method"),
            c=number(c, "c"),
            standardise=truth(standardise, "standardise"),
            held=held,
        )
        for warning in made.warnings:
            warnings.warn(warning, stacklevel=2)
        return cls(made)

    @classmethod
    def steering(
        cls,
        positive: Mapping[str, Any],
        negative: Mapping[str, Any],
        *,
        keys: Sequence[str] | None = None,
        method: Literal["caa", "pca_diff", "pca_center"] = "caa",
    ) -> Directions:
        """Makes one vector per layer from pairs: row i of ``positive`` pairs with row i of ``negative``.

        ``caa`` is the mean of the differences, ``pca_diff`` the first principal component of the differences,
        ``pca_center`` that of both sides minus their midpoint (as in repeng's ControlVector). Held-out accuracy is over
        pairs in four folds, each scored with the vector of the others.
        """
        site, one = _vectors(positive, keys, None)
        _, other = _vectors(negative, [key for key, _, _ in one], None)
        return cls(_Engine.steering(site, one, other, string(method, "method")))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Directions:
        """Reads a .safetensors file or a llama.cpp control vector (GGUF)."""
        return cls(_Engine.open(fspath(path)))

    def save(self, path: str | PathLike[str], *, model_hint: str = "") -> None:
        """Writes ``direction_N`` and ``bias_N`` into a .safetensors file, or a control vector into a .gguf file.

        llama.cpp adds control vectors to ``resid_out``, without a bias and not in block 0; anything else is refused.
        """
        name = fspath(path)
        if name.endswith(".gguf"):
            written_bytes(self._engine.control_vector(string(model_hint, "model_hint")), name)
        elif name.endswith(".safetensors"):
            written_bytes(self._engine.safetensors(), name)
        else:
            raise InputError(f"{name}: directions are written to .safetensors or .gguf files")

    def steer(self, layer: int, strength: float = 1.0, token_positions: Any = ("all",)) -> Intervention:
        """An intervention that adds ``strength`` times the vector of a layer."""
        if layer not in self.vectors:
            raise InputError(f"no direction of layer {layer}: there are {sorted(self.vectors)}")
        site = self.site or "resid_out"
        return Intervention.add(f"{site}_{layer}", self.vectors[layer], strength, token_positions)

    def scores(self, activations: Any, layer: int) -> Any:
        """vector · x + bias for activations [..., D]: [...]."""
        return tensors.handed_out(self._engine.scores(layer, tensors.as_tensor(activations, "activations")))

    # Pictures of the accuracy by layer.

    def to_html(self, path: str | PathLike[str] | None = None) -> str:
        """A page with the accuracies of all layers."""
        return written(self._engine.html(), path)

    def to_svg(self, path: str | PathLike[str] | None = None) -> str:
        """The same page as an SVG picture."""
        return written(self._engine.svg(), path)

    def to_png(self, path: str | PathLike[str] | None = None, *, scale: float = 2.0) -> bytes:
        """The same as a PNG picture."""
        return written_bytes(self._engine.png(number(scale, "scale")), path)

    def _repr_html_(self) -> str:
        height = 160 + 20 * len(self.accuracy)
        return framed(self.to_html(), self.to_svg(), "accuracy by layer", height) if self.accuracy else repr(self)

    def __repr__(self) -> str:
        return f"Directions({self.method or 'unknown'}, {self.site or 'unknown'}, layers {sorted(self.vectors)})"


def _classes(labels: Any) -> list[bool]:
    """Labels as booleans: the larger of two is true."""
    values = (
        labels.tolist() if tensors.is_array(labels) or isinstance(labels, Tensor) else listed(labels, "labels", "label")
    )
    distinct = list(dict.fromkeys(values))
    if len(distinct) != 2:
        raise InputError(f"labels have {len(distinct)} values; two are expected")
    try:
        positive = max(distinct)
    except TypeError:
        raise InputError(
            f"labels are {distinct[0]!r:.40} and {distinct[1]!r:.40}, of which neither is larger"
        ) from None
    return [value == positive for value in values]


def _vectors(
    activations: Any, keys: Sequence[str] | None, rows: int | None
) -> tuple[str, list[tuple[str, int, Tensor]]]:
    """The site, and for each key its layer and vectors [B, D]."""
    if not isinstance(activations, Mapping):
        raise InputError(f"activations are {type(activations).__name__}; a cache, a run or a mapping is expected")
    if keys is None:
        keys = [key for key in activations if (found := _KEY.fullmatch(str(key))) and found[1] == "resid_out"]
        if not keys:
            raise InputError("activations hold no resid_out", "name others: keys=['mlp_out_3']")
    given = []
    for key in keys:
        found = _KEY.fullmatch(str(key))
        if found is None or key not in activations:
            raise InputError(f"activations hold no vectors of a layer under {key!r:.60}")
        value = activations[key]
        if isinstance(value, list) and value and hasattr(value[0], "shape"):
            # One array per row, where rows differ.
            value = [one[0] if len(one.shape) == 2 and one.shape[0] == 1 else one for one in value]
            value = [tensors.as_tensor(one, key).tolist() for one in value]
        tensor = tensors.as_tensor(value, key)
        if len(tensor.shape) == 3 and tensor.shape[1] == 1:
            tensor = tensor[:, 0]
        if len(tensor.shape) != 2 or rows not in (None, tensor.shape[0]):
            count = "one vector a row" if rows is None else f"{rows} vectors, one a label"
            raise InputError(f"{key}: {count} are expected, and the shape is {tuple(tensor.shape)}")
        given.append((found[1], (str(key), int(found[2]), tensor)))
    given.sort(key=lambda one: one[1][1])
    sites = {site for site, _ in given}
    if len(sites) != 1:
        raise InputError(f"keys are of {len(sites)} sites; directions are of one")
    return sites.pop(), [one for _, one in given]
