"""Which activations a run returns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal

from easyroutine.errors import InputError
from easyroutine.interpretability.selection import normalised

__all__ = ["ExtractionConfig", "as_config", "config_json", "with_chat"]


@dataclass
class ExtractionConfig:
    """Which activations a run returns, and how they are reduced.

    Shapes: B rows, T selected positions, D width of the stream, H query heads, K key/value heads, h width of a head, F
    neurons, N channels of a recurrence, V vocabulary; ``{l}`` layer, ``{i}`` head.

    Args:
        extract_embed: ``input_embeddings`` [B, T, D]: the input of the first block.
        extract_resid_in: ``resid_in_{l}`` [B, T, D]: the stream entering block l.
        extract_resid_mid: ``resid_mid_{l}`` [B, T, D]: the stream between attention and MLP.
        extract_resid_out: ``resid_out_{l}`` [B, T, D]: the stream leaving block l.
        extract_resid_in_post_layernorm: ``resid_in_post_layernorm_{l}`` [B, T, D]: the same place as ``attn_in_{l}``.
        extract_attn_pattern: ``pattern_L{l}H{i}`` [B, T, T]: attention weights.
        extract_head_values_projected: ``projected_value_L{l}H{i}`` [B, T, D].
        extract_head_keys_projected: ``projected_key_L{l}H{i}`` [B, T, D].
        extract_head_queries_projected: ``projected_query_L{l}H{i}`` [B, T, D].
        extract_head_keys: ``head_keys_L{l}H{i}`` [B, T, h], as query head i sees them.
        extract_head_values: ``head_values_L{l}H{i}`` [B, T, h], as query head i sees them.
        extract_head_queries: ``head_queries_L{l}H{i}`` [B, T, h].
        extract_values: ``values_L{l}`` [B, T, K h].
        extract_keys: ``keys_L{l}`` [B, T, K h].
        extract_queries: ``queries_L{l}`` [B, T, H h], straight from the projection.
        extract_head_out: ``head_out_L{l}H{i}`` [B, T, D]: what the head adds.
        extract_attn_out: ``attn_out_{l}`` [B, T, D]: exactly what attention adds to the stream.
        extract_attn_in: ``attn_in_{l}`` [B, T, D]: input of attention, after its norm.
        extract_mlp_out: ``mlp_out_{l}`` [B, T, D]: exactly what the MLP adds to the stream.
        extract_last_layernorm: ``last_layernorm``: ``mean``, ``variance``, ``second_moment`` [B, T] of the final norm's
            input.
        save_input_ids: ``input_ids`` [B, T].
        avg: Means over each specifier's positions.
        avg_over_example: The mean of patterns over all rows, in ``avg_pattern_L{l}H{i}``.
        attn_heads: Limits every activation that has heads to these: ``[{"layer": 5, "head": 3}, ...]``.
        attn_pattern_avg: How to reduce a block of a pattern, with one specifier's tokens as rows and another's as
            columns: [B, row specifiers, column specifiers], even if row and column specifiers are the same. ``mean`` or
            ``sum`` of the weights, or ``baseline_ratio``: the mean divided by its value under uniform attention to all
            tokens up to the query, so that 1 means no preference; NaN where no row of the block can attend to any of
            its columns.
        attn_pattern_row_positions: The rows of patterns, if they are other tokens than the columns.
        save_logits: ``logits`` [B, T, V].
        keep_gradient: ``input_embeddings_gradients`` [B, T, D]: the gradient of the logit of ``vocabulary_index`` at
            the last token. For :meth:`HookedModel.forward` only; other metrics and activations:
            :meth:`HookedModel.gradients`.
        extract_mixer_in: ``mixer_in_{l}`` [B, T, D]: input of a recurrence, after its norm.
        extract_mixer_z: ``mixer_z_{l}`` [B, T, N]: the output of a recurrence after its gate.
        extract_mixer_out: ``mixer_out_{l}`` [B, T, D]: exactly what a recurrence adds to the stream.
        extract_attn_gate: ``attn_gate_{l}`` [B, T, H h]: the gate on mixed values, before its sigmoid.
        extract_attn_raw: ``attn_raw_{l}`` [B, T, D]: output of attention's last projection.
        extract_mlp_in: ``mlp_in_{l}`` [B, T, D]: input of the MLP, after its norm.
        extract_mlp_hidden: ``mlp_hidden_{l}`` [B, T, F]: neurons, the input of the MLP's last projection.
        extract_attn_scores: ``scores_L{l}H{i}`` [B, T, T]: the inputs of a head's softmax.
        extract_z: ``z_L{l}`` [B, T, H·h]: mixed values of all heads, the input of attention's output projection.
        extract_kv_compressed: ``kv_compressed_{l}`` [B, T, c]: compressed keys and values, before their norm, and the
            part of keys that heads share.
        extract_rotated_queries: ``rotated_queries_L{l}`` [B, T, H·h]: queries after their norm and rotation.
        extract_rotated_keys: ``rotated_keys_L{l}`` [B, T, K·h]: keys after their norm and rotation.
        extract_router_logits: ``router_logits_{l}`` [B, T, E]: scores of each expert, before softmax or sigmoid.
        extract_router_index: ``router_index_{l}`` [B, T, k], integers: a token's experts, first choice first.
        extract_router_weights: ``router_weights_{l}`` [B, T, k]: factors on these experts' outputs, in the same order.
        extract_expert_out: ``expert_out_{l}E{e}`` [B, T, D]: one expert's output before its factor; zeros for
            tokens not routed to it.
        extract_shared_out: ``shared_out_{l}`` [B, T, D]: the output of the shared experts.
        extract_per_layer_out: ``per_layer_out_{l}`` [B, T, D]: what a layer's own input adds to the residual stream.
        extract_final_norm_out: ``final_norm_out`` [B, T, D]: the last residual stream after the final norm.
        extract_score: ``score`` [B, C] of a class ``ForSequenceClassification``, [B, T, C] of other heads: the output
            of a classifier or reward model with C labels. By default, such a model returns it.
    """

    extract_embed: bool = False
    extract_resid_in: bool = False
    extract_resid_mid: bool = False
    extract_resid_out: bool = False
    extract_resid_in_post_layernorm: bool = False
    extract_attn_pattern: bool = False
    extract_head_values_projected: bool = False
    extract_head_keys_projected: bool = False
    extract_head_queries_projected: bool = False
    extract_head_keys: bool = False
    extract_head_values: bool = False
    extract_head_queries: bool = False
    extract_values: bool = False
    extract_keys: bool = False
    extract_queries: bool = False
    extract_head_out: bool = False
    extract_attn_out: bool = False
    extract_attn_in: bool = False
    extract_mlp_out: bool = False
    extract_last_layernorm: bool = False
    save_input_ids: bool = False
    avg: bool = False
    avg_over_example: bool = False
    attn_heads: Literal["all"] | list[dict[str, int]] = "all"
    attn_pattern_avg: Literal["none", "mean", "sum", "baseline_ratio"] = "none"
    attn_pattern_row_positions: list[Any] | None = None
    save_logits: bool = True
    keep_gradient: bool = False
    # The fields below are not in the original.
    extract_mixer_in: bool = False
    extract_mixer_z: bool = False
    extract_mixer_out: bool = False
    extract_attn_gate: bool = False
    extract_attn_raw: bool = False
    extract_mlp_in: bool = False
    extract_mlp_hidden: bool = False
    extract_attn_scores: bool = False
    extract_z: bool = False
    extract_kv_compressed: bool = False
    extract_rotated_queries: bool = False
    extract_rotated_keys: bool = False
    extract_router_logits: bool = False
    extract_router_index: bool = False
    extract_router_weights: bool = False
    extract_expert_out: bool = False
    extract_shared_out: bool = False
    extract_per_layer_out: bool = False
    extract_final_norm_out: bool = False
    extract_score: bool = False

    def is_not_empty(self) -> bool:
        """Whether any flag is on."""
        return any(value is True for name, value in self.to_dict().items() if name.startswith(("extract_", "save_")))

    def to_dict(self) -> dict[str, Any]:
        """The fields as a new dictionary."""
        out: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                value = [dict(one) if isinstance(one, dict) else one for one in value]
            out[field.name] = value
        return out

    def to_json(self) -> str:
        """The fields in the engine's form."""
        return config_json(self)


