"""Sparse autoencoders and transcoders: open their files, encode and decode activations."""

from __future__ import annotations

import json
import warnings
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

from easyroutine import tensors
from easyroutine._core import Dictionary as _Engine
from easyroutine._core import Tensor, sites
from easyroutine.checks import number, whole
from easyroutine.conversations import ChatArguments, Chats, takes_chats
from easyroutine.errors import InputError
from easyroutine.interpretability.dataset import as_given
from easyroutine.interpretability.extraction_config import ExtractionConfig
from easyroutine.interpretability.interventions import FeatureIntervention, as_list, for_engine
from easyroutine.interpretability.selection import as_json

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from easyroutine.interpretability.hooked_model import HookedModel
    from easyroutine.interpretability.interventions import Intervention

__all__ = ["Dictionary", "Features"]


@dataclass(frozen=True)
class Features:
    """The nonzero features of a run."""

    #: Row, place among the selected positions, feature: [n, 3], in ascending order.
    indices: Any
    #: Their values: [n].
    values: Any
    #: Rows, the most positions in a row, features of the dictionary.
    shape: tuple[int, int, int]

    def of_token(self, row: int, position: int) -> list[tuple[int, float]]:
        """One token's features with their values, strongest first. ``position`` counts the selected ones."""
        indices, values = self.indices.tolist(), self.values.tolist()
        here = [(at[2], value) for at, value in zip(indices, values, strict=True) if at[:2] == [row, position]]
        return sorted(here, key=lambda feature: (-feature[1], feature[0]))

    def dense(self) -> Any:
        """All of them, zeros included: [rows, positions, F']."""
        _, positions, width = self.shape
        numbers = array("f", bytes(4 * self.shape[0] * positions * width))
        for (row, position, feature), value in zip(self.indices.tolist(), self.values.tolist(), strict=True):
            numbers[(row * positions + position) * width + feature] = value
        return tensors.handed_out(Tensor.from_bytes(numbers.tobytes(), self.shape, "float32"))


