//! Arcee: Llama with a squared-ReLU MLP without a gate.

use super::parts::{attention, block, norm, plain, pre_norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family { model_type: "arcee", read, inert: &["pretraining_tp"], only: &[] };

const SIZES: SizeKeys = SizeKeys { vocabulary: 32_000, ..usual(2560, 32, 32, 4096) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    let mlp = plain(config, 18_432, "relu2")?;
    let layer = block(attention(sizes.scale(), PositionMark::Rope(0)), mlp, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let mlp = stored::plain("mlp.up_proj", "mlp.down_proj", Bias::when(config.flag_or("mlp_bias", false)?));
    Ok((arch, stored::model(vec![stored::layer(bias, bias, mlp)])))
}
