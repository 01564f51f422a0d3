//! Gemma: scaled embedding, RMSNorm by `1 + weight`.

use super::parts::{activation, attention, block, norm, pre_norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family {
    model_type: "gemma",
    read,
    inert: &[],
    only: &[("use_bidirectional_attention", Only::FalseOrNull)],
};

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 256_000,
    n_kv_heads: KvHeads::Default(16),
    d_head: HeadWidth::Default(256),
    tied: true,
    ..usual(3072, 28, 16, 8192)
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::RmsOffset, "rms_norm_eps", 1e-6)?;
    let mlp = Mlp::Gated { d_mlp: config.size_or("intermediate_size", 24_576)?, act: act(config)? };
    let layer = block(attention(sizes.scale(), PositionMark::Rope(0)), mlp, pre_norm(norm));
    let mut arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    arch.embed.scale = Some(embed_scale(&sizes));

    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    Ok((arch, stored::model(vec![stored::layer(bias, bias, stored::gated(Bias::Absent))])))
}

/// In the first releases `gelu` meant the tanh approximation (configuration_gemma.py, `__post_init__`).
/// `hidden_activation` is a key of transformers 4 that may only repeat it.
fn act(config: &Config) -> Result<Activation> {
    let act = match activation(config, "hidden_act", "gelu_pytorch_tanh")? {
        Activation::Gelu if config.raw("hidden_act").is_some_and(|v| v == "gelu") => Activation::GeluTanh,
        other => other,
    };
    if config.value("hidden_activation").is_some()
        && activation(config, "hidden_activation", "gelu_pytorch_tanh")? != act
    {
        return Err(config.unsupported("hidden_activation", "the same as `hidden_act`"));
    }
    Ok(act)
}

/// `sqrt(d_model)`, which the forward pass rounds to the compute dtype as transformers rounds it to the weights'.
pub(super) fn embed_scale(sizes: &Sizes) -> f32 {
    (sizes.d_model as f64).sqrt() as f32
}
