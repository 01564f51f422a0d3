//! Llama, with every rope type.

use super::parts::{activation, attention, block, norm, pre_norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    read,
    inert: &["pretraining_tp", "max_sequence_length", "is_llama_config"],
    only: &[("rope_interleaved", Only::False)],
};

const SIZES: SizeKeys = SizeKeys { vocabulary: 32_000, ..usual(4096, 32, 32, 2048) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let mlp = Mlp::Gated {
        d_mlp: config.size_or("intermediate_size", 11_008)?,
        act: activation(config, "hidden_act", "silu")?,
    };
    let layer = block(attention(sizes.scale(), PositionMark::Rope(0)), mlp, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);

    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let mlp_bias = Bias::when(config.flag_or("mlp_bias", false)?);
    Ok((arch, stored::model(vec![stored::layer(bias, bias, stored::gated(mlp_bias))])))
}
