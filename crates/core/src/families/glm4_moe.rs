//! GLM-4.5 and 4.6: half of each head rotates, experts chosen by corrected sigmoids in groups, dense layers first.

use super::latent::{dense_layers, experts};
use super::parts::{activation, attention, block, further_layers, norm, pre_norm, top_k};
use super::rope::{Part, RopeKeys, rope};
use super::sizes::{KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family { model_type: "glm4_moe", read, inert: &[], only: &[] };

const SIZES: SizeKeys =
    SizeKeys { vocabulary: 151_552, n_kv_heads: KvHeads::Default(8), ..usual(4096, 46, 96, 131_072) };

const ROPE: RopeKeys = RopeKeys { part: Part::Fraction("partial_rotary_factor", 0.5), ..RopeKeys::USUAL };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    let normed = config.flag_or("use_qk_norm", false)?;
    let qk_norm = if normed { QkNorm::PerHead(norm) } else { QkNorm::None };
    let attention = Attention { qk_norm, ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let act = activation(config, "hidden_act", "silu")?;
    let d_mlp = config.size_or("moe_intermediate_size", 1408)?;
    let count = config.size_of_any(&["n_routed_experts", "num_local_experts"], 128)?;
    let chosen = top_k(config, 8, count)?;
    let shared = config.size_or("n_shared_experts", 1)?;
    let routed = Mlp::Experts {
        count,
        top_k: chosen,
        d_mlp,
        latent: None,
        gate: ExpertGate::Plain(act),
        router: grouped_router(config, [count, chosen], [1, 1], 1.0)?,
        shared: Some(SharedExpert { d_mlp: shared * d_mlp, act, weight: SharedWeight::One }),
    };
    let dense = Mlp::Gated { d_mlp: config.size_or("intermediate_size", 10_944)?, act };
    let first = dense_layers(config, 1)?;
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let correction = Some(Correction::Vector("mlp.gate.e_score_correction_bias"));
    let named = |mlp| {
        let layer = stored::layer(bias, Bias::Absent, mlp);
        match normed {
            true => stored::with_qk_norm(layer, "self_attn.q_norm", "self_attn.k_norm"),
            false => layer,
        }
    };
    let layer = |l: usize| match l < first {
        true => (block(attention.clone(), dense, pre_norm(norm)), named(stored::gated(Bias::Absent))),
        false => (block(attention.clone(), routed, pre_norm(norm)), named(experts(correction, Bias::Absent))),
    };
    let (layers, names): (Vec<Layer>, Vec<LayerNames>) = (0..sizes.n_layers).map(layer).unzip();
    let further_layers = further_layers(config, sizes.n_layers);
    Ok((sizes.rotary_arch(rope, layers, norm), Names { further_layers, ..stored::model(names) }))
}

/// A router of corrected sigmoids over groups of `count` experts, of which a token goes through `chosen`, with defaults for
/// the number of groups, the number kept, and the scale.
pub(super) fn grouped_router(
    config: &Config,
    [count, chosen]: [usize; 2],
    [groups, kept]: [usize; 2],
    scale: f64,
) -> Result<Router> {
    let groups = config.size_or("n_group", groups)?;
    let kept = config.size_or("topk_group", kept)?;
    if !count.is_multiple_of(groups) || count / groups < 2 {
        return Err(
            config.wrong("n_group", &format!("a divisor of {count} experts, each group of two or more"))
        );
    }
    if kept > groups || chosen > count / groups * kept {
        return Err(
            config.wrong("topk_group", "groups enough for the experts of a token, of those that there are")
        );
    }
    let weights = match config.flag_or("norm_topk_prob", true)? {
        true => ExpertWeights::Renormalised { least: 1e-20 },
        false => ExpertWeights::AsTheyAre,
    };
    Ok(Router {
        factors: Bias::Absent,
        apart: None,
        scores: ExpertScores::Sigmoid,
        correction: Bias::Stored,
        groups: (kept < groups).then_some(ExpertGroups { count: groups, kept, rank: GroupRank::TwoBest }),
        weights,
        scale: config.positive_or("routed_scaling_factor", scale)? as f32,
    })
}
