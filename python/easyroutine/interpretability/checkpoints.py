"""Two checkpoints of one architecture: where they part, and which tensors cause it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

from easyroutine import _core
from easyroutine.errors import InputError
from easyroutine.hints import in_python

__all__ = ["CheckpointComparison", "compare_checkpoints"]


@dataclass(frozen=True)
class CheckpointComparison:
    """What ``easyroutine compare`` finds; docs/FORMATS.md describes every field of the dictionaries."""

    #: Whether all tensors hold the same numbers.
    equal: bool
    #: Of each layer, the embedding (-1) first: ``error``, ``cosine``, ``kl``, ``top_changed``, with their extremes.
    layers: list[dict[str, Any]]
    #: Of each head: ``layer``, ``head``, ``error``, ``cosine``.
    heads: list[dict[str, Any]]
    #: The last layer by position.
    by_position: list[dict[str, Any]]
    #: The last layer by token, those with the largest sums first.
    by_token: list[dict[str, Any]]
    #: The positions with the largest differences, each with all its layers.
    worst: list[dict[str, Any]]
    #: The tensors, the largest causes first: ``name``, ``error`` of the weights, ``removed``, ``added``.
    tensors: list[dict[str, Any]]
    #: The whole difference over the prompts that tensors were patched on; None if none were.
    patched: dict[str, Any] | None
    #: Everything, as the command line writes it: ``easyroutine.compare_models/1``.
    report: dict[str, Any]

    def to_html(self, path: str | PathLike[str] | None = None) -> str:
        """One page that needs no network; also written to ``path`` if one is given."""
        page = _core.checkpoints_page(json.dumps(self.report))
        if path is not None:
            Path(path).write_text(page, encoding="utf-8")
        return page

    def _repr_html_(self) -> str:
        return self.to_html()


def compare_checkpoints(
    a: str | PathLike[str],
    b: str | PathLike[str],
    prompts: str | Iterable[str | Sequence[int]],
    *,
    patch: Literal["removes", "adds", "both", "none"] = "removes",
    tensors: Sequence[str] | None = None,
    patch_tokens: int = 256,
    worst: int = 20,
    dtype: Literal["float32", "bfloat16"] = "float32",
    n_threads: int | None = None,
    memory: str | None = None,
    adapter: str | PathLike[str] | None = None,
    offline: bool = False,
) -> CheckpointComparison:
    """Runs two checkpoints of one architecture on the same prompts and compares them.

    ``a`` and ``b`` are a folder and its GGUF file, two quantisations, a base and its fine-tune: anything that
    ``HookedModel.from_pretrained`` takes. Differences are those of ``b`` from ``a``. Each model's streams go through its own
    final norm and unembedding; ``kl`` is KL(a ‖ b) in nats.

    ``patch`` says which way single tensors are exchanged to find what causes the difference: ``"removes"`` puts one tensor of
    ``a`` into ``b``, ``"adds"`` one of ``b`` into ``a``. ``tensors`` names those of ``a`` that are tried, with ``*`` for
    anything, all by default, over the first prompts with ``patch_tokens`` tokens in all. An ``adapter`` is applied to ``b``.

    Raises:
        UnsupportedError: Models that differ in sizes, or in names or shapes of tensors.
        InputError: No prompt, one without tokens or with more than the models take, a tensor that ``a`` does not have.
    """
    given: list[str | list[int]] = [prompts] if isinstance(prompts, str) else []
    if not isinstance(prompts, str):
        given = [p if isinstance(p, str) else list(p) for p in prompts]
    if not given:
        raise InputError("there is no prompt: give a text, or a list of texts or of lists of token ids")
    settings = {
        "patch": patch,
        "tensors": None if tensors is None else [tensors] if isinstance(tensors, str) else list(tensors),
        "patch_tokens": patch_tokens,
        "worst": worst,
        "dtype": dtype,
        "threads": n_threads,
        "memory": memory,
        "adapter": None if adapter is None else fspath(adapter),
        "offline": offline,
    }
    text, said = _core.compare_checkpoints(fspath(a), fspath(b), given, settings)
    for warning in said:
        warnings.warn(in_python(warning), stacklevel=2)
    report = json.loads(text)
    fields = ("equal", "layers", "heads", "by_position", "by_token", "worst", "tensors", "patched")
    return CheckpointComparison(**{field: report[field] for field in fields}, report=report)
