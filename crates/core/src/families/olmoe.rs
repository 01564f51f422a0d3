//! OLMoE: OLMo with norms over the whole queries and keys, and experts in every layer.

use super::parts::{activation, attention, block, norm, pre_norm, softmax_router, top_k};
use super::rope::{RopeKeys, rope};
use super::sizes::{SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family { model_type: "olmoe", read, inert: &[], only: &[] };

const SIZES: SizeKeys = SizeKeys { vocabulary: 50_304, ..usual(2048, 16, 16, 4096) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    let attention = Attention {
        qk_norm: QkNorm::Whole(norm),
        clip: config.optional_positive("clip_qkv")?.map(|clip| clip as f32),
        ..attention(sizes.scale(), PositionMark::Rope(0))
    };
    let count = config.size_of_any(&["num_experts", "num_local_experts"], 64)?;
    let mlp = Mlp::Experts {
        count,
        top_k: top_k(config, 8, count)?,
        d_mlp: config.size_or("intermediate_size", 2048)?,
        latent: None,
        gate: ExpertGate::Plain(activation(config, "hidden_act", "silu")?),
        router: softmax_router(config, "norm_topk_prob", false)?,
        shared: None,
    };
    let layer = block(attention, mlp, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let experts = stored::experts(Linear::new("mlp.gate", Bias::Absent), stored::EXPERTS);
    let names = stored::layer(bias, bias, experts);
    Ok((arch, stored::model(vec![stored::with_qk_norm(names, "self_attn.q_norm", "self_attn.k_norm")])))
}
