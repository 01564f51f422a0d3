"""Names of the original easyroutine that this package lacks, each with its replacement.

The book's migration page has the same list; a test compares the two with each other and with the original's names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from easyroutine.errors import ReplacedAttributeError, ReplacedError

__all__ = ["MODULES", "NAMES", "Replaced", "instead_of", "replaced_name"]

_NO_MODULES = (
    "`ExtractionConfig` reads, `Intervention` changes, `HookedModel.register_forward_hook` calls your function"
)
_NOTHING = "nothing: every supported model has its names and sizes in `HookedModel.model_config`"
_TORCH = "torch, numpy or the standard library"

#: Modules with none of their names here, and their replacements. Their submodules are gone with them.
MODULES: dict[str, str] = {
    "inference": "vllm and litellm themselves; `HookedModel.generate` continues a prompt",
    "interpretability.ablation": "`Intervention`; `HookedModel.sweep` removes one part after another",
    "interpretability.hooks": _NO_MODULES,
    "interpretability.module_wrappers": "nothing: attention patterns can be read and changed in every model",
}

#: Missing names of modules and classes that exist here, and their replacements.
NAMES: dict[str, dict[str, str]] = {
    "interpretability.hooked_model": {"load_config yaml_config": _NOTHING},
    "interpretability.interventions": {
        "InterventionManager columns_attn_mat rows_attn_mat grid_attn_mat block_img_txt_attn_mat intervention_resid_full "
        "intervention_query_key_value": "`Intervention` in `interventions=`, or `HookedModel.register_interventions`",
    },
    "interpretability.models": {
        "ModelFactory": "`HookedModel.from_pretrained`",
        "TokenizerFactory": "`easyroutine.tokenizer.Tokenizer.from_pretrained`",
        "InputHandler": "nothing: `HookedModel.forward` takes texts, ids, arrays and mappings",
        "SUPPORTED_TOKENS": "the names of positions in the docstring of `HookedModel.forward`",
    },
    "interpretability.token_index": {
        "TokenType SpecialTokenType": "`easyroutine.interpretability.selection.Position`",
        "load_config config SUPPORTED_MODELS": _NOTHING,
        "SUPPORTED_TOKENS": "the names of positions in the docstring of `HookedModel.forward`",
    },
    "interpretability.utils": {
        "conditional_no_grad": "nothing: gradients are computed by `gradients` alone",
        "find_all_modules parse_module_path get_module_by_path": _NO_MODULES,
        "preprocess_ablation_queries": "`Intervention`",
        "preprocess_patching_queries logit_diff kl_divergence_diff": "`HookedModel.compute_patching`",
        "map_token_to_pos": "`TokenIndex.get_token_index`",
        "aggregate_cache_efficient aggregate_metrics": "`ActivationCache.cat_all`",
        "GB_per_tensor size_of_object log_memory_usage": "`ActivationCache.memory_size`",
        "left_pad right_cut left_cut prepare_index_for_slicing reshape_tensors cosine_similarity_matrix "
        "selective_log_softmax": _TORCH,
        "data_path create_dir generate_code load_json_config": _TORCH,
        "get_dataset_dir print_dataset_stats resize_img_with_padding resize_img_if_too_large": "datasets and pillow",
    },
    "HookedModel": {
        "create_hooks set_hooks base_model act_type_to_hook_name": _NO_MODULES,
        "assert_module_exists assert_all_modules_exist module_wrapper_manager intervention_manager": _NOTHING,
        "additional_hooks": "`HookedModel.register_forward_hook`",
        "additional_interventions": "`HookedModel.interventions`",
        "first_device": "`HookedModel.device()`",
        "processor image_placeholder": "nothing: these models read text alone",
        "text_tokenizer": "`HookedModel.get_text_tokenizer()`",
        "input_handler": "nothing: `HookedModel.forward` takes texts, ids, arrays and mappings",
    },
    "ModelConfig": {
        "residual_stream_input_hook_name residual_stream_hook_name intermediate_stream_hook_name "
        "residual_stream_input_post_layernorm_hook_name head_key_hook_name head_value_hook_name head_query_hook_name "
        "attn_in_hook_name attn_out_hook_name attn_o_proj_input_hook_name attn_matrix_hook_name "
        "attn_matrix_pre_softmax_hook_name mlp_out_hook_name last_layernorm_hook_name": _NO_MODULES,
        "attn_out_proj_weight attn_out_proj_bias embed_tokens": "the checkpoint's own tensors, with safetensors",
        "unembed_matrix": "`HookedModel.get_lm_head()`",
        "last_layernorm": "`HookedModel.get_last_layernorm()`",
        "use_language_model restore_full_model": "nothing: these models read text alone",
    },
    "InterventionConfig": {
        "hook_name hook_func apply_intervention_func head_dim num_key_value_groups num_attention_heads": "`Intervention`",
    },
    "ActivationCache": {
        "valid_keys": "nothing: a key may be any text",
        "aggregation_strategies": "`ActivationCache.register_aggregation`",
        "deferred_cache": "`ActivationCache.deferred_mode`",
    },
    "LogitLens": {
        "apply_tuned_lens_traslator tuned_lens": "`LogitLens.from_tuned_lens`, whose `compute` translates each stream",
    },
    "TokenIndex": {
        "find_occurrences categorize_tokens group_tokens group_tokens_by_positions group_tokens_by_pivot_tokens "
        "get_tokens_positions parse_random_group_token get_token_dict": "`TokenIndex.get_token_index`",
    },
}

#: Names of other packages that a user may try first, and their equivalents here.
OTHERS: dict[str, dict[str, str]] = {
    "HookedModel": {
        "run_with_cache": "`model.forward(prompt, extraction_config=ExtractionConfig(extract_resid_out=True))` gives a cache",
        "run_with_hooks add_hook hooks": "`interventions=[Intervention(...)]`, or `register_forward_hook`",
        "trace": "`forward` reads activations, `interventions=` changes them",
        "to_tokens to_str_tokens to_string to_single_token": "`model.get_tokenizer()`",
        "cfg": "`model.model_config`",
    },
    "ActivationCache": {
        "logit_attrs decompose_resid": "`model.direct_attribution(prompt, ...)`",
        "stack_head_results": '`cache.stack_heads("head_out_L3")`',
    },
}

_BY_NAME: dict[str, dict[str, str]] = {}
for _place, _entries in (*OTHERS.items(), *NAMES.items()):
    for _names, _instead in _entries.items():
        _BY_NAME.setdefault(_place, {}).update(dict.fromkeys(_names.split(), _instead))


def replaced_name(module: str, name: str) -> Exception:
    """The exception for a name that a module of the original has and this one lacks."""
    place = module.removeprefix("easyroutine.")
    instead = _BY_NAME.get(place, {}).get(name)
    if instead is None and not name.startswith("_"):
        instead = next((one for gone, one in MODULES.items() if f"{place}.".startswith(f"{gone}.")), None)
    if instead is None:
        return AttributeError(f"module {module!r} has no attribute {name!r}")
    return ReplacedError(f"{module} has no {name!r} here", f"instead: {instead}")


def instead_of(value: object, name: str) -> Exception | None:
    """The exception for an attribute that a class of the original has and this one lacks."""
    for kind in type(value).__mro__:
        instead = _BY_NAME.get(kind.__name__, {}).get(name)
        if instead is not None:
            return ReplacedAttributeError(f"{kind.__name__} has no {name!r} here", f"instead: {instead}")
    return None


class Replaced:
    """A class of the original that names the replacement when asked for an attribute it lacks."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise instead_of(self, name) or AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
