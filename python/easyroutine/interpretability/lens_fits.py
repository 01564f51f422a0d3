"""Fits lenses: Jacobian lenses and tuned lenses."""

from __future__ import annotations

import json
from collections.abc import Callable
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

from easyroutine.checks import function, string, whole
from easyroutine.conversations import Chats
from easyroutine.errors import InputError
from easyroutine.interpretability.patching import check_unchanged

if TYPE_CHECKING:
    from easyroutine.interpretability.hooked_model import HookedModel

__all__ = ["fit_jacobian_lens", "tune_lens"]


def fit_jacobian_lens(
    model: HookedModel,
    prompts: Any,
    path: str | PathLike[str],
    *,
    skip_first: int = 16,
    on_progress: Callable[[int, int], Any] | None = None,
) -> dict[str, Any]:
    """Fits a Jacobian lens on prompts and writes it to ``path``, for :meth:`LogitLens.from_jacobian`.

    J of a layer is the mean over prompts of 1/|V| Σ ∂ last stream / ∂ ``resid_out``, where V is the positions without
    the first ``skip_first`` and the last. A ``.safetensors`` file holds J and the exact sums, a ``.pt`` file the
    published form. Returns the file's description, including ``uncertainty``, each layer's standard error relative to
    its norm. For many prompts, ``easyroutine jacobian fit`` can be stopped, resumed and run in parts.
    """
    check_unchanged(model, "fit_jacobian_lens")
    name = fspath(path)
    if not name.endswith((".safetensors", ".pt")):
        raise InputError(f"path is {name!r}; a lens is written to a .safetensors or a .pt file")
    if on_progress is not None:
        function(on_progress, "on_progress")
    rows = [row.ids for row in model._rows(prompts, Chats({}))]
    text = model._engine.fit_jacobian(rows, name, whole(skip_first, "skip_first", 0), on_progress)
    found: dict[str, Any] = json.loads(text)
    return found


def tune_lens(
    model: HookedModel,
    prompts: Any,
    folder: str | PathLike[str],
    *,
    optimiser: Literal["sgd", "adam"] = "sgd",
    rate: float | None = None,
    steps: int = 250,
    rows_per_step: int = 8,
    seed: int = 0,
    on_progress: Callable[[int, int], Any] | None = None,
) -> list[float]:
    """Trains a tuned lens on prompts and saves it in ``folder`` as the tuned-lens package reads it.

    The loss is the KL divergence from the model's own prediction to each layer's, summed over layers, with tuned-lens'
    optimisers and schedules. Returns the mean over layers of every step's loss, in nats. ``easyroutine tune`` can be
    stopped and resumed.
    """
    check_unchanged(model, "tune_lens")
    if on_progress is not None:
        function(on_progress, "on_progress")
    rows = [row.ids for row in model._rows(prompts, Chats({}))]
    settings = {
        "optimiser": string(optimiser, "optimiser"),
        "rate": None if rate is None else float(rate),
        "steps": whole(steps, "steps", 0),
        "rows": whole(rows_per_step, "rows_per_step", 1),
        "seed": whole(seed, "seed"),
    }
    return model._engine.tune(rows, fspath(folder), settings, on_progress)
