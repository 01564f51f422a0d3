//! Nemotron: LayerNorm by `1 + weight`, a squared-ReLU MLP without a gate, half of each head rotates.

use super::parts::{attention, block, norm, plain, pre_norm};
use super::rope::{Part, RopeKeys, rope};
use super::sizes::{SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family =
    Family { model_type: "nemotron", read, inert: &["norm_epsilon", "kv_channels"], only: &[] };

const SIZES: SizeKeys = SizeKeys { vocabulary: 256_000, ..usual(6144, 32, 48, 4096) };

const ROPE: RopeKeys = RopeKeys { part: Part::Fraction("partial_rotary_factor", 0.5), ..RopeKeys::USUAL };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::LayerOffset, "norm_eps", 1e-5)?;
    let mlp = plain(config, 24_576, "relu2")?;
    let layer = block(attention(sizes.scale(), PositionMark::Rope(0)), mlp, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let mlp = stored::plain("mlp.up_proj", "mlp.down_proj", Bias::when(config.flag_or("mlp_bias", false)?));
    Ok((arch, stored::model(vec![stored::layer(bias, bias, mlp)])))
}
