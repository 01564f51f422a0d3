"""Gradients of a metric, or of vectors anywhere in the model, with respect to every activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from easyroutine import tensors
from easyroutine.checks import listed, mapping, string, token_id, whole
from easyroutine.conversations import ChatArguments, Chats, takes_chats
from easyroutine.errors import InputError, UnsupportedError
from easyroutine.interpretability.activation_cache import ActivationCache
from easyroutine.interpretability.dataset import as_given
from easyroutine.interpretability.extraction_config import ExtractionConfig
from easyroutine.interpretability.inputs import pivots_of
from easyroutine.interpretability.interventions import as_list, for_engine
from easyroutine.interpretability.kept import cache_of
from easyroutine.interpretability.selection import as_json

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from easyroutine.interpretability.hooked_model import HookedModel
    from easyroutine.interpretability.inputs import Row
    from easyroutine.interpretability.interventions import Intervention

__all__ = ["gradients", "kept_gradient", "metrics_of", "paired", "tokens_of"]

Token = int | str
_A = TypeVar("_A")
_B = TypeVar("_B")


@takes_chats
def gradients(
    model: HookedModel,
    inputs: Any,
    keys: Sequence[str] | str,
    metric: Literal["logit_diff", "logit", "logprob", "p", "kl", "ce"] = "logit_diff",
    *,
    answer: Token | Sequence[Token] | None = None,
    against: Token | Sequence[Token] | None = None,
    target: Any = None,
    vectors: Mapping[str, Any] | None = None,
    target_token_positions: Any = ("all",),
    interventions: Sequence[Intervention] | None = None,
    pivot_positions: Sequence[int] | None = None,
    rule: Literal["gradient", "relp"] = "gradient",
    seed: int = 0,
    first_row: int = 0,
    **chat: Unpack[ChatArguments],
) -> ActivationCache:
    """The gradient of a metric with respect to activations, from one forward and one backward pass.

    ``keys`` are activations or patterns of them (``"resid_out_*"``). The result has ``KEY_gradients`` for each, in the
    shape of the activation at ``target_token_positions``, and ``metric`` [B], one value per row. These are summed, so
    each row's gradient is the one it has alone, to the bit.

    From the final logits at the last token: ``logit_diff`` (``answer`` minus ``against``), ``logit``, ``logprob``
    (nats), ``p``, and ``kl`` from ``target`` [B, V], which holds log-probabilities (KL of it to the run, nats). ``ce``
    is the cross-entropy of each next token, summed over the row, in nats. ``answer`` and ``against`` are ids or strings
    that are one token, one for all rows or one per row.

    ``vectors`` ``{key: values}`` replaces the metric: the result is their vector-Jacobian product, the gradient of Σ
    values · activation over all positions, with values of shape [B, S, width], [S, width] or [width].

    ``interventions`` change the run, after the registered ones; the gradient is with respect to the changed values.
    ``rule="relp"`` holds the scales of norms and the attention patterns constant, treats an activation function's
    output as its input times a constant and gives each side of a gate half (RelP, arXiv 2508.21258).

    Raises:
        InputError: An activation or metric that has no gradient, a token that is not one, a target that is not a
            distribution, a gradient that is not finite.
        UnsupportedError: A model in bfloat16, one without logits, one with a step that has no backward rule, and
            registered hooks, which cannot be differentiated.
    """
    chats = Chats(chat)
    rows = model._rows(inputs, chats)
    chats.finish()
    if vectors is not None:
        named = {"answer": answer, "against": against, "target": target}
        given = next((name for name, value in named.items() if value is not None), None)
        if given is not None:
            raise InputError(f"vectors replace the metric, so {given} has no effect")
        metrics = []
    else:
        name: str = _METRICS.get(string(metric, "metric"), metric)
        metrics = metrics_of(model, name, answer, against, len(rows), has_target=target is not None)
    return _run(
        model,
        rows,
        [string(one, "a key") for one in ([keys] if isinstance(keys, str) else listed(keys, "keys", "keys"))],
        metrics,
        target_token_positions,
        target=None if target is None else tensors.as_tensor(target, "target"),
        vectors=[
            (string(key, "a key of vectors"), '["all"]', tensors.as_tensor(values, f"vectors at {key}"))
            for key, values in mapping({} if vectors is None else vectors, "vectors").items()
        ],
        rule=string(rule, "rule"),
        interventions=as_list(interventions),
        pivot_positions=pivot_positions,
        seed=seed,
        first_row=first_row,
    )


#: Other names of metrics, used by sweeps and the command line.
_METRICS: dict[str, Literal["logit_diff", "logprob", "p"]] = {
    "logit-diff": "logit_diff",
    "log_probability": "logprob",
    "probability": "p",
}


def kept_gradient(
    model: HookedModel,
    rows: Sequence[Row],
    positions: Any,
    vocabulary_index: Any,
    **more: Any,
) -> ActivationCache:
    """The result of ``keep_gradient``: ``input_embeddings_gradients`` of the logit of ``vocabulary_index`` at the last
    token.
    """
    metrics = metrics_of(model, "logit", vocabulary_index, None, len(rows), has_target=False, name="vocabulary_index")
    cache = _run(
        model, rows, ["input_embeddings"], metrics, positions, target=None, vectors=[], rule="gradient", **more
    )
    del cache["metric"]
    return cache


def _run(
    model: HookedModel,
    rows: Sequence[Row],
    keys: list[str],
    metrics: list[tuple[str, int | None, int | None]],
    target_token_positions: Any,
    *,
    target: Any,
    vectors: list[tuple[str, str, Any]],
    rule: str,
    interventions: Sequence[Intervention],
    pivot_positions: Sequence[int] | None,
    seed: int,
    first_row: int,
) -> ActivationCache:
    if model.has_hooks:
        raise UnsupportedError(
            "a registered hook has no gradient", "remove_hooks() first; interventions can be differentiated"
        )
    positions = as_given(target_token_positions)
    kept = model._engine.gradients(
        [row.for_engine() for row in rows],
        {
            "keys": keys,
            "positions": as_json(positions),
            "metrics": metrics,
            "target": target,
            "vectors": vectors,
            "rule": rule,
            "interventions": for_engine([*model.interventions, *interventions]),
            "pivots": pivots_of(pivot_positions),
            "seed": whole(seed, "seed"),
            "first_row": whole(first_row, "first_row"),
        },
    )
    cache = cache_of(kept, positions, ExtractionConfig())
    if metrics:
        cache["metric"] = kept["metric"]
    return cache


def metrics_of(
    model: HookedModel,
    metric: str,
    answer: Any,
    against: Any,
    n_rows: int,
    *,
    has_target: bool,
    name: str = "answer",
) -> list[tuple[str, int | None, int | None]]:
    """One metric for all rows, or one per row."""
    reads = {"logit_diff": (True, True), "kl": (False, False), "ce": (False, False)}.get(metric, (True, False))
    for named, value, is_read in ((name, answer, reads[0]), ("against", against, reads[1])):
        if value is None and is_read:
            raise InputError(f"metric={metric!r} needs {named}: an id, or a string that is one token")
        if value is not None and not is_read:
            raise InputError(f"metric={metric!r} does not read {named}")
    if has_target and metric != "kl":
        raise InputError(f"metric={metric!r} does not read target", 'metric="kl" does')

    answers: list[int | None] = [None] if answer is None else [*tokens_of(model, answer, name, n_rows)]
    others: list[int | None] = [None] if against is None else [*tokens_of(model, against, "against", n_rows)]
    return [(metric, *pair) for pair in paired(answers, others)]


def paired(answers: Sequence[_A], others: Sequence[_B]) -> list[tuple[_A, _B]]:
    """Answers and what they are measured against, each one for all rows or one per row."""
    count = max(len(answers), len(others))
    return [(answers[i % len(answers)], others[i % len(others)]) for i in range(count)]


def tokens_of(model: HookedModel, value: Any, name: str, n_rows: int) -> list[int]:
    """Token ids, one for all rows or one per row."""
    tokens = [value] if isinstance(value, (str, int)) else listed(value, name, "tokens")
    if len(tokens) not in (1, n_rows):
        raise InputError(f"{len(tokens)} tokens of {name} for {n_rows} rows", "give one for all rows, or one per row")
    return [
        model.get_text_tokenizer().to_single_token(one) if isinstance(one, str) else token_id(one, name)
        for one in tokens
    ]
