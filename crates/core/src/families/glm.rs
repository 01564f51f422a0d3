//! GLM: half of each head rotates, in pairs of adjacent columns; gate and up in one projection.

use super::parts::{attention, block, gated, norm, pre_norm};
use super::rope::{Part, RopeKeys, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family { model_type: "glm", read, inert: &[], only: &[] };

pub(super) const SIZES: SizeKeys = SizeKeys {
    vocabulary: 151_552,
    n_kv_heads: KvHeads::DefaultOrAsQueries(2),
    d_head: HeadWidth::DefaultOrDerived(128),
    ..usual(4096, 40, 32, 131_072)
};

pub(super) const ROPE: RopeKeys =
    RopeKeys { part: Part::Fraction("partial_rotary_factor", 0.5), ..RopeKeys::USUAL };

pub(super) fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = Rope { pairing: Pairing::Adjacent, ..rope(config, &sizes, &ROPE)? };
    // The class writes it as 0.00000015625.
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1.5625e-7)?;
    let attention = attention(sizes.scale(), PositionMark::Rope(0));
    let layer = block(attention, gated(config, 13_696)?, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    let bias = Bias::when(config.flag_or("attention_bias", true)?);
    Ok((arch, stored::model(vec![stored::layer(bias, Bias::Absent, stored::gate_up(Bias::Absent))])))
}
