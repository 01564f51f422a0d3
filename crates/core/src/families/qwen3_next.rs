//! Qwen3-Next: a gated delta rule in most layers, attention with a gate on its mixed values in the others, and experts.

use super::delta::{layers, names};
use super::parts::{activation, norm, softmax_router, top_k};
use super::rope::{Part, RopeKeys, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, qwen2_moe, qwen3_moe, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_next",
    read,
    inert: &[],
    // Published configs contain it, but nothing in the class reads it.
    only: &[("use_sliding_window", Only::False)],
};

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 151_936,
    n_kv_heads: KvHeads::Default(2),
    d_head: HeadWidth::Default(256),
    ..usual(2048, 48, 16, 32_768)
};

const ROPE: RopeKeys = RopeKeys { part: Part::Fraction("partial_rotary_factor", 0.25), ..RopeKeys::USUAL };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::RmsOffset, "rms_norm_eps", 1e-6)?;
    let act = activation(config, "hidden_act", "silu")?;
    let dense = Mlp::Gated { d_mlp: config.size_or("intermediate_size", 5632)?, act };
    let count = match config.raw("num_experts").and_then(serde_json::Value::as_u64) {
        Some(0) => 0,
        _ => config.size_or("num_experts", 512)?,
    };
    let routed = Mlp::Experts {
        count,
        top_k: if count == 0 { 0 } else { top_k(config, 10, count)? },
        d_mlp: config.size_or("moe_intermediate_size", 512)?,
        latent: None,
        gate: ExpertGate::Plain(act),
        router: softmax_router(config, "norm_topk_prob", true)?,
        shared: Some(SharedExpert {
            d_mlp: config.size_or("shared_expert_intermediate_size", 512)?,
            act,
            weight: SharedWeight::Sigmoid,
        }),
    };
    let sparse = qwen3_moe::sparse(config, sizes.n_layers)?;
    let mlp = |l: usize| if sparse[l] && count > 0 { routed } else { dense };
    let layers = layers(config, &sizes, norm, mlp)?;
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let input = RecurrenceInput::ByKeyHead {
        mixed: Linear::new("linear_attn.in_proj_qkvz", Bias::Absent),
        rates: Linear::new("linear_attn.in_proj_ba", Bias::Absent),
    };
    let named = |l: usize| {
        let routed = sparse[l] && count > 0;
        names(bias, input, if routed { qwen2_moe::experts() } else { stored::gated(Bias::Absent) })
    };
    let names = stored::model((0..sizes.n_layers).map(named).collect());
    Ok((sizes.rotary_arch(rope, layers, norm), Names { left_out: &["mtp."], ..names }))
}
