"""Means over examples, carried on from batch to batch."""

from __future__ import annotations

import warnings
from typing import Any

from easyroutine.checks import whole
from easyroutine.errors import InputError
from easyroutine.interpretability.activation_cache import MEAN, ActivationCache

__all__ = ["carried_on", "means_of"]


def carried_on(cache: ActivationCache | None, batch_idx: int | None) -> tuple[dict[str, Any], int]:
    """Means over the examples of earlier batches, and the number of those examples."""
    if batch_idx is not None and whole(batch_idx, "batch_idx") == 0:
        return {}, 0
    if cache is None:
        if batch_idx is None:
            return {}, 0
        raise InputError(
            f"batch_idx is {batch_idx}, and there are no means to go on from",
            "external_cache, the same cache for every batch, holds them",
        )
    means = means_of(cache)
    if not means:
        return {}, 0
    if batch_idx is None:
        raise InputError("external_cache holds means over examples: batch_idx says which batch this is, from 0")
    if cache._mean_rows is None:
        # Means that were set by hand: the original's batches had one row each.
        warnings.warn(
            f"external_cache does not say how many examples its means cover; assuming {batch_idx}, one per earlier batch. "
            "Pass the cache that earlier batches were given, or batch_idx=0 to begin anew",
            stacklevel=4,
        )
        return means, batch_idx
    return means, cache._mean_rows


def means_of(cache: ActivationCache) -> dict[str, Any]:
    """The means over examples in a cache."""
    return {key: cache.raw(key) for key in cache if key.startswith(MEAN)}
