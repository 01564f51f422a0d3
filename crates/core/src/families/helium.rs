//! Helium: Llama with rotary pairs of adjacent columns.

use super::parts::{attention, block, gated, norm, pre_norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family { model_type: "helium", read, inert: &[], only: &[] };

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 48_000,
    n_kv_heads: KvHeads::Default(20),
    d_head: HeadWidth::Default(128),
    ..usual(2560, 24, 20, 4096)
};

const ROPE: RopeKeys = RopeKeys { default_theta: 100_000.0, ..RopeKeys::USUAL };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    if sizes.n_heads * sizes.d_head != sizes.d_model {
        // The output projection is square (modeling_helium.py, `HeliumAttention`).
        return Err(config.unsupported("head_dim", "the width divided by the heads"));
    }
    let rope = Rope { pairing: Pairing::Adjacent, ..rope(config, &sizes, &ROPE)? };
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-8)?;
    let attention = attention(sizes.scale(), PositionMark::Rope(0));
    let layer = block(attention, gated(config, 7040)?, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let mlp_bias = Bias::when(config.flag_or("mlp_bias", false)?);
    Ok((arch, stored::model(vec![stored::layer(bias, Bias::Absent, stored::gated(mlp_bias))])))
}