_FIELDS = frozenset(field.name for field in fields(ExtractionConfig))


def as_config(given: Any) -> ExtractionConfig:
    """A configuration, given as such, as a dictionary of its fields, or as None."""
    if given is None:
        return ExtractionConfig()
    if isinstance(given, ExtractionConfig):
        return given
    if not isinstance(given, Mapping):
        raise InputError(f"extraction_config is an ExtractionConfig, not {type(given).__name__}")
    unknown = next((name for name in given if name not in _FIELDS), None)
    if unknown is not None:
        near = get_close_matches(str(unknown), _FIELDS, 1)
        hint = f"did you mean `{near[0]}`?" if near else None
        if unknown == "chat":
            hint = "what a run's chat template was given is said by keywords: tools=…, chat_variables=…, strftime_now=…"
        raise InputError(f"an ExtractionConfig has no field {unknown!r}", hint)
    return ExtractionConfig(**given)


def with_chat(
    config: ExtractionConfig | Mapping[str, Any], chat: Mapping[str, Any] | None
) -> ExtractionConfig | dict[str, Any]:
    """A configuration as records keep it: with the chat template's arguments, if conversations were run."""
    if isinstance(config, ExtractionConfig):
        return config if chat is None else {**config.to_dict(), "chat": dict(chat)}
    return dict(config) if chat is None else {**config, "chat": dict(chat)}


def config_json(config: Any) -> str:
    """A configuration, or a dictionary of its fields, in the engine's form.

    Fields that a subclass adds are left out.
    """
    if config is None:
        config = ExtractionConfig()
    if isinstance(config, ExtractionConfig):
        given = ExtractionConfig.to_dict(config)
        given = {name: value for name, value in given.items() if name in _FIELDS}
    elif isinstance(config, dict):
        given = dict(config)
    else:
        raise InputError(f"extraction_config is an ExtractionConfig, not {type(config).__name__}")
    rows = given.get("attn_pattern_row_positions")
    if rows is not None:
        given["attn_pattern_row_positions"] = normalised(rows, "attn_pattern_row_positions")
    try:
        return json.dumps(given, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"extraction config: {error}") from None
