"""Direct logit attribution: what each part, head or neuron writes towards one token and away from another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from easyroutine.checks import string, whole
from easyroutine.conversations import ChatArguments, Chats, takes_chats
from easyroutine.errors import UnsupportedError
from easyroutine.interpretability.activation_cache import ActivationCache
from easyroutine.interpretability.dataset import as_given
from easyroutine.interpretability.extraction_config import ExtractionConfig
from easyroutine.interpretability.gradients import Token, paired, tokens_of
from easyroutine.interpretability.interventions import as_list, for_engine
from easyroutine.interpretability.kept import cache_of
from easyroutine.interpretability.selection import as_json

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from easyroutine.interpretability.hooked_model import HookedModel
    from easyroutine.interpretability.interventions import Intervention

__all__ = ["direct_attribution"]


@takes_chats
def direct_attribution(
    model: HookedModel,
    inputs: Any,
    answer: Token | Sequence[Token],
    against: Token | Sequence[Token] | None = None,
    *,
    by: Literal["part", "head", "neuron"] = "part",
    target_token_positions: Any = ("last",),
    interventions: Sequence[Intervention] | None = None,
    seed: int = 0,
    first_row: int = 0,
    **chat: Unpack[ChatArguments],
) -> ActivationCache:
    """Direct contributions to the logit of ``answer``, minus that of ``against`` if given, before any softcap.

    With the final norm's statistics fixed at the run's, the logits are linear in the stream, and the stream is a sum:
    ``((c - mean(c)) / σ ⊙ w) · (U[answer] - U[against])``, with the mean only for a LayerNorm.

    The result has, each [B, T]: for parts ``input_embeddings``, ``attn_out_{l}``, ``mlp_out_{l}``, which with ``bias``
    [B] sum to ``logit_diff`` [B, T]; for heads ``head_out_L{l}H{i}`` and ``attn_bias_{l}``, which sum to the part of
    ``attn_out_{l}``; for neurons ``mlp_hidden_{l}`` [B, T, F] and ``mlp_bias_{l}``, which sum to that of
    ``mlp_out_{l}``. ``answer`` and ``against`` are ids or strings that are one token, one for all rows or one per row.

    Raises:
        UnsupportedError: A model whose parts do not sum to its stream, heads or neurons whose sum is normed before it
            is added, and registered hooks.
    """
    if model.has_hooks:
        raise UnsupportedError("direct_attribution does not run with hooks", "remove_hooks() first")
    chats = Chats(chat)
    rows = model._rows(inputs, chats)
    chats.finish()
    answers = tokens_of(model, answer, "answer", len(rows))
    others = [None] if against is None else tokens_of(model, against, "against", len(rows))
    positions = as_given(target_token_positions)
    kept = model._engine.direct_attribution(
        [row.for_engine() for row in rows],
        {
            "by": string(by, "by"),
            "directions": paired(answers, others),
            "positions": as_json(positions),
            "interventions": for_engine([*model.interventions, *as_list(interventions)]),
            "seed": whole(seed, "seed"),
            "first_row": whole(first_row, "first_row"),
        },
    )
    plain = {"entries": [], "selection": kept["selection"], "averaged": False, "pattern_rows": None}
    cache = cache_of(plain, positions, ExtractionConfig())
    for key, value in kept["entries"]:
        cache[key] = value
    cache["bias"] = kept["bias"]
    return cache