class Dictionary:
    """A sparse autoencoder, a transcoder, or a set of transcoders with one per layer.

    Reads the formats of SAELens, Gemma Scope 1 and 2, sparsify, dictionary_learning, Qwen-Scope, Llama Scope and
    circuit-tracer. The weights stay in their files and are read as needed.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        place: str | None = None,
        norm_factor: float | None = None,
        threads: int | None = None,
        offline: bool = False,
    ) -> None:
        """Opens a folder, a file, or a place on the Hugging Face hub: ``org/name[@revision][:PATH]``.

        Of a repository only the dictionary's own files are downloaded, into the cache that models use; ``offline`` uses only
        what is there.

        ``place`` says where it reads and writes, overriding its files: an activation (``"resid_out_5"``), or two joined
        by a comma for a transcoder (``"mlp_in_5,mlp_out_5"``). ``norm_factor`` is √D / mean norm, for a format that
        scales activations by it without storing it.

        Raises an error that names everything wrong: unknown, missing or misshapen keys and tensors, a norm without its
        factor, more than one dictionary in the folder.
        """
        self._path = fspath(path)
        self._engine = _Engine.open(self._path, place=place, norm_factor=norm_factor, threads=threads, offline=offline)
        self._layers = self._engine.layers()
        #: Its description: format, architecture, layers with place, widths, norm and activation, and what its publisher
        #: says.
        self.certificate: dict[str, Any] = json.loads(self._engine.certificate())
        #: What the record of a run says about it.
        self._record = {
            "path": self._path,
            "format": self.certificate["format"],
            "architecture": self.certificate["architecture"],
            "place": place,
            "norm_factor": norm_factor,
        }
        for text in self.certificate["warnings"]:
            warnings.warn(text, stacklevel=2)

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        place: str | None = None,
        norm_factor: float | None = None,
        threads: int | None = None,
        offline: bool = False,
    ) -> Dictionary:
        """The same as ``Dictionary(path, ...)``."""
        return cls(path, place=place, norm_factor=norm_factor, threads=threads, offline=offline)

    @property
    def is_set(self) -> bool:
        """Whether it has one layer per layer of a model."""
        return bool(self.certificate["is_set"])

    @property
    def layers(self) -> list[int | None]:
        """The model layer that each of its layers writes to; one entry unless it is a set."""
        return [layer for layer, _ in self._layers]

    def fit(self, model: HookedModel) -> list[tuple[str, str]]:
        """Which activations of a model its layers read and write; raises an error if it does not fit the model."""
        self._tell_of_other_model(model, stacklevel=3)
        return self._engine.fit(model._engine)

    def check(self) -> None:
        """Reads every weight once; raises an error naming any that is NaN or infinite."""
        self._engine.check()

    def encode(self, x: Any, layer: int | None = None) -> Any:
        """Features [..., F'] of activations ``x`` [..., D_in]. For a set, ``layer`` is the model's layer."""
        return tensors.handed_out(self._engine.encode(self._at(layer), tensors.as_tensor(x, "x")))

    def decode(self, features: Any, x: Any, layer: int | None = None) -> Any:
        """Decodes features [..., F'] to [..., D_out]; ``x`` [..., D_in] is what they were encoded from.

        For a cross-layer set, ``features`` is a list with the features of every layer up to ``layer``.
        """
        at = self._at(layer)
        sources = self._layers[at][1]
        given = list(features) if len(sources) > 1 else [features]
        if len(given) != len(sources):
            raise InputError(f"features of {len(sources)} layers are expected, and {len(given)} were given")
        arrays = [tensors.as_tensor(one, "features") for one in given]
        return tensors.handed_out(self._engine.decode(at, arrays, tensors.as_tensor(x, "x")))

    def direction(self, feature: int, layer: int | None = None, target: int | None = None) -> Any:
        """What a feature of value 1 adds where it writes, [D_out]; for a cross-layer set, where layer ``target`` writes."""
        at = self._at(layer)
        return tensors.handed_out(self._engine.direction(feature, at, at if target is None else self._at(target)))

    # Interventions on features. For a set, ``layer`` is the model's layer.

    def ablate(self, feature: int, *, token_positions: Any = ("all",), layer: int | None = None) -> FeatureIntervention:
        """Removes what a feature writes; the dictionary's error stays."""
        return self._change("set", feature, 0.0, token_positions, layer)

    def clamp(
        self, feature: int, value: float, *, token_positions: Any = ("all",), layer: int | None = None
    ) -> FeatureIntervention:
        """Sets a feature to a value; the dictionary's error stays."""
        return self._change("set", feature, value, token_positions, layer)

    def scale(
        self, feature: int, factor: float, *, token_positions: Any = ("all",), layer: int | None = None
    ) -> FeatureIntervention:
        """Multiplies a feature; the dictionary's error stays."""
        return self._change("scale", feature, factor, token_positions, layer)

    def steer(
        self, feature: int, strength: float, *, token_positions: Any = ("all",), layer: int | None = None
    ) -> FeatureIntervention:
        """Adds ``strength`` times the feature's decoder row, as :meth:`direction` gives it."""
        return self._change("steer", feature, strength, token_positions, layer)

    def patch(
        self,
        found: Features,
        feature: int,
        *,
        row: int = 0,
        positions: Sequence[int] | None = None,
        layer: int | None = None,
    ) -> list[FeatureIntervention]:
        """Gives a feature the values that it has in another prompt, position by position: ``found`` is what :meth:`features`
        keeps of row ``row`` of that prompt at all positions, and where it has no entry the feature becomes 0.

        One intervention a position; ``positions`` names some of those of the other prompt.
        """
        _, length, _ = found.shape
        every = list(range(length)) if positions is None else [whole(one, "a position") for one in positions]
        outside = [position for position in every if not 0 <= position < length]
        if outside:
            raise InputError(f"position {outside[0]} is outside the row that was kept, which has {length} tokens")
        values = {position: dict(found.of_token(row, position)).get(feature, 0.0) for position in every}
        return [
            self.clamp(feature, value, token_positions=[position], layer=layer) for position, value in values.items()
        ]

    def splice(
        self, *, keep_error: bool = False, token_positions: Any = ("all",), layer: int | None = None
    ) -> FeatureIntervention:
        """Replaces the activation with what the features decode to; for a set in all layers, unless you name one.

        ``keep_error=True`` adds the dictionary's error back: nothing changes, to the bit, unless a feature is changed
        too.
        """
        layers = [self._at(layer)] if layer is not None or not self.is_set else list(range(len(self._layers)))
        change: Literal["keep_error", "splice"] = "keep_error" if keep_error else "splice"
        return FeatureIntervention(self._path, self._engine, layers, None, change, 0.0, token_positions)

    def _change(
        self,
        change: Literal["set", "scale", "steer"],
        feature: int,
        value: float,
        token_positions: Any,
        layer: int | None,
    ) -> FeatureIntervention:
        at = self._at(layer)
        count = self.certificate["layers"][at]["n_features"]
        if not 0 <= whole(feature, "feature") < count:
            raise InputError(f"no feature {feature}: the dictionary has {count}, 0 to {count - 1}")
        checked = number(value, "the value of a feature")
        return FeatureIntervention(self._path, self._engine, [at], feature, change, checked, token_positions)

    @takes_chats
    def features(
        self,
        model: HookedModel,
        inputs: Any,
        target_token_positions: Any = ("all",),
        *,
        layer: int | None = None,
        interventions: Sequence[Intervention] | None = None,
        seed: int = 0,
        **chat: Unpack[ChatArguments],
    ) -> Features:
        """Runs a model and keeps the features of the selected tokens, after all interventions and hooks.

        It computes only what the dictionary needs. ``inputs`` and positions are those of :meth:`HookedModel.forward`.
        """
        at = self._at(layer)
        self._tell_of_other_model(model)
        chats = Chats(chat)
        rows = model._rows(inputs, chats)
        chats.finish()
        settings = {
            "layers": [at],
            "positions": as_json(as_given(target_token_positions)),
            "interventions": for_engine([*model.interventions, *as_list(interventions)]),
            "hooks": list(model._hooks.values()),
            "seed": whole(seed, "seed"),
        }
        ((indices, values, shape),) = self._engine.features(model._engine, [row.for_engine() for row in rows], settings)
        rows_, positions, features = shape
        return Features(tensors.handed_out(indices), tensors.handed_out(values), (rows_, positions, features))

    @takes_chats
    def measure(
        self,
        model: HookedModel,
        inputs: Any = None,
        target_token_positions: Any = ("all-text",),
        **chat: Unpack[ChatArguments],
    ) -> dict[str, Any]:
        """Measures what the dictionary does to a model on a text; by default a short one that comes with the package.

        ``layers``: for each layer ``l0``, ``explained_variance``, ``mse``, ``cosine``, ``active_features``.
        ``ce_clean``, ``ce_spliced`` and ``ce_zero`` are the mean cross-entropy of the next token, in nats: unchanged,
        with the decoded features in place of the activation (in all layers of a set), and with zeros there;
        ``ce_recovered`` and ``kl`` follow from them.
        """
        self._tell_of_other_model(model)
        chats = Chats(chat)
        rows = model._rows(_Engine.text() if inputs is None else inputs, chats)
        chats.finish()
        positions = as_json(as_given(target_token_positions))
        found: dict[str, Any] = json.loads(
            self._engine.measure(model._engine, [row.for_engine() for row in rows], positions)
        )
        return found

    def attribution(
        self,
        model: HookedModel,
        inputs: Any,
        metric: Literal["logit_diff", "logit", "logprob", "p"] = "logit_diff",
        *,
        answer: Any,
        against: Any = None,
        layer: int | None = None,
        interventions: Sequence[Intervention] | None = None,
    ) -> Features:
        """Each active feature's first-order effect on a metric: f · (what it writes · ∂metric/∂y).

        The number estimates how much the metric would fall with the feature ablated and the dictionary's error kept. A
        feature of a cross-layer set counts in every layer that it writes to. ``metric``, ``answer`` and ``against`` are
        those of :meth:`HookedModel.gradients`; all tokens count.
        """
        at = self._at(layer)
        targets = [target for target, (_, sources) in enumerate(self._layers) if at in sources]
        places = self.fit(model)
        reads, writes = ([places[target][end] for target in targets] for end in (0, 1))
        changes = as_list(interventions)
        gradients = model.gradients(inputs, writes, metric, answer=answer, against=against, interventions=changes)
        cache = model.forward(inputs, extraction_config=_reading([places[at][0], *reads]), interventions=changes)
        rows = model.rows_of(inputs)
        width = self.certificate["layers"][at]["n_features"]
        total: dict[tuple[int, int, int], float] = {}
        for target, read, write in zip(targets, reads, writes, strict=True):
            for row in range(len(rows)):
                x, own, gradient = (
                    tensors.as_tensor(value[row], key)
                    for value, key in (
                        (cache[places[at][0]], read),
                        (cache[read], read),
                        (gradients[f"{write}_gradients"], write),
                    )
                )
                indices, values = self._engine.attribution(at, target, x, own, gradient)
                for (position, feature), value in zip(indices.tolist(), values.tolist(), strict=True):
                    key = (row, position, feature)
                    total[key] = total.get(key, 0.0) + value
        found = sorted(total)
        numbers = array("q", [number for key in found for number in key])
        indices = Tensor.from_bytes(numbers.tobytes(), [len(found), 3], "int64")
        values = Tensor.from_bytes(array("f", [total[key] for key in found]).tobytes(), [len(found)], "float32")
        most = max(len(row.ids) for row in rows)
        return Features(tensors.handed_out(indices), tensors.handed_out(values), (len(rows), most, width))

    def _tell_of_other_model(self, model: HookedModel, stacklevel: int = 4) -> None:
        said = self._engine.other_model(model._engine)
        if said is not None:
            warnings.warn(said, stacklevel=stacklevel)

    def _at(self, layer: int | None) -> int:
        if layer is None:
            if self.is_set:
                raise InputError(f"this dictionary is a set: name one of its layers, {self.layers}")
            return 0
        if layer not in self.layers:
            raise InputError(f"the dictionary has no layer {layer}: it has {self.layers}")
        return self.layers.index(layer)

    def __repr__(self) -> str:
        first = self.certificate["layers"][0]
        return (
            f"Dictionary({self.certificate['format']}, {self.certificate['architecture']}, "
            f"{len(self._layers)} x {first['n_features']} features at {first['reads']})"
        )


def _reading(keys: Sequence[str]) -> ExtractionConfig:
    """A configuration that keeps only the sites of these keys."""
    flags = {name: flag for flag, name, _ in sites()}
    wanted: dict[str, Any] = {flags[key.rpartition("_")[0]]: True for key in keys}
    return ExtractionConfig(save_logits=False, **wanted)
