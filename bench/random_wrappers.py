"""Configs of models that read images, around a random decoder: only text goes through them."""

SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
          "num_attention_heads": 2, "image_size": 16, "patch_size": 8, "vision_use_head": False}
PIXTRAL = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
           "num_attention_heads": 2, "head_dim": 8, "image_size": 16, "patch_size": 8}
QWEN = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "num_position_embeddings": 16, "patch_size": 4}
IDEFICS = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
GEMMA4 = {"model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
          "num_key_value_heads": 2, "head_dim": 8, "position_embedding_size": 16}
LLAVA = ["llama", "mistral", "qwen2", "gemma", "gemma2", "phi3", "qwen3", "granite", "cohere", "mixtral", "gemma3_text", "glm4"]

# The wrapper: the fixtures that its decoder may be, its tower, keys of its own.
WRAPPERS = {
    "gemma3": (["gemma3_text"], SIGLIP, {"image_token_index": 319, "boi_token_index": 318, "eoi_token_index": 317, "mm_tokens_per_image": 4}),
    "gemma4": (["gemma4_text", "gemma4_text_moe"], GEMMA4, {"audio_config": None, "image_token_id": 319, "video_token_id": 318, "audio_token_id": 317}),
    "llava": (LLAVA, SIGLIP, {"image_token_index": 319}),
    "llava_next": (LLAVA, SIGLIP, {"image_token_index": 319}),
    "llava_onevision": (LLAVA, SIGLIP, {"image_token_index": 319, "video_token_index": 318}),
    "mistral3": (["mistral", "ministral", "ministral3", "llama"], PIXTRAL, {"image_token_index": 319}),
    "qwen2_vl": (["qwen2"], {**QWEN, "embed_dim": 16, "hidden_size": None, "mlp_ratio": 1}, {}),
    "qwen2_5_vl": (["qwen2"], {**QWEN, "out_hidden_size": None, "fullatt_block_indexes": [0]}, {}),
    "qwen3_vl": (["qwen3"], {**QWEN, "out_hidden_size": None, "deepstack_visual_indexes": [0]}, {}),
    "qwen3_5": (["qwen3_5_text"], {**QWEN, "out_hidden_size": None}, {}),
    "qwen3_5_moe": (["qwen3_5_moe_text"], {**QWEN, "out_hidden_size": None}, {}),
    "paligemma": (["gemma", "gemma2"], SIGLIP, {"image_token_index": 319, "projection_dim": 16}),
    "smolvlm": (["llama", "mistral", "qwen2"], {**IDEFICS, "model_type": "smolvlm_vision"}, {"image_token_id": 319}),
    "idefics3": (["llama", "mistral", "qwen2"], {**IDEFICS, "model_type": "idefics3_vision"}, {"image_token_id": 319}),
}

CHAMELEON = {
    "model_type": "chameleon", "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "hidden_act": "silu", "attention_bias": True,
    "mlp_bias": True, "tie_word_embeddings": False, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    "vq_config": {"embed_dim": 8, "num_embeddings": 4, "latent_channels": 8, "resolution": 16, "base_channels": 32,
                  "channel_multiplier": [1], "num_res_blocks": 1},
    "vocabulary_map": {"<image>": 319, **{f"IMGIMG{letter}Z": 311 + i for i, letter in enumerate("ABCD")}},
}


def wrapped(name, text, r):
    """The wrapper's keys around the decoder's config."""
    _, tower, own = WRAPPERS[name]
    width = text["hidden_size"]
    tower = {k: width if v is None else v for k, v in tower.items()}
    if name.startswith("qwen"):
        text = {k: v for k, v in text.items() if k not in ("model_type", "sliding_window", "use_sliding_window", "max_window_layers")}
        own = {"image_token_id": 319, "video_token_id": 318, "vision_start_token_id": 317, "vision_end_token_id": 316}
        if not name.startswith("qwen3_5"):
            half = (text.get("head_dim") or width // text["num_attention_heads"]) // 2
            sections = [half - 2 * (half // 3), half // 3, half // 3]
            text["rope_parameters"] = {"rope_type": "default", "rope_theta": r.choice([1e4, 1e6]), "mrope_section": sections}
            text["max_position_embeddings"] = 64
            text.pop("layer_types", None)
    return {"model_type": name, "text_config": text, "vision_config": tower, "tie_word_embeddings": r.random() < 0.5, **own}
