//! GPT-J: attention and MLP in parallel on one norm, rotary pairs of adjacent columns.

use super::parts::{activation, attention, block, norm};
use super::sizes::{HeadWidth, Key, KvHeads, SizeKeys, Sizes};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "gptj",
    read,
    inert: &[
        "n_ctx",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ],
    only: &[("rotary", Only::True), ("scale_attn_weights", Only::True)],
};

const SIZES: SizeKeys = SizeKeys {
    d_model: Key(&["n_embd", "hidden_size"], 4096),
    n_layers: Key(&["n_layer", "num_hidden_layers"], 28),
    n_heads: Key(&["n_head", "num_attention_heads"], 16),
    n_kv_heads: KvHeads::NoKey,
    d_head: HeadWidth::Always,
    vocabulary: 50_400,
    context: Some(Key(&["n_positions", "max_position_embeddings"], 2048)),
    tied: false,
};

pub(super) fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let norm = norm(config, NormKind::Layer, "layer_norm_epsilon", 1e-5)?;
    let rotary_dim = config.size_or("rotary_dim", 64)?;
    if rotary_dim > sizes.d_head || !rotary_dim.is_multiple_of(2) {
        return Err(config.wrong("rotary_dim", &format!("an even number up to {}", sizes.d_head)));
    }
    // The base is not a key of this class (modeling_gptj.py, `create_sinusoidal_positions`).
    let rope = Rope {
        theta: 10_000.0,
        first: 0,
        rotary_dim,
        pairing: Pairing::Adjacent,
        turn: Turn::Forward,
        scaling: RopeScaling::None,
    };
    let mlp = Mlp::Plain {
        d_mlp: config.optional_size("n_inner")?.unwrap_or(4 * sizes.d_model),
        act: activation(config, "activation_function", "gelu_new")?,
    };
    let wiring = Wiring::Parallel { attention: norm, mlp: None };
    let layer = block(attention(sizes.scale(), PositionMark::Rope(0)), mlp, wiring);
    let mut arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    arch.unembed.bias = Bias::Stored;
    Ok((arch, names()))
}

fn names() -> Names {
    let layer = LayerNames {
        attention_norm: Some("ln_1"),
        mlp_norm: None,
        qkv: stored::split("attn.q_proj", "attn.k_proj", "attn.v_proj", Bias::Absent),
        ..stored::layer(
            Bias::Absent,
            Bias::Absent,
            MlpNames::Plain {
                up: Linear::new("mlp.fc_in", Bias::Stored),
                down: Linear::new("mlp.fc_out", Bias::Stored),
            },
        )
    };
    Names {
        prefix: "transformer.",
        embed: "wte",
        final_norm: Some("ln_f"),
        layer: "h.{}.",
        ignored: &["attn.bias", "attn.masked_bias", "attn.embed_positions"],
        ..stored::model(vec![LayerNames { out: Linear::new("attn.out_proj", Bias::Absent), ..layer }])
    }
}
