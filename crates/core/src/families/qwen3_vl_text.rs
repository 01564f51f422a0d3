//! The decoder of Qwen3-VL: Qwen3 without windows. For text its three positions coincide.

use super::parts::{attention, block, gated, norm, pre_norm};
use super::rope::{RopeKeys, SECTIONS, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family { model_type: "qwen3_vl_text", read, inert: &[], only: &[] };

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 151_936,
    n_kv_heads: KvHeads::DefaultOrAsQueries(32),
    d_head: HeadWidth::Default(128),
    ..usual(4096, 32, 32, 128_000)
};

const ROPE: RopeKeys = RopeKeys { default_theta: 500_000.0, others: SECTIONS, ..RopeKeys::USUAL };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let attention =
        Attention { qk_norm: QkNorm::PerHead(norm), ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let layer = block(attention, gated(config, 22_016)?, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let names = stored::layer(bias, bias, stored::gated(Bias::Absent));
    Ok((arch, stored::model(vec![stored::with_qk_norm(names, "self_attn.q_norm", "self_attn.k_norm")])))
}
