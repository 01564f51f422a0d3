//! Every GGUF architecture that is read. Mistral's and Mixtral's files say `llama`.

use super::architecture::{Architecture, Epsilon};
use super::configs::{self as config};
use super::layers::*;
use super::made::XIELU;

const RMS: Epsilon = Epsilon::Rms("rms_norm_eps");
const LAYER: Epsilon = Epsilon::Layer("layer_norm_epsilon");
const LAYER_EPS: Epsilon = Epsilon::Layer("layer_norm_eps");

const LLAMA: Architecture = Architecture {
    name: "llama",
    model_type: "llama",
    class: "LlamaForCausalLM",
    epsilon: RMS,
    config: config::llama,
    outside: &[OUTSIDE],
    prefix: "model.layers.{}.",
    layer: &[TWO_NORMS, TURNED, GATED, BLOCK_SPARSE],
    variant: None,
    of_metadata: &[],
    unsaid: None,
};

const NEMOTRON_H: Architecture = Architecture {
    name: "nemotron_h",
    model_type: "nemotron_h",
    class: "NemotronHForCausalLM",
    epsilon: LAYER,
    config: config::nemotron_h,
    outside: &[OUTSIDE_BACKBONE],
    prefix: "backbone.layers.{}.",
    layer: &[LAYER_MAMBA2, LAYER_NEMOTRON_H],
    ..LLAMA
};

