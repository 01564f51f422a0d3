//! StarCoder: GPT-2 with one key head for all queries, or with queries, keys and values stored head by head.

use super::parts::{activation, attention, block, norm, pre_norm};
use super::sizes::{HeadWidth, Key, KvHeads, SizeKeys, Sizes};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "gpt_bigcode",
    read,
    inert: &[
        "attention_softmax_in_fp32",
        "inference_runner",
        "max_batch_size",
        "max_sequence_length",
        "num_key_value_heads",
        "pad_key_length",
        "pre_allocate_kv_cache",
        "scale_attention_softmax_in_fp32",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "validate_runner_input",
        "n_ctx",
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
    let mut sizes = Sizes::read(config, &SIZES)?;
    let shared = config.flag_or("multi_query", true)?;
    if shared {
        sizes.n_kv_heads = 1;
    }
    let norm = norm(config, NormKind::Layer, "layer_norm_epsilon", 1e-5)?;
    let mlp = Mlp::Plain {
        d_mlp: config.optional_size("n_inner")?.unwrap_or(4 * sizes.d_model),
        act: activation(config, "activation_function", "gelu_pytorch_tanh")?,
    };
    let scale = if config.flag_or("scale_attn_weights", true)? { sizes.scale() } else { 1.0 };
    let layer = block(attention(scale, PositionMark::None), mlp, pre_norm(norm));
    let mut arch = sizes.arch(vec![layer; sizes.n_layers], norm);
    arch.embed.positions = Some(LearnedPositions { offset: 0, rows: sizes.context });
    let qkv = Linear::new("attn.c_attn", Bias::Stored);
    let layer = LayerNames {
        attention_norm: Some("ln_1"),
        mlp_norm: Some("ln_2"),
        qkv: if shared { QkvNames::Stacked(qkv) } else { QkvNames::ByHead(qkv) },
        out: Linear::new("attn.c_proj", Bias::Stored),
        ..stored::layer(Bias::Stored, Bias::Stored, stored::plain("mlp.c_fc", "mlp.c_proj", Bias::Stored))
    };
    let names = Names {
        prefix: "transformer.",
        embed: "wte",
        positions: Some("wpe"),
        final_norm: Some("ln_f"),
        layer: "h.{}.",
        ignored: &["attn.bias", "attn.masked_bias"],
        ..stored::model(vec![layer])
    };
    Ok((arch, names))
}
