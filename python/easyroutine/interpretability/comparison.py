"""Activations that another program wrote, beside ours and beside a run in float64."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import inf, isfinite, nan
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

from easyroutine.errors import InputError
from easyroutine.interpretability.patching import check_unchanged

if TYPE_CHECKING:
    from easyroutine.interpretability.hooked_model import HookedModel

__all__ = ["Apart", "Compared", "Comparison", "compare"]


@dataclass(frozen=True)
class Apart:
    """How far values are from those of a run in float64."""

    #: The largest difference over the largest exact value; infinite where one of both is not a number.
    error: float
    #: Their length over that of the exact values.
    magnitude: float
    #: The cosine of the angle between both.
    cosine: float
    #: Row, position and number of the largest difference.
    largest_at: tuple[int, int, int]


@dataclass(frozen=True)
class Compared:
    """One place of the model in both."""

    #: The activation, by our name.
    activation: str
    #: The tensor of the file that holds it.
    tensor: str
    #: ``same``; ``magnitude``: a factor makes them the same; ``direction``: none does; ``nan``: the file or the run holds NaN.
    verdict: Literal["same", "magnitude", "direction", "nan"]
    #: The largest difference over the largest value of the file. With NaN this and the next two are NaN.
    error: float
    #: The factor on our values that comes nearest to those of the file.
    factor: float
    #: What that factor leaves, over the length of the file's values.
    rest: float
    #: Row, position and number of the largest difference, or of the first NaN.
    largest_at: tuple[int, int, int]
    #: With ``exact=True`` who is wrong here.
    wrong: Literal["none", "file", "ours", "both"] | None
    #: With ``exact=True`` the file beside the run in float64.
    file: Apart | None
    #: With ``exact=True`` we beside it.
    ours: Apart | None


@dataclass(frozen=True)
class Comparison:
    """How a file compares with the model."""

    #: What is allowed of an error.
    tolerance: float
    #: Whether no place differs; with ``exact=True``, whether nobody is wrong.
    same: bool
    #: The first activation in the order of the pass that differs; with ``exact=True``, where somebody is wrong.
    first_wrong: str | None
    #: Who is wrong there.
    wrong: Literal["none", "file", "ours", "both"] | None
    #: What was compared, in the order of the pass.
    places: list[Compared]
    #: Tensors of the file that are not compared, each with the reason.
    passed_over: dict[str, str]


def compare(
    model: HookedModel,
    file: str | PathLike[str],
    *,
    tolerance: float | None = None,
    exact: bool = False,
) -> Comparison:
    """Compares the activations in a safetensors file with those of the model on the same tokens.

    The file has ``input_ids`` [B, S], an ``attention_mask`` where rows are padded, and activations [B, S, ...] under our names
    (``resid_out_5``), those of TransformerLens or of modules in transformers whose outputs they are; patterns are [B, H, S, S].
    Padding is not compared. With ``exact`` the model runs in float64 too, each operation from its formula on the same weights,
    and each place says who is wrong: the file, we, or both. ``tolerance`` is the largest difference that counts as none, over
    the largest value of the place: 1e-4, and 5e-2 in bfloat16.

    Raises:
        InputError: A tolerance that is no number from 0 on, ids that the model cannot run, registered interventions and hooks.
        FormatError: A file that cannot be read, has no ``input_ids``, or nothing that can be compared.
        UnsupportedError: With ``exact`` a model in bfloat16, whose weights are rounded, and a run that would take more than
            some ten minutes.
    """
    check_unchanged(model, "compare")
    if tolerance is not None and not (isinstance(tolerance, (int, float)) and isfinite(tolerance) and tolerance >= 0):
        raise InputError(f"tolerance is {tolerance!r}, and a difference is a number from 0 on, as 1e-4")
    if not isinstance(exact, bool):
        raise InputError(f"exact is True or False, not {exact!r}")
    found = json.loads(model._engine.compare(fspath(file), None if tolerance is None else float(tolerance), exact))
    return Comparison(
        tolerance=found["tolerance"],
        same=found["same"],
        first_wrong=found["first_wrong"],
        wrong=found.get("wrong"),
        places=[_place(place) for place in found["places"]],
        passed_over={one["tensor"]: one["reason"] for one in found["passed_over"]},
    )


def _place(place: dict[str, Any]) -> Compared:
    exact = place.get("exact")
    no_number = nan if place["verdict"] == "nan" else inf
    return Compared(
        activation=place["activation"],
        tensor=place["tensor"],
        verdict=place["verdict"],
        error=_number(place["error"], no_number),
        factor=_number(place["factor"], no_number),
        rest=_number(place["rest"], no_number),
        largest_at=_at(place["largest_at"]),
        wrong=None if exact is None else exact["wrong"],
        file=None if exact is None else _apart(exact["file"]),
        ours=None if exact is None else _apart(exact["ours"]),
    )


def _apart(apart: dict[str, Any]) -> Apart:
    error, magnitude, cosine = (_number(apart[name]) for name in ("error", "magnitude", "cosine"))
    return Apart(error, magnitude, cosine, _at(apart["largest_at"]))


def _number(x: float | None, no_number: float = inf) -> float:
    """JSON has neither infinity nor NaN: null stands for them."""
    return no_number if x is None else x


def _at(at: dict[str, int]) -> tuple[int, int, int]:
    return at["row"], at["position"], at["number"]
