//! Qwen3: Qwen2 with norms on every head's query and key in place of the biases.

use super::parts::{activation, attention, block, norm, pre_norm};
use super::qwen2::windows;
use super::rope::{RopeKeys, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family =
    Family { model_type: "qwen3", read, inert: &[], only: &[("use_mrope", Only::False)] };

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 151_936,
    n_kv_heads: KvHeads::DefaultOrAsQueries(32),
    d_head: HeadWidth::Default(128),
    ..usual(4096, 32, 32, 32_768)
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let mlp = Mlp::Gated {
        d_mlp: config.size_or("intermediate_size", 22_016)?,
        act: activation(config, "hidden_act", "silu")?,
    };
    let layers = windows(config, &sizes, 28)?
        .into_iter()
        .map(|window| {
            let qk_norm = QkNorm::PerHead(norm);
            let attention = Attention { window, qk_norm, ..attention(sizes.scale(), PositionMark::Rope(0)) };
            block(attention, mlp, pre_norm(norm))
        })
        .collect();
    let arch = sizes.rotary_arch(rope, layers, norm);
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let names = stored::layer(bias, bias, stored::gated(Bias::Absent));
    Ok((arch, stored::model(vec![stored::with_qk_norm(names, "self_attn.q_norm", "self_attn.k_norm")])))
}
