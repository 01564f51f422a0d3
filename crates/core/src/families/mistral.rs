//! Mistral: Llama with a sliding window.

use super::parts::{activation, attention, block, norm, pre_norm, window};
use super::rope::{RopeKeys, rope};
use super::sizes::{KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family {
    model_type: "mistral",
    read,
    inert: &[],
    only: &[("attention_bias", Only::False), ("mlp_bias", Only::False)],
};

const SIZES: SizeKeys =
    SizeKeys { vocabulary: 32_000, n_kv_heads: KvHeads::Default(8), ..usual(4096, 32, 32, 4096 * 32) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let attention =
        Attention { window: window(config, Some(4096))?, ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let mlp = Mlp::Gated {
        d_mlp: config.size_or("intermediate_size", 14_336)?,
        act: activation(config, "hidden_act", "silu")?,
    };
    let layer = block(attention, mlp, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    let names = stored::layer(Bias::Absent, Bias::Absent, stored::gated(Bias::Absent));
    Ok((arch, stored::model(vec![names])))
}
