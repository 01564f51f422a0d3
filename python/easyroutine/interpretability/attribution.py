"""Which activations carried a metric: attribution patching and integrated gradients."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from easyroutine.checks import function, listed, string, whole
from easyroutine.conversations import ChatArguments, Chats, takes_chats
from easyroutine.errors import InputError
from easyroutine.interpretability.activation_cache import ActivationCache
from easyroutine.interpretability.dataset import as_given
from easyroutine.interpretability.extraction_config import ExtractionConfig
from easyroutine.interpretability.gradients import Token, metrics_of
from easyroutine.interpretability.kept import cache_of
from easyroutine.interpretability.patching import check_unchanged
from easyroutine.interpretability.selection import as_json

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from easyroutine.interpretability.hooked_model import HookedModel

__all__ = ["attribution_patching", "integrated_gradients"]


@takes_chats
def attribution_patching(
    model: HookedModel,
    target: Any,
    base: Any,
    keys: Sequence[str] | str,
    metric: Literal["logit_diff", "logit", "logprob", "p", "kl", "ce"] = "logit_diff",
    *,
    answer: Token | Sequence[Token] | None = None,
    against: Token | Sequence[Token] | None = None,
    target_token_positions: Any = ("all",),
    rule: Literal["gradient", "relp"] = "gradient",
    check: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], Any] | None = None,
    **chat: Unpack[ChatArguments],
) -> ActivationCache:
    """Scores of activations: what putting each of ``base`` into the run of ``target`` does to a metric, to first order.

    A score is (base - target) · ∂metric/∂activation, with the gradient of ``target``. Of a corrupted ``target`` and a clean
    ``base`` this is denoising, which is what TransformerLens' ``attribution_patch`` computes; the reverse is noising. Row i
    of ``base`` goes with row i of ``target``, and both have as many tokens.

    The result has each activation under its key: [B, T] of streams, parts and single heads, [B, T, heads] of ``queries_L*``,
    ``keys_L*``, ``values_L*``, ``z_L*``, [B, T, F] of ``mlp_hidden_*``, [B, T, T] of patterns and scores; ``metric`` and
    ``base_metric`` [B]. The metric is as in :meth:`gradients`; ``kl`` is that of the base to the target.

    ``check=N`` also runs the N largest cells of each row exactly. ``cache["check"]`` is then a list of one a row, with
    ``cells`` (activation, column, which is the position, part, estimate, exact), ``pearson`` and ``spearman``.

    Raises:
        InputError: Rows of other number or length, a metric or an activation without a gradient, a check of no cells, a score
            that is not finite.
        UnsupportedError: A model in bfloat16, or one with a step that has no backward rule.
    """
    check_unchanged(model, "attribution_patching")
    if on_progress is not None:
        function(on_progress, "on_progress")
    chats = Chats(chat)
    rows, others = model._rows(target, chats), model._rows(base, chats)
    chats.finish()
    positions = as_given(target_token_positions)
    metrics = metrics_of(model, string(metric, "metric"), answer, against, len(rows), has_target=False)
    kept = model._engine.attribution_patching(
        [row.for_engine() for row in others],
        [row.for_engine() for row in rows],
        {
            "keys": [
                string(key, "a key") for key in ([keys] if isinstance(keys, str) else listed(keys, "keys", "keys"))
            ],
            "positions": as_json(positions),
            "metrics": metrics,
            "rule": string(rule, "rule"),
            "check": None if check is None else whole(check, "check", 0),
            "seed": whole(seed, "seed"),
        },
        on_progress,
    )
    plain = {"entries": [], "selection": kept["selection"], "averaged": False, "pattern_rows": None}
    cache = cache_of(plain, positions, ExtractionConfig())
    for key, value in kept["entries"]:
        cache[key] = value
    cache["metric"], cache["base_metric"] = kept["metric"], kept["base_metric"]
    if check is not None:
        cache["check"] = [json.loads(text) for text in kept["checks"]]
    return cache


@takes_chats
def integrated_gradients(
    model: HookedModel,
    inputs: Any,
    metric: Literal["logit_diff", "logit", "logprob", "p", "ce"] = "logit_diff",
    *,
    baseline: Any = None,
    answer: Token | Sequence[Token] | None = None,
    against: Token | Sequence[Token] | None = None,
    steps: int = 50,
    points: Literal["left", "right", "midpoint", "gausslegendre"] = "gausslegendre",
    on_progress: Callable[[int, int], Any] | None = None,
    **chat: Unpack[ChatArguments],
) -> ActivationCache:
    """Integrated gradients of a metric over ``input_embeddings``, on the way from a baseline.

    (x - x') ⊙ Σ w ∂metric(x' + α (x - x')), with ``steps`` points of the rule ``points`` (Captum's
    ``LayerIntegratedGradients`` has the same). ``baseline`` is prompts as long as the inputs; without one it is zeros, where a
    norm is singular and more steps help little.

    The result has ``input_embeddings`` [B, T, D], ``metric`` and ``baseline_metric`` [B], and ``missing`` [B]: by how much the
    attributions fail to sum to the change of the metric. Where that is more than a tenth of the change, a warning says so.

    Raises:
        InputError: Baselines of other number or length, no steps, the rule ``left`` from zeros, what :meth:`gradients` refuses.
        UnsupportedError: A model in bfloat16, or one with a step that has no backward rule.
    """
    check_unchanged(model, "integrated_gradients")
    if on_progress is not None:
        function(on_progress, "on_progress")
    if string(metric, "metric") not in ("logit_diff", "logit", "logprob", "p", "ce"):
        raise InputError(f"metric={metric!r} is not integrated", "choose logit_diff, logit, logprob, p or ce")
    chats = Chats(chat)
    rows = model._rows(inputs, chats)
    others = None if baseline is None else [row.for_engine() for row in model._rows(baseline, chats)]
    chats.finish()
    kept = model._engine.integrated_gradients(
        [row.for_engine() for row in rows],
        others,
        {
            "metrics": metrics_of(model, string(metric, "metric"), answer, against, len(rows), has_target=False),
            "points": string(points, "points"),
            "steps": whole(steps, "steps", 0),
        },
        on_progress,
    )
    for text in kept["warnings"]:
        warnings.warn(text, stacklevel=3)
    cache = ActivationCache()
    cache["input_embeddings"] = kept["attributions"]
    for key in ("metric", "baseline_metric", "missing"):
        cache[key] = kept[key]
    return cache
