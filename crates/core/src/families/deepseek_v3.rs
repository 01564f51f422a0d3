//! DeepSeek V3 and R1: compressed keys and values, experts chosen by corrected sigmoids in groups, dense layers first.

use super::glm4_moe::grouped_router;
use super::latent::{LatentParts, dense_layers, experts};
use super::parts::{activation, block, norm, pre_norm, top_k};
use super::sizes::{HeadWidth, SizeKeys, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "deepseek_v3",
    read,
    // Widths that follow from others, layers for multi-token prediction, and keys for training only.
    inert: &[
        "aux_loss_alpha",
        "ep_size",
        "head_dim",
        "num_mtp_layers",
        "num_nextn_predict_layers",
        "pretraining_tp",
        "qk_head_dim",
        "seq_aux",
    ],
    only: &[
        ("moe_layer_freq", Only::One),
        ("scoring_func", Only::Text("sigmoid")),
        ("topk_method", Only::Text("noaux_tc")),
    ],
};

const SIZES: SizeKeys =
    SizeKeys { vocabulary: 129_280, d_head: HeadWidth::OfOtherKeys, ..usual(7168, 61, 128, 4096) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let interleaved = config.flag_or("rope_interleave", true)?;
    let pairing = if interleaved { Pairing::Adjacent } else { Pairing::Halves };
    let parts = LatentParts::read(config, &SIZES, pairing)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let act = activation(config, "hidden_act", "silu")?;
    let count = config.size_of_any(&["n_routed_experts", "num_local_experts"], 256)?;
    let d_mlp = config.size_or("moe_intermediate_size", 2048)?;
    let shared = config.size_or("n_shared_experts", 1)?;
    let first = dense_layers(config, 3)?;
    let routed = Mlp::Experts {
        count,
        top_k: top_k(config, 8, count)?,
        d_mlp,
        gate: ExpertGate::Plain(act),
        router: grouped_router(config, count, [8, 4], 2.5)?,
        shared: Some(SharedExpert { d_mlp: shared * d_mlp, act, weight: SharedWeight::One }),
    };
    let dense = Mlp::Gated { d_mlp: config.size_or("intermediate_size", 18_432)?, act };
    let correction = Some(Correction::Vector("mlp.gate.e_score_correction_bias"));
    let plain = Bias::Absent;
    let layer = |l: usize| match l < first {
        true => (block(parts.attention.clone(), dense, pre_norm(norm)), parts.layer(stored::gated(plain))),
        false => {
            (block(parts.attention.clone(), routed, pre_norm(norm)), parts.layer(experts(correction, plain)))
        }
    };
    let (layers, names): (Vec<Layer>, Vec<LayerNames>) = (0..parts.sizes.n_layers).map(layer).unzip();
    Ok((parts.sizes.rotary_arch(parts.rope, layers, norm), stored::model(names)))
}
