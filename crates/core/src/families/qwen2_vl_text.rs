//! The decoder of Qwen2-VL: Qwen2 with other defaults. For text its three positions coincide.

use super::parts::{attention, block, gated, norm, pre_norm};
use super::rope::{RopeKeys, SECTIONS, rope};
use super::sizes::{KvHeads, SizeKeys, Sizes, usual};
use super::{Family, qwen2, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family { model_type: "qwen2_vl_text", read, inert: &[], only: &[] };

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 152_064,
    n_kv_heads: KvHeads::DefaultOrAsQueries(8),
    ..usual(8192, 80, 64, 32_768)
};

const ROPE: RopeKeys = RopeKeys { default_theta: 1e6, others: SECTIONS, ..RopeKeys::USUAL };

pub(super) fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    let mlp = gated(config, 29_568)?;
    let layers = qwen2::windows(config, &sizes, 80)?
        .into_iter()
        .map(|window| {
            let attention = Attention { window, ..attention(sizes.scale(), PositionMark::Rope(0)) };
            block(attention, mlp, pre_norm(norm))
        })
        .collect();
    let arch = sizes.rotary_arch(rope, layers, norm);
    let names = stored::layer(Bias::Stored, Bias::Absent, stored::gated(Bias::Absent));
    Ok((arch, stored::model(vec![names])))
}
