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
    """Scores activations: the first-order effect on a metric of patching each from ``base`` into the run of ``target``.

    A score is (base - target) · ∂metric/∂activation, with the gradient of ``target``. With a corrupted ``target`` and a
    clean ``base`` this is denoising, as in TransformerLens' ``attribution_patch``; the reverse is noising. Row i of
    ``base`` pairs with row i of ``target`` and has as many tokens.

    The result has each activation under its key: [B, T] for streams, parts and single heads, [B, T, heads] for
    ``queries_L*``, ``keys_L*``, ``values_L*``, ``z_L*``, [B, T, F] for ``mlp_hidden_*``, [B, T, T] for patterns and
    scores; and ``metric`` and ``base_metric`` [B]. Metrics are those of :meth:`gradients`; ``kl`` is from the base to
    the target.

    ``check=N`` also runs the N largest cells of each row exactly. ``cache["check"]`` is then a list with one dictionary
    per row: ``cells`` (activation, column, which is the position, part, estimate, exact), ``pearson`` and ``spearman``.

    Raises:
        InputError: Unequal numbers or lengths of rows, a metric or an activation without a gradient, a check of no
            cells, a score that is not finite.
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
    """Integrated gradients of a metric over ``input_embeddings``, along the path from a baseline.

    (x - x') ⊙ Σ w ∂metric(x' + α (x - x')), at ``steps`` points of the rule ``points``, as in Captum's
    ``LayerIntegratedGradients``. ``baseline`` is prompts as long as the inputs; by default it is zeros, where norms are
    singular and more steps help little.

    The result has ``input_embeddings`` [B, T, D], ``metric`` and ``baseline_metric`` [B], and ``missing`` [B]: how far
    the sum of the attributions is from the change in the metric. More than a tenth of the change brings a warning.

    Raises:
        InputError: Baselines of another number or length than the inputs, no steps, the rule ``left`` from zeros,
            anything :meth:`gradients` rejects.
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
