"""What the engine kept, as a cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from easyroutine.interpretability.activation_cache import ActivationCache, ValueWithInfo
from easyroutine.interpretability.extraction_config import ExtractionConfig
from easyroutine.interpretability.selection import Position, Selection, normalised

__all__ = ["cache_of"]

#: Activations that the original returns with a description of their axes.
_WITH_INFO = ("head_queries_", "head_keys_", "head_values_", "head_out_")


def cache_of(kept: Mapping[str, Any], positions: list[Position], config: ExtractionConfig) -> ActivationCache:
    """What the engine kept as a cache."""
    cache = ActivationCache()
    statistics: dict[str, Any] = {}
    for key, value, info in kept["entries"]:
        if key.startswith("last_layernorm."):
            statistics[key.removeprefix("last_layernorm.")] = value
            cache["last_layernorm"] = statistics
        elif key.startswith(_WITH_INFO):
            cache[key] = ValueWithInfo(value, f"Shape: {info}")
        else:
            cache[key] = value
    cache._selection = Selection(positions, kept["selection"], kept["averaged"])
    cache.update(cache._selection.tables())
    rows = config.attn_pattern_row_positions
    # Blocks have one number per specifier, whatever the other activations have.
    blocks = config.attn_pattern_avg != "none"
    if kept["pattern_rows"] is not None and rows is not None:
        cache._pattern_rows = Selection(normalised(rows), kept["pattern_rows"], kept["averaged"] or blocks)
        cache.update(cache._pattern_rows.tables("_rows"))
    elif blocks:
        cache._pattern_rows = Selection(positions, kept["selection"], averaged=True)
    return cache
