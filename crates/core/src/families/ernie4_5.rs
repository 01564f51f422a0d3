//! ERNIE 4.5: Llama with rotary pairs of adjacent columns, and biases everywhere or nowhere.

use super::parts::{attention, block, gated, norm, pre_norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family { model_type: "ernie4_5", read, inert: &[], only: &[] };

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 103_424,
    n_kv_heads: KvHeads::DefaultOrAsQueries(2),
    d_head: HeadWidth::DefaultOrDerived(128),
    tied: true,
    ..usual(1024, 18, 16, 131_072)
};

pub(super) const ROPE: RopeKeys = RopeKeys { default_theta: 500_000.0, ..RopeKeys::USUAL };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = Rope { pairing: Pairing::Adjacent, ..rope(config, &sizes, &ROPE)? };
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    let attention = attention(sizes.scale(), PositionMark::Rope(0));
    let layer = block(attention, gated(config, 3072)?, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    let bias = Bias::when(config.flag_or("use_bias", false)?);
    Ok((arch, stored::model(vec![stored::layer(bias, bias, stored::gated(bias))])))
}
