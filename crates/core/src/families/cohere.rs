//! Command R: attention and MLP in parallel on one norm, rotary pairs of adjacent columns.

use super::parts::{attention, block, gated, norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{HeadWidth, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family =
    Family { model_type: "cohere", read, inert: &["model_max_length", "pretraining_tp"], only: &[] };

pub(super) const SIZES: SizeKeys =
    SizeKeys { vocabulary: 256_000, d_head: HeadWidth::Always, tied: true, ..usual(8192, 40, 64, 8192) };

const ROPE: RopeKeys = RopeKeys { default_theta: 500_000.0, ..RopeKeys::USUAL };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = Rope { pairing: Pairing::Adjacent, ..rope(config, &sizes, &ROPE)? };
    let norm = norm(config, NormKind::LayerNoBias, "layer_norm_eps", 1e-5)?;
    let normed = config.flag_or("use_qk_norm", false)?;
    let qk_norm = if normed { QkNorm::PerHeadOwnWeights(norm) } else { QkNorm::None };
    let attention = Attention { qk_norm, ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let layer = block(attention, gated(config, 22_528)?, Wiring::Parallel { attention: norm, mlp: None });
    let mut arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    arch.unembed.divisor = logit_divisor(config)?;
    let names = names(config)?;
    let names =
        if normed { stored::with_qk_norm(names, "self_attn.q_norm", "self_attn.k_norm") } else { names };
    Ok((arch, stored::model(vec![names])))
}

/// The divisor of logits: the inverse of `logit_scale`.
pub(super) fn logit_divisor(config: &Config) -> Result<Option<f32>> {
    let scale = config.number_or("logit_scale", 0.0625)?;
    let divisor = (1.0 / scale) as f32;
    if divisor == 0.0 || !divisor.is_finite() {
        return Err(config.wrong("logit_scale", "a number other than zero within the range of f32"));
    }
    Ok(super::parts::factor(f64::from(divisor)))
}

/// Names of a layer without norms of queries and keys.
pub(super) fn names(config: &Config) -> Result<LayerNames> {
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    Ok(LayerNames { mlp_norm: None, ..stored::layer(bias, bias, stored::gated(Bias::Absent)) })
}
