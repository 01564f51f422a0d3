//! DeepSeek V3 and R1: compressed keys and values, experts chosen by corrected sigmoids in groups, dense layers first.

use super::glm4_moe::grouped_router;
use super::latent::{DEEPSEEK, LatentParts, dense_layers, experts};
use super::parts::{activation, block, further_layers, norm, pre_norm, top_k};
use super::sizes::{HeadWidth, SizeKeys, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "deepseek_v3",
    read,
    // Widths that follow from others, and keys for training only.
    inert: &["aux_loss_alpha", "ep_size", "head_dim", "pretraining_tp", "qk_head_dim", "seq_aux"],
    only: &[
        ("moe_layer_freq", Only::One),
        ("scoring_func", Only::Text("sigmoid")),
        ("topk_method", Only::Text("noaux_tc")),
    ],
};

const SIZES: SizeKeys =
    SizeKeys { vocabulary: 129_280, d_head: HeadWidth::OfOtherKeys, ..usual(7168, 61, 128, 4096) };

const DEFAULTS: Defaults =
    Defaults { eps: 1e-6, count: 256, chosen: 8, d_expert: 2048, d_mlp: 18_432, groups: [8, 4], scale: 2.5 };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let parts = LatentParts::read(config, &SIZES, &DEEPSEEK, pairing(config)?)?;
    let first = dense_layers(config, 3)?;
    decoder(config, parts, &DEFAULTS, |layer| layer < first)
}

/// How columns that turn together stand.
pub(super) fn pairing(config: &Config) -> Result<Pairing> {
    let interleaved = config.flag_or("rope_interleave", true)?;
    Ok(if interleaved { Pairing::Adjacent } else { Pairing::Halves })
}

/// Defaults of a class.
pub(super) struct Defaults {
    pub(super) eps: f64,
    /// Experts, and how many a token goes through.
    pub(super) count: usize,
    pub(super) chosen: usize,
    pub(super) d_expert: usize,
    pub(super) d_mlp: usize,
    /// Groups of experts, and how many are kept.
    pub(super) groups: [usize; 2],
    pub(super) scale: f64,
}

/// A decoder with experts in all layers that are not dense.
pub(super) fn decoder(
    config: &Config,
    parts: LatentParts,
    class: &Defaults,
    is_dense: impl Fn(usize) -> bool,
) -> Result<(Arch, Names)> {
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", class.eps)?;
    let act = activation(config, "hidden_act", "silu")?;
    let count = config.size_of_any(&["n_routed_experts", "num_local_experts"], class.count)?;
    let chosen = top_k(config, class.chosen, count)?;
    let d_mlp = config.size_or("moe_intermediate_size", class.d_expert)?;
    let shared = config.size_or("n_shared_experts", 1)?;
    let routed = Mlp::Experts {
        count,
        top_k: chosen,
        d_mlp,
        latent: None,
        gate: ExpertGate::Plain(act),
        router: grouped_router(config, [count, chosen], class.groups, class.scale)?,
        shared: Some(SharedExpert { d_mlp: shared * d_mlp, act, weight: SharedWeight::One }),
    };
    let dense = Mlp::Gated { d_mlp: config.size_or("intermediate_size", class.d_mlp)?, act };
    let correction = Some(Correction::Vector("mlp.gate.e_score_correction_bias"));
    let plain = Bias::Absent;
    let layer = |l: usize| match is_dense(l) {
        true => (block(parts.attention.clone(), dense, pre_norm(norm)), parts.layer(stored::gated(plain))),
        false => {
            (block(parts.attention.clone(), routed, pre_norm(norm)), parts.layer(experts(correction, plain)))
        }
    };
    let (layers, names): (Vec<Layer>, Vec<LayerNames>) = (0..parts.sizes.n_layers).map(layer).unzip();
    let further_layers = further_layers(config, parts.sizes.n_layers);
    let names = Names { further_layers, ..stored::model(names) };
    Ok((parts.sizes.rotary_arch(parts.rope, layers, norm), names))
}
