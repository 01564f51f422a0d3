"""Changes to what a model computes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from easyroutine import tensors
from easyroutine._core import Tensor
from easyroutine._core import recorded as _recorded
from easyroutine.checks import listed, number, string, truth, whole
from easyroutine.errors import InputError
from easyroutine.interpretability.selection import Position, as_json, normalised
from easyroutine.replaced import replaced_name

__all__ = ["FeatureIntervention", "Intervention", "InterventionConfig", "recorded"]

InterventionType = Literal[
    "full",
    "columns",
    "rows",
    "grid",
    "columns_pre_softmax",
    "rows_pre_softmax",
    "grid_pre_softmax",
    "keep-self-attn",
]


#: The numbers each operation reads; the others keep their defaults.
_READS = {
    "scale": "multiplication_value",
    "replace": None,
    "mean": None,
    "add": "strength",
    "resample": "source_row",
}


@dataclass
class Intervention:
    """One change: an activation, a part of it, and its new value.

    ``type="full"`` changes whole vectors at ``token_positions``: of streams (``resid_in_3``, ``resid_mid_3``,
    ``resid_out_3``), parts (``attn_out_3``, ``mlp_out_3``, ``head_out_L3H1``), ``queries_L3``, ``head_values_L3H1``,
    ``mlp_hidden_3`` and so on. The other types change a pattern ``pattern_L3H1``, after the softmax or before: its
    columns (keys), its rows (queries), or the cells where both meet (``token_positions=(rows, columns)``).

    Args:
        type: Which part of the activation.
        activation: Which activation; ``resid_out_*`` names all layers.
        token_positions: Which tokens; for a grid, a pair of lists.
        patching_values: The new value: a tensor that broadcasts to [B, T, width]. With None or ``"ablation"`` the old
            value is multiplied instead.
        multiplication_value: The factor of that multiplication: 0 is ablation. Before the softmax, 0 means minus
            infinity: an exact knock-out.
        apply_softmax: Whether to divide the changed rows of a pattern by their sums afterwards.
        operation: ``patch`` sets ``patching_values``, ``add`` adds ``strength`` times them, ``mean`` sets their mean;
            ``resample`` sets the values of row ``source_row`` at the same places.
        strength: The factor of ``add``.
        source_row: The row of ``resample``.
    """

    type: InterventionType
    activation: str
    token_positions: Any
    patching_values: Any = None
    multiplication_value: float = 0.0
    apply_softmax: bool = False
    operation: Literal["patch", "add", "mean", "resample"] = "patch"
    strength: float = 1.0
    source_row: int | None = None

    @classmethod
    def add(cls, activation: str, vector: Any, strength: float = 1.0, token_positions: Any = ("all",)) -> Intervention:
        """Steering: adds ``strength`` times a vector at the positions."""
        return cls("full", activation, token_positions, vector, operation="add", strength=strength)

    @classmethod
    def mean(cls, activation: str, values: Any, token_positions: Any = ("all",)) -> Intervention:
        """Sets the mean of these vectors, over all axes but the last, at every position."""
        return cls("full", activation, token_positions, values, operation="mean")

    @classmethod
    def resample(cls, activation: str, source_row: int, token_positions: Any = ("all",)) -> Intervention:
        """Sets the values of another row of the batch at the same places."""
        return cls("full", activation, token_positions, operation="resample", source_row=source_row)

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None

    def to_dict(self) -> dict[str, Any]:
        """The fields, with tensors as their shape and digest."""
        fields = dict(self.__dict__)
        if self.patching_values is not None and not isinstance(self.patching_values, str):
            values = tensors.as_tensor(self.patching_values, "patching_values")
            digest = hashlib.sha256(values.tobytes()).hexdigest()
            fields["patching_values"] = {"shape": list(values.shape), "sha256": digest}
        return fields

    def for_engine(self) -> dict[str, Any]:
        """The intervention in the engine's form."""
        positions, columns = self._parts()
        values = self.patching_values
        ablates = values is None or isinstance(values, str)
        if isinstance(values, str) and values != "ablation":
            raise InputError(f'{self._name()}: patching_values is None, "ablation" or a tensor, not {values!r}')
        if self.operation not in ("patch", "add", "mean", "resample"):
            raise InputError(f"{self._name()}: operation is patch, add, mean or resample, not {self.operation!r}")
        if self.operation in ("add", "mean") and ablates:
            raise InputError(f"{self._name()}: {self.operation} needs patching_values")
        if self.operation == "resample" and (not ablates or self.source_row is None):
            raise InputError(f"{self._name()}: resample needs source_row, and no patching_values")
        operation: str = self.operation
        if operation == "patch":
            operation = "scale" if ablates else "replace"
        self._check_read(operation)
        tensor: Tensor | None = None if ablates else tensors.as_tensor(values, f"{self._name()}: patching_values")
        return {
            "type": string(self.type, f"{self._name()}: type"),
            "activation": string(self.activation, "the activation of an intervention"),
            "positions": as_json(positions),
            "columns": None if columns is None else as_json(columns),
            "rescaled": truth(self.apply_softmax, f"{self._name()}: apply_softmax"),
            "operation": operation,
            "factor": number(
                self.strength if operation == "add" else self.multiplication_value,
                f"{self._name()}: {'strength' if operation == 'add' else 'multiplication_value'}",
            ),
            "values": tensor,
            "row": None if self.source_row is None else whole(self.source_row, f"{self._name()}: source_row"),
        }

    def _check_read(self, operation: str) -> None:
        """Rejects a number that would have no effect."""
        for field in fields(Intervention):
            if field.name not in _READS.values() or field.name == _READS[operation]:
                continue
            if getattr(self, field.name) != field.default:
                patch = {"scale": "patch without patching_values", "replace": "patch with patching_values"}
                what = patch.get(operation, operation)
                raise InputError(f"{self._name()}: {what} does not read {field.name}", f"leave {field.name} out")

    def _parts(self) -> tuple[list[Position], list[Position] | None]:
        """The positions and, for a grid, its columns."""
        given = self.token_positions
        if not str(self.type).startswith("grid"):
            return normalised(given, f"{self._name()}: token_positions"), None
        if not isinstance(given, (list, tuple)) or len(given) != 2:
            raise InputError(f"{self._name()}: token_positions of a grid are (rows, columns)")
        rows, columns = (normalised(one, f"{self._name()}: token_positions") for one in given)
        return rows, columns

    def _name(self) -> str:
        return f"intervention on {self.activation!r}"


