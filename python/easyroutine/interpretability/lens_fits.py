"""Fits lenses: Jacobian lenses and tuned lenses."""

from __future__ import annotations

import json
from collections.abc import Callable
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

from easyroutine.checks import function, string, truth, whole
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
    resume: bool = False,
    on_progress: Callable[[int, int], Any] | None = None,
) -> dict[str, Any]:
    """Fits a Jacobian lens on prompts and writes it to ``path``, for :meth:`LogitLens.from_jacobian`.

    J of a layer is the mean over prompts of 1/|V| Σ ∂ last stream / ∂ ``resid_out``, where V is the positions without
    the first ``skip_first`` and the last. A ``.safetensors`` file holds J and the exact sums, a ``.pt`` file the
    published form. Returns the file's description, including ``uncertainty``, each layer's standard error relative to
    its norm.

    A fit that ends in an error or by Ctrl-C leaves its exact sums in a ``.safetensors`` file. With ``resume=True``, the same
    call continues after the last whole prompt, to the same bits; so does ``easyroutine jacobian fit --resume``, which can also
    run in parts.

    Raises:
        InputError: A ``path`` of another ending, no prompt long enough to count, ``resume`` with a ``.pt`` file, or with a file of
            another model, another ``skip_first`` or more prompts.
        UnsupportedError: A model in bfloat16, or one with a step that has no backward rule.
    """
    check_unchanged(model, "fit_jacobian_lens")
    name = fspath(path)
    if not name.endswith((".safetensors", ".pt")):
        raise InputError(f"path is {name!r}; a lens is written to a .safetensors or a .pt file")
    if truth(resume, "resume") and name.endswith(".pt"):
        raise InputError("resume=True: a .pt file does not hold exact sums", "fit into a .safetensors file")
    if on_progress is not None:
        function(on_progress, "on_progress")
    rows = [row.ids for row in model._rows(prompts, Chats({}))]
    text = model._engine.fit_jacobian(rows, name, whole(skip_first, "skip_first", 0), resume, on_progress)
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
    resume: bool = False,
    on_progress: Callable[[int, int], Any] | None = None,
) -> list[float]:
    """Trains a tuned lens on prompts and saves it in ``folder`` as the tuned-lens package reads it.

    The loss is the KL divergence from the model's own prediction to each layer's, summed over layers, with tuned-lens'
    optimisers and schedules. Returns the mean over layers of the loss of each step that this call made, in nats.

    A training that ends in an error or by Ctrl-C leaves its state in ``folder``. With ``resume=True``, the same call continues
    after the last whole step, to the same bits; so does ``easyroutine tune --resume``.

    Raises:
        InputError: No prompt, no step, an unknown optimiser, a loss that is not finite, or ``resume`` with a state of another
            model, other prompts or options, or after the training is done.
        UnsupportedError: A model in bfloat16.
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
        "resume": truth(resume, "resume"),
    }
    return model._engine.tune(rows, fspath(folder), settings, on_progress)
