"""Small helpers for notebooks: change the working directory, and repeat key/value heads for their query heads."""

from __future__ import annotations

import os
from typing import Any

from easyroutine import tensors
from easyroutine.checks import whole
from easyroutine.errors import InputError

__all__ = ["path_to_parents", "path_to_relative", "repeat_kv"]


def path_to_parents(levels: int = 1) -> None:
    """Moves the working directory up ``levels`` times and prints it."""
    steps = whole(levels, "levels", 1)
    _change(os.path.join(os.getcwd(), *[os.pardir] * steps))


def path_to_relative(relative_path: str | os.PathLike[str]) -> None:
    """Moves the working directory to a path below it and prints it."""
    _change(os.path.join(os.getcwd(), os.fspath(relative_path)))


def _change(path: str) -> None:
    os.chdir(path)
    print(f"Changed working directory to: {os.getcwd()}")


def repeat_kv(hidden_states: Any, n_rep: int) -> Any:
    """Keys or values ``[B, K, S, h]`` with each of the K heads repeated ``n_rep`` times: ``[B, K n_rep, S, h]``.

    ``hidden_states`` is a torch tensor or a numpy array, and so is the result.
    """
    count = whole(n_rep, "n_rep", 1)
    if not (tensors.is_torch(hidden_states) or tensors.is_numpy(hidden_states)):
        raise InputError(f"hidden_states is {type(hidden_states).__name__}; it must be a tensor of torch or numpy")
    if hidden_states.ndim != 4:
        raise InputError(f"hidden_states has shape {list(hidden_states.shape)}; it must be [B, K, S, h]")
    if tensors.is_torch(hidden_states):
        return hidden_states.repeat_interleave(count, dim=1)
    return hidden_states.repeat(count, axis=1)
