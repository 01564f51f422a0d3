"""Mean attribution over a data set of pairs: streamed, and resumable."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

from easyroutine._core import AttributionSums
from easyroutine.checks import function, listed, string, sums_file, whole
from easyroutine.conversations import Chats
from easyroutine.errors import InputError
from easyroutine.interpretability.dataset import as_given
from easyroutine.interpretability.gradients import metrics_of
from easyroutine.interpretability.patching import check_unchanged
from easyroutine.interpretability.selection import as_json

if TYPE_CHECKING:
    from easyroutine.interpretability.hooked_model import HookedModel

__all__ = ["mean_attribution"]

_KEYS = ("clean", "corrupt", "answer", "against")
#: The shortest time between two writes of the sums, seconds.
_PAUSE = 5.0
#: The longest line of a file, characters.
_LONGEST = 16 << 20


def mean_attribution(
    model: HookedModel,
    pairs: str | PathLike[str] | Iterable[Mapping[str, Any]],
    keys: Sequence[str] | str,
    metric: Literal["logit_diff", "logit", "logprob", "p", "kl", "ce"] = "logit_diff",
    *,
    target_token_positions: Any = ("all",),
    rule: Literal["gradient", "relp"] = "gradient",
    state: str | PathLike[str] | None = None,
    seed: int = 0,
    on_progress: Callable[[int], Any] | None = None,
) -> dict[str, Any]:
    """Mean scores of attribution patching over many pairs, as ``easyroutine attribute --pairs``.

    ``pairs`` is a file of JSON lines, or an iterable of mappings, read one by one. A pair has ``clean`` and ``corrupt``, texts
    or token ids of equal length, and ``answer`` and ``against`` as the metric needs them. A score is
    (clean - corrupt) · ∂metric/∂activation, with the gradient of the corrupted prompt, summed over the positions of a pair.

    Returns a dictionary: ``pairs``, their number; the mean metric ``corrupted`` and ``clean`` (None for ``kl`` and ``ce``, which
    say nothing of a run compared with itself); and ``scores``, for each activation a number, or for ``queries_L*``, ``keys_L*``,
    ``values_L*`` and ``z_L*`` a list [heads], for ``mlp_hidden_*`` a list [F].

    ``state``, a ``.safetensors`` file, keeps the sums while pairs are read, even if reading ends in an error or by Ctrl-C. The
    same call then continues after them, to the bits of one whole run. ``on_progress`` gets the number of pairs done.

    Raises:
        InputError: No pair, a pair that lacks something or whose prompts differ in length, a ``state`` of another model, other
            pairs or other options; also as :meth:`attribution_patching`.
        UnsupportedError: A model in bfloat16, or one with a step that has no backward rule.
    """
    check_unchanged(model, "mean_attribution")
    if on_progress is not None:
        function(on_progress, "on_progress")
    file = sums_file(state)
    name = string(metric, "metric")
    settings = {
        "keys": [string(key, "a key") for key in ([keys] if isinstance(keys, str) else listed(keys, "keys", "keys"))],
        "positions": as_json(as_given(target_token_positions)),
        "metrics": [(name, None, None)],
        "rule": string(rule, "rule"),
        "check": None,
        "seed": whole(seed, "seed"),
    }
    sums = AttributionSums(model._engine, file, settings)
    others: set[str] = set()
    written = time.monotonic()
    try:
        for number, pair in enumerate(_each(pairs)):
            rows = [
                model._rows([_prompt(pair, key, number)], Chats({}))[0].for_engine() for key in ("clean", "corrupt")
            ]
            others |= set(pair) - set(_KEYS)
            answer = None if name in ("kl", "ce") else pair.get("answer")
            against = pair.get("against") if name == "logit_diff" else None
            try:
                (of_pair,) = metrics_of(model, name, answer, against, 1, has_target=False)
            except InputError as error:
                raise InputError(f"pair {number}: {error}") from None
            sums.add(model._engine, rows[0], rows[1], of_pair)
            if file is not None and time.monotonic() - written >= _PAUSE:
                sums.write()
                written = time.monotonic()
            if on_progress is not None:
                on_progress(number + 1)
    finally:
        sums.write()
    if others:
        named = ", ".join(repr(key) for key in sorted(others)[:8])
        warnings.warn(f"keys of the pairs that are not read: {named}", stacklevel=2)
    count, (corrupted, clean), scores = sums.finish()
    if count == 0:
        raise InputError("no pair was given")
    return {
        "pairs": count,
        "corrupted": corrupted,
        "clean": None if name in ("kl", "ce") else clean,
        "scores": {key: values if has_parts else values[0] for key, values, has_parts in scores},
    }


def _each(pairs: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(pairs, (str, PathLike)):
        yield from pairs
        return
    with open(pairs, encoding="utf-8") as lines:
        number = 0
        while True:
            number += 1
            place = f"{fspath(pairs)}: line {number}"
            try:
                line = lines.readline(_LONGEST)
                pair = json.loads(line) if line.strip() else None
            except UnicodeDecodeError as error:
                raise InputError(f"{place}: not UTF-8: {error}") from None
            except (ValueError, RecursionError) as error:
                raise InputError(f"{place}: not a JSON object: {error}") from None
            if not line:
                return
            if pair is not None:
                yield pair


def _prompt(pair: Any, key: str, number: int) -> Any:
    if not isinstance(pair, Mapping) or not pair.get(key):
        raise InputError(
            f"pair {number} has no {key!r}", "a pair is a mapping with 'clean', 'corrupt', 'answer', 'against'"
        )
    return pair[key]