pub(super) const ARCHITECTURES: &[Architecture] = &[
    LLAMA,
    Architecture {
        name: "qwen2",
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        config: config::qwen,
        layer: &[TWO_NORMS, ATTENTION, GATED],
        ..LLAMA
    },
    Architecture {
        name: "qwen3",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        config: config::qwen,
        layer: &[TWO_NORMS, ATTENTION, QK_NORMS, GATED],
        ..LLAMA
    },
    Architecture {
        name: "qwen2moe",
        model_type: "qwen2_moe",
        class: "Qwen2MoeForCausalLM",
        config: config::qwen2moe,
        layer: &[TWO_NORMS, ATTENTION, GATED, EXPERTS, SHARED_EXPERT],
        ..LLAMA
    },
    Architecture {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        class: "Qwen3MoeForCausalLM",
        config: config::qwen3moe,
        layer: &[TWO_NORMS, ATTENTION, QK_NORMS, GATED, EXPERTS],
        ..LLAMA
    },
    Architecture {
        name: "gemma",
        model_type: "gemma",
        class: "GemmaForCausalLM",
        config: config::gemma,
        outside: &[OUTSIDE_PLUS_ONE],
        layer: &[TWO_NORMS_PLUS_ONE, ATTENTION, GATED],
        ..LLAMA
    },
    Architecture {
        name: "gemma2",
        model_type: "gemma2",
        class: "Gemma2ForCausalLM",
        config: config::gemma2,
        outside: &[OUTSIDE_PLUS_ONE],
        layer: &[FOUR_NORMS_PLUS_ONE, ATTENTION, GATED],
        ..LLAMA
    },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        config: config::gemma3,
        outside: &[OUTSIDE_PLUS_ONE],
        layer: &[FOUR_NORMS_PLUS_ONE, ATTENTION, QK_NORMS_PLUS_ONE, GATED],
        ..LLAMA
    },
    Architecture {
        name: "gemma4",
        model_type: "gemma4_text",
        class: "Gemma4ForCausalLM",
        config: config::gemma4,
        outside: &[OUTSIDE_GEMMA4],
        layer: &[LAYER_GEMMA4, ATTENTION, QK_NORMS, GATED],
        ..LLAMA
    },
    Architecture {
        name: "phi2",
        model_type: "phi",
        class: "PhiForCausalLM",
        epsilon: LAYER_EPS,
        config: config::phi2,
        outside: &[FINAL_LAYERNORM],
        layer: &[LAYER_PHI2],
        ..LLAMA
    },
    Architecture {
        name: "phi3",
        model_type: "phi3",
        class: "Phi3ForCausalLM",
        config: config::phi3,
        layer: &[TWO_NORMS, QKV_PHI3, GATE_UP],
        ..LLAMA
    },
    Architecture {
        name: "gpt2",
        model_type: "gpt2",
        class: "GPT2LMHeadModel",
        epsilon: LAYER,
        config: config::gpt2,
        outside: &[OUTSIDE_GPT2],
        prefix: "transformer.h.{}.",
        layer: &[LAYER_GPT2],
        ..LLAMA
    },
    Architecture {
        name: "gptneox",
        model_type: "gpt_neox",
        class: "GPTNeoXForCausalLM",
        epsilon: LAYER_EPS,
        config: config::gptneox,
        outside: &[OUTSIDE_NEOX],
        prefix: "gpt_neox.layers.{}.",
        layer: &[LAYER_NEOX],
        ..LLAMA
    },
    Architecture {
        name: "bloom",
        model_type: "bloom",
        class: "BloomForCausalLM",
        epsilon: LAYER,
        config: config::bloom,
        outside: &[OUTSIDE_FALCON],
        prefix: "transformer.h.{}.",
        layer: &[LAYER_BLOOM],
        ..LLAMA
    },
    Architecture {
        name: "mpt",
        model_type: "mpt",
        class: "MptForCausalLM",
        epsilon: LAYER,
        config: config::mpt,
        outside: &[OUTSIDE_MPT],
        prefix: "transformer.blocks.{}.",
        layer: &[LAYER_MPT],
        ..LLAMA
    },
    Architecture {
        name: "falcon",
        model_type: "falcon",
        class: "FalconForCausalLM",
        epsilon: LAYER,
        config: config::falcon,
        outside: &[OUTSIDE_FALCON],
        prefix: "transformer.h.{}.",
        layer: &[LAYER_FALCON],
        variant: Some(("blk.0.attn_norm_2.weight", &[LAYER_FALCON_40B])),
        ..LLAMA
    },
    Architecture {
        name: "starcoder",
        model_type: "gpt_bigcode",
        class: "GPTBigCodeForCausalLM",
        epsilon: LAYER,
        config: config::starcoder,
        outside: &[OUTSIDE_GPT2],
        prefix: "transformer.h.{}.",
        layer: &[LAYER_STARCODER],
        ..LLAMA
    },
    Architecture {
        name: "starcoder2",
        model_type: "starcoder2",
        class: "Starcoder2ForCausalLM",
        epsilon: Epsilon::Layer("norm_epsilon"),
        config: config::starcoder2,
        layer: &[TWO_NORMS, ATTENTION, MLP_STARCODER2],
        unsaid: Some(
            "the file does not say whether attention is windowed, and is read without a window: releases of StarCoder2 \
             see 4096 tokens",
        ),
        ..LLAMA
    },
    Architecture {
        name: "stablelm",
        model_type: "stablelm",
        class: "StableLmForCausalLM",
        epsilon: LAYER_EPS,
        config: config::stablelm,
        layer: &[TWO_NORMS, ATTENTION, QK_NORMS_STABLELM, GATED],
        ..LLAMA
    },
    Architecture {
        name: "olmo",
        model_type: "olmo",
        class: "OlmoForCausalLM",
        epsilon: Epsilon::Layer(""),
        config: config::olmo,
        layer: &[TURNED, GATED],
        ..LLAMA
    },
    Architecture {
        name: "olmo2",
        model_type: "olmo2",
        class: "Olmo2ForCausalLM",
        config: config::olmo2,
        layer: &[POST_NORMS, ATTENTION, QK_NORMS, GATED],
        ..LLAMA
    },
    Architecture {
        name: "olmoe",
        model_type: "olmoe",
        class: "OlmoeForCausalLM",
        config: config::olmoe,
        layer: &[TWO_NORMS, ATTENTION, QK_NORMS, EXPERTS],
        ..LLAMA
    },
    Architecture {
        name: "command-r",
        model_type: "cohere",
        class: "CohereForCausalLM",
        epsilon: LAYER_EPS,
        config: config::command_r,
        layer: &[NORM_BEFORE, ATTENTION, QK_NORMS, GATED],
        ..LLAMA
    },
    Architecture {
        name: "cohere2",
        model_type: "cohere2",
        class: "Cohere2ForCausalLM",
        epsilon: LAYER_EPS,
        config: config::cohere2,
        layer: &[NORM_BEFORE, ATTENTION, GATED],
        ..LLAMA
    },
    Architecture {
        name: "granite",
        model_type: "granite",
        class: "GraniteForCausalLM",
        config: config::granite,
        layer: &[TWO_NORMS, TURNED, GATED],
        ..LLAMA
    },
    Architecture {
        name: "granitemoe",
        model_type: "granitemoe",
        class: "GraniteMoeForCausalLM",
        config: config::granitemoe,
        layer: &[TWO_NORMS, TURNED, EXPERTS_GRANITE],
        ..LLAMA
    },
    Architecture {
        name: "granitehybrid",
        model_type: "granitemoehybrid",
        class: "GraniteMoeHybridForCausalLM",
        config: config::granitehybrid,
        layer: &[TWO_NORMS, TURNED, EXPERTS_GRANITE, DENSE_GRANITE, SPACE],
        ..LLAMA
    },
    Architecture {
        name: "gpt-oss",
        model_type: "gpt_oss",
        class: "GptOssForCausalLM",
        config: config::gpt_oss,
        layer: &[TWO_NORMS_AFTER, ATTENTION, EXPERTS_GPT_OSS],
        ..LLAMA
    },
    Architecture {
        name: "chatglm",
        model_type: "glm",
        class: "GlmForCausalLM",
        config: config::glm,
        layer: &[TWO_NORMS, ATTENTION, GATE_UP],
        ..LLAMA
    },
    Architecture {
        name: "glm4",
        model_type: "glm4",
        class: "Glm4ForCausalLM",
        config: config::glm,
        layer: &[NORMS_GLM4, ATTENTION, GATE_UP],
        ..LLAMA
    },
    Architecture {
        name: "glm4moe",
        model_type: "glm4_moe",
        class: "Glm4MoeForCausalLM",
        config: config::glm4moe,
        layer: &[TWO_NORMS_AFTER, ATTENTION, QK_NORMS, GATED, EXPERTS, SHARED_EXPERTS],
        ..LLAMA
    },
    Architecture {
        name: "deepseek2",
        model_type: "deepseek_v2",
        class: "DeepseekV2ForCausalLM",
        config: config::deepseek2,
        layer: &[TWO_NORMS, LATENT, GATED, EXPERTS, SHARED_EXPERTS],
        ..LLAMA
    },
    Architecture {
        name: "minimax-m2",
        model_type: "minimax_m2",
        class: "MiniMaxM2ForCausalLM",
        config: config::minimax_m2,
        layer: &[TWO_NORMS, ATTENTION, QK_NORMS, BLOCK_SPARSE],
        ..LLAMA
    },
    Architecture {
        name: "ernie4_5",
        model_type: "ernie4_5",
        class: "Ernie4_5ForCausalLM",
        config: config::ernie,
        layer: &[TWO_NORMS, ATTENTION, GATED],
        ..LLAMA
    },
    Architecture {
        name: "ernie4_5-moe",
        model_type: "ernie4_5_moe",
        class: "Ernie4_5_MoeForCausalLM",
        config: config::ernie_moe,
        layer: &[TWO_NORMS, ATTENTION, GATED, EXPERTS, SHARED_EXPERTS_ERNIE],
        ..LLAMA
    },
    Architecture {
        name: "exaone4",
        model_type: "exaone4",
        class: "Exaone4ForCausalLM",
        config: config::exaone4,
        layer: &[POST_NORMS, ATTENTION, QK_NORMS, GATED],
        ..LLAMA
    },
    Architecture {
        name: "hunyuan-dense",
        model_type: "hunyuan_v1_dense",
        class: "HunYuanDenseV1ForCausalLM",
        config: config::hunyuan,
        layer: &[TWO_NORMS, ATTENTION, QK_NORMS_HUNYUAN, GATED],
        ..LLAMA
    },
    Architecture {
        name: "smollm3",
        model_type: "smollm3",
        class: "SmolLM3ForCausalLM",
        config: config::smollm3,
        layer: &[TWO_NORMS, TURNED, GATED],
        ..LLAMA
    },
    Architecture {
        name: "mistral3",
        model_type: "ministral3",
        class: "Ministral3ForCausalLM",
        config: config::mistral3,
        ..LLAMA
    },
    Architecture {
        name: "apertus",
        model_type: "apertus",
        class: "ApertusForCausalLM",
        config: config::apertus,
        layer: &[NORMS_APERTUS, ATTENTION, QK_NORMS, GATED],
        of_metadata: XIELU,
        ..LLAMA
    },
    Architecture {
        name: "arcee",
        model_type: "arcee",
        class: "ArceeForCausalLM",
        config: config::arcee,
        layer: &[TWO_NORMS, TURNED, GATED],
        ..LLAMA
    },
    Architecture {
        name: "seed_oss",
        model_type: "seed_oss",
        class: "SeedOssForCausalLM",
        config: config::seed_oss,
        layer: &[TWO_NORMS_AFTER, ATTENTION, GATED],
        ..LLAMA
    },
    Architecture {
        name: "nemotron",
        model_type: "nemotron",
        class: "NemotronForCausalLM",
        epsilon: Epsilon::Layer("norm_eps"),
        config: config::nemotron,
        outside: &[OUTSIDE_LAYER_PLUS_ONE],
        layer: &[TWO_LAYER_NORMS_PLUS_ONE, ATTENTION, GATED],
        ..LLAMA
    },
    Architecture {
        name: "mamba",
        model_type: "mamba",
        class: "MambaForCausalLM",
        epsilon: Epsilon::Rms("layer_norm_epsilon"),
        config: config::mamba,
        outside: &[OUTSIDE_BACKBONE],
        prefix: "backbone.layers.{}.",
        layer: &[LAYER_MAMBA],
        ..LLAMA
    },
    Architecture {
        name: "mamba2",
        model_type: "mamba2",
        class: "Mamba2ForCausalLM",
        epsilon: Epsilon::Rms("layer_norm_epsilon"),
        config: config::mamba2,
        outside: &[OUTSIDE_BACKBONE],
        prefix: "backbone.layers.{}.",
        layer: &[LAYER_MAMBA2],
        ..LLAMA
    },
    Architecture {
        name: "falcon-h1",
        model_type: "falcon_h1",
        class: "FalconH1ForCausalLM",
        config: config::falcon_h1,
        outside: &[FINAL_LAYERNORM],
        layer: &[LAYER_FALCON_H1, ATTENTION, SPACE],
        ..LLAMA
    },
    Architecture {
        name: "lfm2",
        model_type: "lfm2",
        class: "Lfm2ForCausalLM",
        epsilon: Epsilon::Rms("norm_eps"),
        config: config::lfm2,
        outside: &[OUTSIDE_LFM2],
        layer: &[LAYER_LFM2],
        ..LLAMA
    },
    Architecture {
        name: "qwen3next",
        model_type: "qwen3_next",
        class: "Qwen3NextForCausalLM",
        config: config::qwen3next,
        outside: &[OUTSIDE_PLUS_ONE],
        layer: &[LAYER_QWEN3NEXT, ATTENTION, QK_NORMS_PLUS_ONE, GATED, EXPERTS, SHARED_EXPERT],
        ..LLAMA
    },
    Architecture {
        name: "qwen35",
        model_type: "qwen3_5_text",
        class: "Qwen3_5ForCausalLM",
        config: config::qwen35,
        outside: &[OUTSIDE_PLUS_ONE],
        layer: &[LAYER_QWEN35, ATTENTION, QK_NORMS_PLUS_ONE, GATED],
        ..LLAMA
    },
    Architecture {
        name: "qwen35moe",
        model_type: "qwen3_5_moe_text",
        class: "Qwen3_5MoeForCausalLM",
        config: config::qwen35moe,
        outside: &[OUTSIDE_PLUS_ONE],
        layer: &[LAYER_QWEN35, ATTENTION, QK_NORMS_PLUS_ONE, EXPERTS, SHARED_EXPERT],
        ..LLAMA
    },
    NEMOTRON_H,
    Architecture { name: "nemotron_h_moe", ..NEMOTRON_H },
];
