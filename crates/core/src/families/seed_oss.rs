//! Seed-OSS: Llama with biases on queries, keys and values, and optionally on attention's output.

use super::parts::{attention, block, gated, norm, pre_norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family =
    Family { model_type: "seed_oss", read, inert: &["pretraining_tp"], only: &[] };

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 155_136,
    n_kv_heads: KvHeads::DefaultOrAsQueries(8),
    d_head: HeadWidth::DefaultOrDerived(128),
    ..usual(4096, 64, 80, 524_288)
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let attention = attention(sizes.scale(), PositionMark::Rope(0));
    let layer = block(attention, gated(config, 27_648)?, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    let bias = Bias::when(config.flag_or("attention_bias", true)?);
    let out = Bias::when(config.flag_or("attention_out_bias", false)?);
    let mlp = Bias::when(config.flag_or("mlp_bias", false)?);
    Ok((arch, stored::model(vec![stored::layer(bias, out, stored::gated(mlp))])))
}
