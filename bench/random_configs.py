"""Random changes of a model's config: every key that changes what the model computes."""

import copy

# Falcon's biases are added twice where transformers computes eagerly (5.24), so that there is nothing to compare with.
FIXED = {"falcon": {"alibi": False}}
FLAGS = (
    "attention_bias", "mlp_bias", "tie_word_embeddings", "norm_topk_prob", "use_qk_norm", "bias", "multi_query",
    "parallel_attn", "new_decoder_architecture", "use_bias", "use_conv_bias", "mamba_conv_bias", "mamba_proj_bias",
    "mamba_rms_norm", "mamba_norm_before_gate", "projectors_bias", "qk_layernorm", "lm_head_bias", "attention_out_bias",
    "scale_embedding", "conv_bias", "rope_interleave", "scale_attn_weights", "qkv_bias", "use_double_wide_mlp",
    "attention_k_eq_v", "use_parallel_residual", "use_qkv_bias", "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn", "use_sliding_window", "enable_bias",
    "layer_norm_elementwise_affine", "block_auto_adjust_ff_dim",
)
ROPES = [
    lambda r: {"rope_type": "default"},
    lambda r: {"rope_type": "linear", "factor": r.choice([1.5, 4.0])},
    lambda r: {"rope_type": "dynamic", "factor": r.choice([2.0, 3.0])},
    lambda r: {"rope_type": "yarn", "factor": r.choice([2.0, 8.0]), "original_max_position_embeddings": 16,
               **r.choice([{}, {"beta_fast": 16.0, "beta_slow": 2.0}, {"attention_factor": 1.3}, {"truncate": False}])},
    lambda r: {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": r.choice([16, 24])},
]
ACTIVATIONS = ["silu", "gelu_pytorch_tanh", "gelu", "relu", "gelu_new", "relu2"]
# Classes whose `__init__` or forward pass takes one activation, or none.
ONE_ACTIVATION = ("apertus", "mamba", "falcon_mamba", "mamba2", "gpt_oss", "bloom", "falcon", "mpt")
EPS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon", "mixer_rms_eps")
SCALES = (
    "logits_soft_cap", "logit_scale", "residual_multiplier", "attention_multiplier", "embedding_multiplier",
    "logits_scaling", "key_multiplier", "ssm_in_multiplier", "lm_head_multiplier", "attention_in_multiplier",
    "attention_out_multiplier", "ssm_out_multiplier", "query_pre_attn_scalar", "swiglu_alpha", "swiglu_limit",
    "router_jitter_noise",
)
# Older keys for the kinds of layers: by the number of layers.
PATTERNS = {
    **{kind: lambda n, r: {"sliding_window_pattern": r.choice([1, 2, 3, 4])} for kind in ("cohere2", "exaone4", "gemma3_text")},
    **{kind: lambda n, r: {"full_attention_interval": r.choice([1, 2, 3])} for kind in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")},
    **{kind: lambda n, r: {} for kind in ("gemma2", "vaultgemma", "gpt_oss", "olmo3", "ministral")},
    "lfm2": lambda n, r: {"full_attn_idxs": [l for l in range(n) if r.random() < 0.5]},
    "smollm3": lambda n, r: {"no_rope_layers": None, "no_rope_layer_interval": r.choice([2, 3])},
}
DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def changed(config, r):
    """A config that differs in many ways from a given one."""
    c = copy.deepcopy(config)
    kind = c["model_type"]
    layers(c, kind, r)
    widths(c, kind, r)
    mixers(c, kind, r)
    experts(c, kind, r)
    for flag in FLAGS:
        if isinstance(c.get(flag), bool):
            c[flag] = r.random() < 0.5
    for key in EPS:
        if c.get(key) and r.random() < 0.5:
            c[key] = r.choice([1e-6, 1e-5, 1e-3, 0.02])
    for key in SCALES:
        if isinstance(c.get(key), (int, float)) and c[key]:
            scaled = round(c[key] * r.choice([0.7, 1.0, 1.4]), 4)
            c[key] = int(scaled) if isinstance(c[key], int) else scaled
    for key, low, high in (("clip_qkv", 0.4, 2.0), ("final_logit_softcapping", 4.0, 20.0), ("attn_logit_softcapping", 2.0, 20.0)):
        if key in c and kind not in ("nanochat", "gemma3_text"):
            c[key] = r.choice([None, round(r.uniform(low, high), 2)])
    for key in ("mlp_multipliers", "ssm_multipliers"):
        if c.get(key):
            c[key] = [round(r.uniform(0.4, 1.5), 3) for _ in c[key]]
    for key in ("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act", "activation"):
        if c.get(key) and kind not in ONE_ACTIVATION and r.random() < 0.6:
            c[key] = r.choice(ACTIVATIONS)
    if kind == "gemma":
        c["hidden_activation"] = None
    if kind == "mpt":
        c["attn_config"]["clip_qkv"] = r.choice([None, 0.5, 1.5])
        c["attn_config"]["softmax_scale"] = r.choice([None, 0.3])
    if kind == "falcon":
        c["num_ln_in_parallel_attn"] = r.choice([None, 1, 2]) if c["new_decoder_architecture"] else None
        c["parallel_attn"] = c["parallel_attn"] or c["new_decoder_architecture"]
        if not c["new_decoder_architecture"] and not c["multi_query"]:
            c["num_kv_heads"] = c["num_attention_heads"]
    positions(c, kind, r)
    if "max_position_embeddings" in c:
        dynamic = (c.get("rope_parameters") or {}).get("rope_type") == "dynamic" and kind != "hunyuan_v1_dense"
        c["max_position_embeddings"] = r.choice([24, 64]) if dynamic else 64
    c.update(FIXED.get(kind, {}))
    return c


def key_of(c, *names):
    return next((k for k in names if k in c), None)


def layers(c, kind, r):
    """The number of layers, and their kinds."""
    depth = next((k for k in DEPTH if k in c), None)
    kinds = {key: sorted(set(map(str, c[key]))) for key in ("layer_types", "layers_block_type", "mlp_layer_types") if isinstance(c.get(key), list)}
    n = r.choice([1, 2, 3, 4, 5])
    if kind == "gemma4_text":
        return gemma4(c, r)
    if kind == "gpt_neo":
        pattern = r.choice([["global", "local"], ["local"], ["global"], ["global", "local", "local"]])
        c["attention_types"] = [[pattern, times := r.choice([1, 2])]]
        c.pop("attention_layers", None)
        c["num_layers"] = len(pattern) * times
        c["window_size"] = r.choice([3, 5, 40])
        return None
    if kind == "recurrent_gemma":
        c["block_types"] = r.choice([["recurrent", "recurrent", "attention"], ["attention", "recurrent"], ["recurrent"]])
        c["attention_window_size"] = r.choice([3, 6, 40])
    if depth:
        c[depth] = n
    for key, names in kinds.items():
        c[key] = [r.choice(names) for _ in range(n)]
    pattern = PATTERNS.get(kind)
    if pattern and r.random() < 0.4:
        c.pop("layer_types", None)
        c.update(pattern(n, r))
    if kind == "nemotron_h":
        c.pop("num_hidden_layers", None)
    if kind == "glm4_moe_lite" and r.random() < 0.3:
        c.pop("mlp_layer_types")
    if kind == "lfm2" and "layer_types" in c:
        c.pop("full_attn_idxs", None)
    if c.get("no_rope_layers"):
        c["no_rope_layers"] = [r.choice([0, 1]) for _ in range(n)]
    if "max_window_layers" in c and kind != "smollm3":
        c["max_window_layers"] = r.choice([0, 1, 2, 28])
        if kind != "qwen3_moe":
            c.pop("layer_types", None)
    if "mlp_only_layers" in c:
        c["mlp_only_layers"] = [l for l in range(n) if r.random() < 0.3]
    if "first_k_dense_replace" in c:
        c["first_k_dense_replace"] = r.randint(0, 2)
    if "moe_layer_start_index" in c:
        c["moe_layer_start_index"] = r.randint(0, 1)
        c["moe_layer_end_index"] = r.choice([-1, n - 1, n])
        c["moe_layer_interval"] = r.choice([1, 2])
    if "sliding_window" in c:
        may_lack = kind not in ("gemma2", "gemma3_text", "vaultgemma", "cohere2", "olmo3", "gpt_oss", "ministral", "smollm3")
        c["sliding_window"] = r.choice([3, 5, 9, *[None] * (may_lack and kind != "exaone4")])
        if c["sliding_window"] is None and "use_sliding_window" in c:
            c["use_sliding_window"] = False


def gemma4(c, r):
    """Gemma 4: patterns of layers, sharing of keys, inputs of layers, heads of the full layers."""
    n = r.choice([2, 3, 4, 6])
    c["num_hidden_layers"] = n
    types = [r.choice(["sliding_attention", "full_attention"]) for _ in range(n - 1)] + ["full_attention"]
    c["layer_types"] = types
    shared = r.choice([0, 0, *range(1, n)])
    # A layer that shares takes the keys of the last layer of its type that has its own.
    while shared and not set(types[n - shared:]) <= set(types[: n - shared]):
        shared -= 1
    c["num_kv_shared_layers"] = shared
    # transformers does not run a model with shared keys and without these inputs.
    c["hidden_size_per_layer_input"] = r.choice([6, 10] if shared else [0, 6, 10])
    c["sliding_window"] = r.choice([3, 5, 9])
    c["num_attention_heads"] = heads = r.choice([2, 4, 6])
    c["num_key_value_heads"] = r.choice([1, 2])
    c["head_dim"] = r.choice([8, 12])
    c["attention_k_eq_v"] = r.random() < 0.4
    own = {"head_dim": r.choice([8, 16])}
    if c["attention_k_eq_v"]:
        own["num_key_value_heads"] = r.choice([1, heads // 2])
    c["per_layer_config"] = {str(l): own for l, t in enumerate(types) if t == "full_attention"}
    full = c["rope_parameters"]["full_attention"]
    full["partial_rotary_factor"] = r.choice([0.25, 0.5, 1.0])


def widths(c, kind, r):
    heads_key = key_of(c, "num_attention_heads", "n_head", "n_heads", "num_heads")
    d_key = key_of(c, "hidden_size", "n_embd", "d_model")
    if kind == "gemma4_text":
        c[d_key] = r.choice([24, 32, 40])
    elif heads_key and c[heads_key]:
        heads = r.choice([4, 8] if kind == "codegen" else [1, 2, 3, 4, 5, 6, 8])
        d_head = r.choice([8, 12, 16, 20])
        c[heads_key] = heads
        shared = r.choice([n for n in range(1, heads + 1) if heads % n == 0])
        for key in ("num_key_value_heads", "num_kv_heads", "n_kv_heads"):
            if c.get(key) is not None:
                c[key] = heads if "kv_lora_rank" in c or kind in ("phi", "persimmon") and r.random() < 0.7 else shared
        # Widths apart from the heads only where the class has them.
        apart = c.get("head_dim") is not None and "kv_lora_rank" not in c and kind not in ("helium", "cohere2")
        if apart:
            c["head_dim"] = d_head
            # Several classes want a multiple of the heads, which need not be their width.
            c[d_key] = heads * r.choice([6, 8, 10])
        else:
            c[d_key] = heads * d_head
            if "head_dim" in c:
                c["head_dim"] = d_head
        if kind == "recurrent_gemma":
            c[d_key] = heads * d_head
            c["lru_width"] = heads * r.choice([8, 12])
        if "rotary_dim" in c:
            c["rotary_dim"] = r.choice([2, 4, d_head])
        if "word_embed_proj_dim" in c:
            c["word_embed_proj_dim"] = r.choice([c[d_key], 20])
            c["do_layer_norm_before"] = c["word_embed_proj_dim"] == c[d_key] or r.random() < 0.5
    elif d_key:
        c[d_key] = r.choice([24, 32, 40])
    for key in ("intermediate_size", "ffn_hidden_size", "moe_intermediate_size", "shared_expert_intermediate_size",
                "moe_shared_expert_intermediate_size", "ffn_dim", "block_ff_dim", "shared_intermediate_size"):
        if c.get(key):
            c[key] = r.choice([20, 28, 36, 48])
    if "n_inner" in c:
        c["n_inner"] = r.choice([None, 28])
    if "block_multiple_of" in c:
        c["block_multiple_of"] = r.choice([4, 16])
        c["block_ffn_dim_multiplier"] = r.choice([1.0, 1.3])
    if kind == "falcon":
        c["ffn_hidden_size"] = r.choice([None, 36])


def mixers(c, kind, r):
    """State spaces, convolutions and compressed keys."""
    d = c[key_of(c, "hidden_size", "n_embd", "d_model")]

    def put(key, *values):
        if key in c:
            c[key] = r.choice(values)

    if kind in ("mamba", "falcon_mamba", "mamba2"):
        c["expand"] = r.choice([2, 3])
        if kind != "mamba2":
            c["intermediate_size"] = c["expand"] * d
    if kind == "mamba2":
        width = c["expand"] * d
        c["head_dim"] = r.choice([n for n in (2, 4, 8, 12) if width % n == 0])
        c["num_heads"] = width // c["head_dim"]
        c["n_groups"] = r.choice([n for n in (1, 2, 3, 4) if c["num_heads"] % n == 0])
    for key in ("state_size", "mamba_d_state", "ssm_state_size"):
        put(key, 4, 8, 16)
    for key in ("conv_kernel", "conv1d_width", "mamba_d_conv", "linear_conv_kernel_dim", "conv_L_cache"):
        put(key, 2, 3, 4)
    for key in ("chunk_size", "mamba_chunk_size"):
        put(key, 3, 5, 64)
    put("time_step_rank", 3, 4)
    put("time_step_limit", [0.0, float("inf")], [0.05, 0.9])
    put("time_step_min", 0.001, 0.3)
    put("residual_in_fp32", True, False)
    put("position_embedding_type", "rope", "nope")
    if kind in ("falcon_h1", "granitemoehybrid"):
        c["mamba_n_heads"] = r.choice([4, 6, 8])
        c["mamba_n_groups"] = r.choice([1, 2])
        if kind == "falcon_h1":
            c["mamba_d_head"] = r.choice([4, 8])
            c["mamba_d_ssm"] = c["mamba_n_heads"] * c["mamba_d_head"]
        else:
            while (c["mamba_expand"] * d) % c["mamba_n_heads"]:
                c["mamba_n_heads"] = r.choice([2, 4, 6, 8])
            c["mamba_d_head"] = c["mamba_expand"] * d // c["mamba_n_heads"]
    if kind == "nemotron_h":
        c["mamba_num_heads"] = r.choice([4, 6, 8])
        c["mamba_head_dim"] = r.choice([4, 8])
        c["n_groups"] = r.choice([1, 2])
    if "linear_num_key_heads" in c:
        c["linear_num_key_heads"] = r.choice([1, 2, 3])
        c["linear_num_value_heads"] = c["linear_num_key_heads"] * r.choice([1, 2, 3])
        c["linear_key_head_dim"] = r.choice([4, 8])
        c["linear_value_head_dim"] = r.choice([4, 8, 12])
    if "qk_nope_head_dim" in c:
        c["qk_nope_head_dim"] = r.choice([6, 8, 12])
        c["qk_rope_head_dim"] = r.choice([4, 8])
        c["v_head_dim"] = r.choice([6, 8, 12])
        c["kv_lora_rank"] = r.choice([16, 20] if kind == "deepseek_v2" else [9, 16])
        c["q_lora_rank"] = r.choice([None, 10, 14])
        c["head_dim"] = c["qk_rope_head_dim"]
        c.pop("qk_head_dim", None)


def experts(c, kind, r):
    count_key = next((k for k in ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts") if c.get(k)), None)
    if count_key and kind == "phimoe":
        c[count_key] = r.choice([2, 3, 6])
    elif count_key:
        groups = r.choice([1, 2, 3]) if c.get("n_group") is not None else 1
        count = groups * r.choice([2, 3, 4])
        c[count_key] = count
        if "n_group" in c:
            c["n_group"] = groups
            c["topk_group"] = r.randint(1, groups)
        allowed = count // groups * (c.get("topk_group") or groups)
        for key in ("num_experts_per_tok", "moe_k", "top_k_experts"):
            if c.get(key):
                c[key] = r.randint(1, min(4, allowed))
    if kind == "granitemoehybrid":
        c["num_local_experts"] = r.choice([0, c["num_local_experts"]])
    for key, values in (("n_shared_experts", [1, 2]), ("moe_num_shared_experts", [0, 1, 2]), ("routed_scaling_factor", [1.0, 2.5]),
                        ("decoder_sparse_step", [1, 2]), ("moe_norm_min", [1e-12, 0.5])):
        if key in c:
            c[key] = r.choice(values)
    if kind == "deepseek_v2":
        c["topk_method"] = r.choice(["greedy", "group_limited_greedy"])


def positions(c, kind, r):
    """Rotary embeddings of every type, as one object or one for each kind of layer."""
    rope = c.get("rope_parameters")
    if kind in ("gemma4_text",) or not isinstance(rope, dict):
        return
    if "full_attention" in rope:
        for part in rope:
            rope[part] = {**r.choice(ROPES[:2] + ROPES[3:])(r), "rope_theta": r.choice([10000.0, 500000.0])}
        return
    if kind == "hunyuan_v1_dense":
        rope["alpha"] = r.choice([1.0, 50.0, 1000.0])
    elif kind == "ministral3":
        rope.update({"factor": r.choice([2.0, 16.0]), "llama_4_scaling_beta": r.choice([0.1, 0.6]), "mscale": r.choice([0.7, 1.0]),
                     "mscale_all_dim": r.choice([0.0, 0.8, 1.0]), "original_max_position_embeddings": r.choice([6, 16])})
    elif kind == "phimoe" and r.random() < 0.5:
        pairs = c["hidden_size"] // c["num_attention_heads"] // 2
        factors = {name: [round(r.uniform(1.0, 4.0), 3) for _ in range(pairs)] for name in ("short_factor", "long_factor")}
        scale = r.choice([1.0, 1.3])
        c["rope_parameters"] = {"rope_type": "longrope", "rope_theta": 10000.0, **factors, "short_mscale": scale,
                                "long_mscale": scale, "original_max_position_embeddings": r.choice([16, 64])}
    elif kind == "recurrent_gemma":
        rope["partial_rotary_factor"] = r.choice([0.25, 0.5, 1.0])
    elif kind not in ("phimoe", "phi3"):
        new = r.choice(ROPES)(r)
        new["rope_theta"] = r.choice([10000.0, 500000.0])
        if "partial_rotary_factor" in rope:
            new["partial_rotary_factor"] = r.choice([0.25, 0.5, 1.0])
        if new["rope_type"] == "yarn" and r.random() < 0.4:
            new.update(r.choice([{"mscale": 0.7, "mscale_all_dim": 0.7}, {"mscale": 1.0, "mscale_all_dim": 0.8}, {"mscale": 0.5}]))
        if "mrope_section" in rope:
            new.update({"mrope_section": rope["mrope_section"], "mrope_interleaved": True})
        c["rope_parameters"] = new
    if kind == "phi3":
        pairs = c["hidden_size"] // c["num_attention_heads"] // 2
        factors = {name: [round(r.uniform(1.0, 4.0), 3) for _ in range(pairs)] for name in ("short_factor", "long_factor")}
        c["original_max_position_embeddings"] = r.choice([8, 64])
        c["rope_parameters"] = r.choice([{"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": r.choice([0.5, 1.0])},
                                         {"rope_type": "longrope", "rope_theta": 10000.0, **factors}])
