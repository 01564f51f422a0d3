//! The decoder of Qwen3-VL with experts: Qwen3 with experts, whose weights are always divided by their sum.

use super::parts::{RENORMALISED, activation, attention, block, norm, pre_norm, top_k};
use super::qwen3_moe::layers;
use super::rope::{RopeKeys, SECTIONS, rope};
use super::sizes::{KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::{ExpertNames, Linear, MlpNames, Names};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_vl_moe_text",
    read,
    inert: &["sliding_window"],
    only: &[("norm_topk_prob", Only::True)],
};

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 151_936,
    n_kv_heads: KvHeads::DefaultOrAsQueries(16),
    ..usual(2048, 24, 16, 128_000)
};

const ROPE: RopeKeys = RopeKeys { default_theta: 500_000.0, others: SECTIONS, ..RopeKeys::USUAL };

/// All experts in one tensor, as the checkpoints have them.
const EXPERTS: ExpertNames =
    ExpertNames::StackedInOut { gate_up: "mlp.experts.gate_up_proj", down: "mlp.experts.down_proj" };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let attention =
        Attention { qk_norm: QkNorm::PerHead(norm), ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let act = activation(config, "hidden_act", "silu")?;
    let count = config.size_of_any(&["num_experts", "num_local_experts"], 60)?;
    let routed = Mlp::Experts {
        count,
        top_k: top_k(config, 4, count)?,
        d_mlp: config.size_or("moe_intermediate_size", 1408)?,
        latent: None,
        gate: ExpertGate::Plain(act),
        router: Router::softmax(RENORMALISED),
        shared: None,
    };
    let dense = Mlp::Gated { d_mlp: config.size_or("intermediate_size", 5632)?, act };

    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let named =
        |mlp| stored::with_qk_norm(stored::layer(bias, bias, mlp), "self_attn.q_norm", "self_attn.k_norm");
    let experts = MlpNames::Experts {
        router: Linear::new("mlp.gate", Bias::Absent),
        correction: None,
        apart: None,
        experts: EXPERTS,
        latent: None,
        shared: None,
    };
    let block = |mlp| block(attention.clone(), mlp, pre_norm(norm));
    let kinds = [(block(routed), named(experts)), (block(dense), named(stored::gated(Bias::Absent)))];
    let (layers, names) = layers(config, sizes.n_layers, &kinds)?;
    Ok((sizes.rotary_arch(rope, layers, norm), stored::model(names)))
}
