//! GPT-NeoX and Pythia: attention and MLP in parallel, each with its own norm; a fraction of each head rotates.

use super::parts::{activation, attention, block, norm, pre_norm};
use super::rope::{Part, RopeKeys, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family { model_type: "gpt_neox", read, inert: &[], only: &[] };

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 50_432,
    n_kv_heads: KvHeads::NoKey,
    d_head: HeadWidth::Always,
    ..usual(6144, 44, 64, 2048)
};

const ROPE: RopeKeys =
    RopeKeys { theta: "rotary_emb_base", part: Part::Fraction("rotary_pct", 0.25), ..RopeKeys::USUAL };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    repeated(config, &sizes, &rope)?;
    let norm = norm(config, NormKind::Layer, "layer_norm_eps", 1e-5)?;
    let mlp = Mlp::Plain {
        d_mlp: config.size_or("intermediate_size", 24_576)?,
        act: activation(config, "hidden_act", "gelu")?,
    };
    let parallel = config.flag_or("use_parallel_residual", true)?;
    let wiring =
        if parallel { Wiring::Parallel { attention: norm, mlp: Some(norm) } } else { pre_norm(norm) };
    let layer = block(attention(sizes.scale(), PositionMark::Rope(0)), mlp, wiring);
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    Ok((arch, names(Bias::when(config.flag_or("attention_bias", true)?))))
}

/// transformers 4 writes these two next to the effective keys; transformers 5 reads neither.
fn repeated(config: &Config, sizes: &Sizes, rope: &Rope) -> Result<()> {
    if config.optional_number("rope_theta")?.is_some_and(|theta| theta != rope.theta) {
        return Err(config.unsupported("rope_theta", "the same as `rotary_emb_base`"));
    }
    let columns = |fraction: f64| (sizes.d_head as f64 * fraction) as usize;
    let fraction = config.optional_number("partial_rotary_factor")?;
    if fraction.is_some_and(|fraction| columns(fraction) != rope.rotary_dim) {
        return Err(config.unsupported("partial_rotary_factor", "the same as `rotary_pct`"));
    }
    Ok(())
}

fn names(bias: Bias) -> Names {
    let mlp = MlpNames::Plain {
        up: Linear::new("mlp.dense_h_to_4h", Bias::Stored),
        down: Linear::new("mlp.dense_4h_to_h", Bias::Stored),
    };
    let layer = LayerNames {
        qkv: QkvNames::ByHead(Linear::new("attention.query_key_value", bias)),
        out: Linear::new("attention.dense", bias),
        ..stored::layer(bias, bias, mlp)
    };
    Names {
        prefix: "gpt_neox.",
        embed: "embed_in",
        final_norm: Some("final_layer_norm"),
        unembed: "embed_out",
        ignored: &["attention.bias", "attention.masked_bias", "rotary_emb.inv_freq"],
        ..stored::model(vec![layer])
    }
}