class FeatureIntervention(Intervention):
    """A change of a dictionary's features, as made by :meth:`Dictionary.ablate` and its siblings.

    It may stand among other interventions wherever a model runs, and applies after those at its place. Gradients and
    runs of a store reject it.
    """

    def __init__(
        self,
        dictionary: Any,
        engine: Any,
        layers: list[int],
        feature: int | None,
        change: Literal["set", "scale", "steer", "splice", "keep_error"],
        value: float,
        token_positions: Any,
    ) -> None:
        super().__init__("full", "features", token_positions)
        self.dictionary, self.feature, self.change, self.value = str(dictionary), feature, change, value
        self._engine, self._layers = engine, layers

    def to_dict(self) -> dict[str, Any]:
        """Its fields, with the place of its dictionary."""
        return {
            "type": "features",
            "dictionary": self.dictionary,
            "layers": self._layers,
            "feature": self.feature,
            "operation": self.change,
            "value": self.value,
            "token_positions": normalised(self.token_positions, f"{self._name()}: token_positions"),
        }

    def for_engine(self) -> dict[str, Any]:
        """The intervention in the engine's form."""
        return {
            "dictionary": self._engine,
            "layers": self._layers,
            "feature": self.feature,
            "operation": self.change,
            "value": self.value,
            "positions": as_json(normalised(self.token_positions, f"{self._name()}: token_positions")),
        }

    def _name(self) -> str:
        return f"change of features of {self.dictionary}"

    def __repr__(self) -> str:
        which = "" if self.feature is None else f", feature {self.feature}"
        return f"FeatureIntervention({self.dictionary!r}{which}, {self.change} {self.value:g}, at {self.token_positions!r})"


#: The original's second name for it.
InterventionConfig = Intervention


def as_list(interventions: Any) -> list[Intervention]:
    """Interventions given as one, several or none; a dictionary holds the fields of one."""
    if interventions is None:
        return []
    if isinstance(interventions, (Intervention, dict)):
        interventions = [interventions]
    found = []
    for one in listed(interventions, "interventions", "Intervention"):
        if isinstance(one, dict):
            try:
                one = Intervention(**one)
            except TypeError as error:
                raise InputError(f"intervention: {error}") from None
        if not isinstance(one, Intervention):
            raise InputError(f"an intervention is an Intervention, not {type(one).__name__}")
        found.append(one)
    return found


def recorded(intervention: Intervention | Mapping[str, Any]) -> dict[str, Any]:
    """The fields as a run stores them, spelled the same way everywhere: values as a tensor, positions as lists.

    A mapping comes from a run's record and stays as it is.
    """
    if isinstance(intervention, FeatureIntervention) or not isinstance(intervention, Intervention):
        return as_written(intervention)
    fields, values = _recorded(intervention.for_engine())
    found: dict[str, Any] = json.loads(fields)
    return {**found, "patching_values": values}


def as_written(intervention: Intervention | Mapping[str, Any]) -> dict[str, Any]:
    """The fields as given, and as older versions recorded them."""
    if not isinstance(intervention, (Intervention, Mapping)):
        raise InputError(f"an intervention is an Intervention, not {type(intervention).__name__}")
    if isinstance(intervention, FeatureIntervention):
        intervention = intervention.to_dict()
    given = intervention.__dict__ if isinstance(intervention, Intervention) else intervention
    found = {key: _listed(value) for key, value in given.items() if key != "patching_values"}
    values = given.get("patching_values")
    is_array = values is not None and not isinstance(values, (str, Mapping))
    as_kept = tensors.as_tensor(values, "patching_values") if is_array else values
    return {key: as_kept if key == "patching_values" else found[key] for key in given}


def _listed(value: Any) -> Any:
    """Numbers of any library as Python numbers, and rows of them as lists."""
    if tensors.is_array(value):
        return value.tolist()
    if isinstance(value, (list, tuple, set, range)):
        return [_listed(one) for one in value]
    if hasattr(value, "item") and not isinstance(value, (int, float, str)):
        return value.item()
    return value


def for_engine(interventions: Sequence[Intervention]) -> list[dict[str, Any]]:
    """All of them in the engine's form."""
    return [one.for_engine() for one in interventions]


def __getattr__(name: str) -> Any:
    raise replaced_name(__name__, name)
