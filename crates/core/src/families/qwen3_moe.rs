//! Qwen3 with experts in some or all layers.

use super::parts::{activation, attention, block, norm, pre_norm, softmax_router, switched_window, top_k};
use super::rope::{RopeKeys, rope};
use super::sizes::{KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::{LayerNames, Linear, Names};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_moe",
    read,
    inert: &["max_window_layers"],
    only: &[("use_mrope", Only::False)],
};

const SIZES: SizeKeys =
    SizeKeys { vocabulary: 151_936, n_kv_heads: KvHeads::Default(4), ..usual(2048, 24, 32, 32_768) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let attention = Attention {
        qk_norm: QkNorm::PerHead(norm),
        window: switched_window(config)?,
        ..attention(sizes.scale(), PositionMark::Rope(0))
    };
    let act = activation(config, "hidden_act", "silu")?;
    let count = config.size_of_any(&["num_experts", "num_local_experts"], 128)?;
    let routed = Mlp::Experts {
        count,
        top_k: top_k(config, 8, count)?,
        d_mlp: config.size_or("moe_intermediate_size", 768)?,
        latent: None,
        gate: ExpertGate::Plain(act),
        router: softmax_router(config, "norm_topk_prob", false)?,
        shared: None,
    };
    let dense = Mlp::Gated { d_mlp: config.size_or("intermediate_size", 6144)?, act };

    let experts = stored::experts(Linear::new("mlp.gate", Bias::Absent), stored::EXPERTS);
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let named =
        |mlp| stored::with_qk_norm(stored::layer(bias, bias, mlp), "self_attn.q_norm", "self_attn.k_norm");
    let block = |mlp| block(attention.clone(), mlp, pre_norm(norm));
    let kinds = [(block(routed), named(experts)), (block(dense), named(stored::gated(Bias::Absent)))];
    let (layers, names) = layers(config, sizes.n_layers, &kinds)?;
    Ok((sizes.rotary_arch(rope, layers, norm), stored::model(names)))
}

/// Layers with experts and dense ones, as [`sparse`] says.
pub(super) fn layers(
    config: &Config,
    n_layers: usize,
    [with_experts, dense]: &[(Layer, LayerNames); 2],
) -> Result<(Vec<Layer>, Vec<LayerNames>)> {
    let kind = |sparse| if sparse { with_experts.clone() } else { dense.clone() };
    Ok(sparse(config, n_layers)?.into_iter().map(kind).unzip())
}

/// Which layers have experts: every `decoder_sparse_step`-th, except those in `mlp_only_layers`.
pub(super) fn sparse(config: &Config, n_layers: usize) -> Result<Vec<bool>> {
    let step = config.size_or("decoder_sparse_step", 1)?;
    let dense = config.optional_indices("mlp_only_layers")?.unwrap_or_default();
    Ok((0..n_layers).map(|l| (l + 1).is_multiple_of(step) && !dense.contains(&(l as u64))).collect())
}
