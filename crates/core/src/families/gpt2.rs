//! GPT-2: learned positions, weights stored `[inputs, outputs]`.

use super::Family;
use super::parts::{activation, attention, block, norm, pre_norm};
use super::sizes::{HeadWidth, Key, KvHeads, SizeKeys, Sizes};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "gpt2",
    read,
    inert: &[
        "n_ctx",
        "n_special",
        "output_past",
        "predict_special_tokens",
        // Scales keys first and keeps scores in f32: the same numbers in f32.
        "reorder_and_upcast_attn",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ],
    only: &[],
};

const SIZES: SizeKeys = SizeKeys {
    d_model: Key(&["n_embd", "hidden_size"], 768),
    n_layers: Key(&["n_layer", "num_hidden_layers"], 12),
    n_heads: Key(&["n_head", "num_attention_heads"], 12),
    n_kv_heads: KvHeads::NoKey,
    d_head: HeadWidth::Always,
    vocabulary: 50_257,
    context: Some(Key(&["n_positions", "max_position_embeddings"], 1024)),
    tied: true,
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let norm = norm(config, NormKind::Layer, "layer_norm_epsilon", 1e-5)?;
    let mlp = Mlp::Plain {
        d_mlp: config.optional_size("n_inner")?.unwrap_or(4 * sizes.d_model),
        act: activation(config, "activation_function", "gelu_new")?,
    };
    let scaled = config.flag_or("scale_attn_weights", true)?;
    let base = if scaled { (sizes.d_head as f64).powf(-0.5) } else { 1.0 };
    let by_layer = config.flag_or("scale_attn_by_inverse_layer_idx", false)?;
    let layers = (0..sizes.n_layers)
        .map(|l| {
            let scale = if by_layer { base / (l + 1) as f64 } else { base };
            block(attention(scale as f32, PositionMark::None), mlp, pre_norm(norm))
        })
        .collect();
    let mut arch = sizes.arch(layers, norm);
    arch.embed.positions = Some(LearnedPositions { offset: 0, rows: sizes.context });
    Ok((arch, names()))
}

fn names() -> Names {
    let conv1d = |name| Linear { name, bias: Bias::Stored, axes: Axes::InOut };
    Names {
        prefix: "transformer.",
        embed: "wte",
        positions: Some("wpe"),
        embed_norm: None,
        project_in: None,
        project_out: None,
        final_norm: Some("ln_f"),
        unembed: "lm_head",
        score: &[],
        layer: "h.{}.",
        layers: vec![LayerNames {
            attention_norm: Some("ln_1"),
            attention_post_norm: None,
            mlp_norm: Some("ln_2"),
            mlp_post_norm: None,
            qkv: QkvNames::Stacked(conv1d("attn.c_attn")),
            q_norm: None,
            k_norm: None,
            sinks: None,
            recurrence: None,
            out: conv1d("attn.c_proj"),
            mlp: MlpNames::Plain { up: conv1d("mlp.c_fc"), down: conv1d("mlp.c_proj") },
            per_layer: None,
            leaving_scale: None,
        }],
        // Whole components of a name: `attn.c_attn.bias` is a weight.
        ignored: &["attn.bias", "attn.masked_bias"],
        spellings: &[],
        left_out: &[],
        further_layers: 0..0,
        per_layer: None,
    }
}
