//! GPT-Neo: unscaled scores, and windows in some layers.

use super::parts::{activation, attention, block, norm, pre_norm};
use super::sizes::{HeadWidth, Key, KvHeads, SizeKeys, Sizes};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "gpt_neo",
    read,
    inert: &[
        "embed_dropout",
        "gradient_checkpointing",
        "resid_dropout",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ],
    only: &[],
};

const SIZES: SizeKeys = SizeKeys {
    d_model: Key(&["hidden_size"], 2048),
    n_layers: Key(&["num_layers", "num_hidden_layers"], 24),
    n_heads: Key(&["num_heads", "num_attention_heads"], 16),
    n_kv_heads: KvHeads::NoKey,
    d_head: HeadWidth::Always,
    vocabulary: 50_257,
    context: Some(Key(&["max_position_embeddings"], 2048)),
    tied: true,
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let norm = norm(config, NormKind::Layer, "layer_norm_epsilon", 1e-5)?;
    let mlp = Mlp::Plain {
        d_mlp: config.optional_size("intermediate_size")?.unwrap_or(4 * sizes.d_model),
        act: activation(config, "activation_function", "gelu_new")?,
    };
    let layers = windows(config, sizes.n_layers)?
        .into_iter()
        .map(|window| block(Attention { window, ..attention(1.0, PositionMark::None) }, mlp, pre_norm(norm)))
        .collect();
    let mut arch = sizes.arch(layers, norm);
    arch.embed.positions = Some(LearnedPositions { offset: 0, rows: sizes.context });
    let layer = LayerNames {
        attention_norm: Some("ln_1"),
        mlp_norm: Some("ln_2"),
        qkv: stored::split(
            "attn.attention.q_proj",
            "attn.attention.k_proj",
            "attn.attention.v_proj",
            Bias::Absent,
        ),
        out: Linear::new("attn.attention.out_proj", Bias::Stored),
        ..stored::layer(Bias::Absent, Bias::Stored, stored::plain("mlp.c_fc", "mlp.c_proj", Bias::Stored))
    };
    let names = Names {
        prefix: "transformer.",
        embed: "wte",
        positions: Some("wpe"),
        final_norm: Some("ln_f"),
        layer: "h.{}.",
        ignored: &["attn.attention.bias", "attn.attention.masked_bias"],
        ..stored::model(vec![layer])
    };
    Ok((arch, names))
}

/// `attention_types` lists kinds with repetition counts; the class writes `attention_layers` next to it, computed from
/// it.
fn windows(config: &Config, n_layers: usize) -> Result<Vec<Window>> {
    let key = "attention_types";
    let wrong = || {
        config.wrong(key, &format!("kinds (global, local) for {n_layers} layers, each list with its repeats"))
    };
    let sliding = Window::Sliding(config.size_or("window_size", 256)?);
    config.has("attention_layers");
    let mut layers = Vec::new();
    let default = serde_json::json!([[["global", "local"], 12]]);
    for item in config.value(key).unwrap_or(&default).as_array().ok_or_else(wrong)? {
        let kinds = item.get(0).and_then(|kinds| kinds.as_array()).ok_or_else(wrong)?;
        let times = item.get(1).and_then(|times| times.as_u64()).ok_or_else(wrong)?;
        let of = |kind: &serde_json::Value| match kind.as_str() {
            Some("global") => Ok(Window::Full),
            Some("local") => Ok(sliding),
            _ => Err(wrong()),
        };
        for _ in 0..times.min(n_layers as u64 + 1) {
            layers.extend(kinds.iter().map(of).collect::<Result<Vec<_>>>()?);
            if layers.len() > n_layers {
                return Err(wrong());
            }
        }
    }
    if layers.len() == n_layers { Ok(layers) } else { Err(wrong()) }
}
