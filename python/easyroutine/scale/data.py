"""Runs as Ray data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyroutine import tensors
from easyroutine.checks import whole
from easyroutine.errors import InputError
from easyroutine.interpretability.stored_run import StoredRun
from easyroutine.scale.cluster import ray_module

__all__ = ["dataset"]


def dataset(run: StoredRun, keys: Sequence[str] | str | None = None, *, block: int = 256) -> Any:
    """A run as a ``ray.data.Dataset`` with one record per row, in order: ``row``, the fields that the run kept, and
    ``keys``.

    ``row`` counts from 0, unless the run kept a field of this name, as ``--skip-empty`` does. ``keys`` are activations
    with one value per row, such as ``resid_out_5`` of the last tokens; by default all. Each task reads ``block`` rows
    from the store, so memory holds only the blocks in use.
    """
    ray = ray_module()
    n_rows = int(run.record.get("_store", {}).get("n_examples") or 0)
    fields = run.fields
    found = [key for key in run if _is_by_rows(run, key, n_rows)]
    wanted = found if keys is None else [keys] if isinstance(keys, str) else list(keys)
    wrong = [key for key in wanted if key not in found]
    if wrong:
        raise InputError(
            f"{', '.join(map(repr, wrong))} of the run: no value per row of one shape",
            f"it has {', '.join(map(repr, found[:8])) or 'none'}",
        )
    block = whole(block, "block", 1)
    read = _Reader(run, [*fields, *wanted], block)
    starts = ray.data.range(-(-n_rows // block), override_num_blocks=max(1, -(-n_rows // block)))
    # Otherwise blocks come in the order in which they are read.
    starts.context.execution_options.preserve_order = True
    return starts.flat_map(read)


class _Reader:
    def __init__(self, run: StoredRun, keys: list[str], block: int) -> None:
        self.run, self.keys, self.block = run, keys, block

    def __call__(self, numbered: dict[str, Any]) -> list[dict[str, Any]]:
        numpy = tensors.needed("numpy", "scale.dataset()")
        n_rows = int(self.run.record["_store"]["n_examples"])
        start = int(numbered["id"]) * self.block
        stop = min(start + self.block, n_rows)
        columns = {key: self.run.rows(key, start, stop) for key in self.keys}
        is_plain = {key: isinstance(value, list) for key, value in columns.items()}
        return [
            {
                "row": start + row,
                **{k: v[row] if is_plain[k] else numpy.asarray(v[row]) for k, v in columns.items()},
            }
            for row in range(stop - start)
        ]


def _is_by_rows(run: StoredRun, key: str, n_rows: int) -> bool:
    if key in run.fields:
        return False
    try:
        shape = run.shape(key)
    except InputError:
        return False
    return run.kind(key) == "dense" and len(shape) > 1 and shape[0] == n_rows
