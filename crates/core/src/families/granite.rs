//! Granite: Llama with factors on embedding, scores, residual additions and logits.

use super::parts::{activation, attention, block, factor, factor_or_one, norm, pre_norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family { model_type: "granite", read, inert: &[], only: &[] };

const SIZES: SizeKeys = SizeKeys { vocabulary: 32_000, ..usual(4096, 32, 32, 2048) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let mlp = Mlp::Gated {
        d_mlp: config.size_or("intermediate_size", 11_008)?,
        act: activation(config, "hidden_act", "silu")?,
    };
    let scale = factor_or_one(config, "attention_multiplier")?.unwrap_or(1.0);
    let layer = Layer {
        factors: Factors::of_all(factor_or_one(config, "residual_multiplier")?),
        ..block(attention(scale, PositionMark::Rope(0)), mlp, pre_norm(norm))
    };
    let mut arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    arch.embed.scale = factor_or_one(config, "embedding_multiplier")?;
    arch.unembed.divisor = factor(config.positive_or("logits_scaling", 1.0)?);

    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let mlp_bias = Bias::when(config.flag_or("mlp_bias", false)?);
    Ok((arch, stored::model(vec![stored::layer(bias, bias, stored::gated(mlp_bias))])))
}
