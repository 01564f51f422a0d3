//! DeepSeek V2: compressed keys and values (multi-head latent attention), grouped and shared experts, dense layers
//! first.

use super::latent::{DEEPSEEK, LatentParts, dense_layers, experts};
use super::parts::{activation, block, norm, pre_norm};
use super::sizes::{HeadWidth, SizeKeys, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "deepseek_v2",
    read,
    // Widths that follow from others, and keys for training only.
    inert: &[
        "aux_loss_alpha",
        "ep_size",
        "head_dim",
        "norm_topk_prob",
        "pretraining_tp",
        "qk_head_dim",
        "seq_aux",
    ],
    only: &[("moe_layer_freq", Only::One), ("scoring_func", Only::Text("softmax"))],
};

const SIZES: SizeKeys =
    SizeKeys { vocabulary: 102_400, d_head: HeadWidth::OfOtherKeys, ..usual(4096, 32, 32, 2048) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let parts = LatentParts::read(config, &SIZES, &DEEPSEEK, Pairing::Adjacent)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let act = activation(config, "hidden_act", "silu")?;
    let count = config.size_of_any(&["n_routed_experts", "num_experts"], 64)?;
    let d_mlp = config.size_or("moe_intermediate_size", 1407)?;
    let shared = config.size_or("n_shared_experts", 2)?;
    let first = dense_layers(config, 0)?;
    let routed = Mlp::Experts {
        count,
        top_k: config.size("num_experts_per_tok")?,
        d_mlp,
        latent: None,
        gate: ExpertGate::Plain(act),
        router: router(config, count)?,
        shared: Some(SharedExpert { d_mlp: shared * d_mlp, act, weight: SharedWeight::One }),
    };
    let dense = Mlp::Gated { d_mlp: config.size_or("intermediate_size", 11_008)?, act };
    let bias = Bias::when(config.flag_or("mlp_bias", false)?);
    let layer = |l: usize| match l < first {
        true => (block(parts.attention.clone(), dense, pre_norm(norm)), parts.layer(stored::gated(bias))),
        false => (block(parts.attention.clone(), routed, pre_norm(norm)), parts.layer(experts(None, bias))),
    };
    let (layers, names): (Vec<Layer>, Vec<LayerNames>) = (0..parts.sizes.n_layers).map(layer).unzip();
    Ok((parts.sizes.rotary_arch(parts.rope, layers, norm), stored::model(names)))
}

/// A softmax router, over all experts or the best groups.
fn router(config: &Config, count: usize) -> Result<Router> {
    let chosen = config.size("num_experts_per_tok")?;
    let method = config.optional_text("topk_method")?.unwrap_or("greedy");
    let [groups, kept] = ["n_group", "topk_group"].map(|key| config.optional_size(key));
    let (groups, kept) = (groups?, kept?);
    let groups = match method {
        "greedy" => None,
        "group_limited_greedy" => {
            let groups = groups.ok_or_else(|| config.missing("n_group"))?;
            let kept = kept.ok_or_else(|| config.missing("topk_group"))?;
            if !count.is_multiple_of(groups) {
                return Err(config.wrong("n_group", &format!("a divisor of {count} experts")));
            }
            if kept > groups {
                return Err(config.wrong("topk_group", &format!("at most {groups}, the number of groups")));
            }
            (kept < groups).then_some(ExpertGroups { count: groups, kept, rank: GroupRank::Best })
        }
        _ => return Err(config.unsupported("topk_method", "greedy, group_limited_greedy")),
    };
    let left = groups.map_or(count, |groups| count / groups.count * groups.kept);
    if chosen > left {
        return Err(
            config.wrong("num_experts_per_tok", &format!("at most {left}, the experts to choose from"))
        );
    }
    let scale = config.positive_or("routed_scaling_factor", 1.0)? as f32;
    Ok(Router { groups, scale, ..Router::softmax(ExpertWeights::AsTheyAre) })
}
