//! OLMo: norms without parameters, and clamped queries, keys and values.

use super::parts::{attention, block, gated, pre_norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{HeadWidth, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family { model_type: "olmo", read, inert: &["pretraining_tp"], only: &[] };

const SIZES: SizeKeys =
    SizeKeys { vocabulary: 50_304, d_head: HeadWidth::Always, ..usual(4096, 32, 32, 2048) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    // The epsilon is not a key of this class (modeling_olmo.py, `OlmoLayerNorm`).
    let norm = Norm { kind: NormKind::LayerNoParams, eps: 1e-5 };
    let clip = config.optional_positive("clip_qkv")?.map(|clip| clip as f32);
    let attention = Attention { clip, ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let layer = block(attention, gated(config, 11_008)?, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let mut layer = stored::layer(bias, bias, stored::gated(Bias::Absent));
    (layer.attention_norm, layer.mlp_norm) = (None, None);
    Ok((arch, Names { final_norm: None, ..stored::model(vec![layer]) }))
}
