//! Qwen1.5 and Qwen2 with experts: routed ones, and a shared one with a gate.

use super::parts::{
    activation, attention, block, layer_windows, norm, pre_norm, softmax_router, switched_window, top_k,
};
use super::rope::{RopeKeys, rope};
use super::sizes::{KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, qwen3_moe, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family =
    Family { model_type: "qwen2_moe", read, inert: &[], only: &[("use_mrope", Only::False)] };

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 151_936,
    n_kv_heads: KvHeads::DefaultOrAsQueries(16),
    ..usual(2048, 24, 16, 32_768)
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let act = activation(config, "hidden_act", "silu")?;
    let count = config.size_of_any(&["num_experts", "num_local_experts"], 60)?;
    let routed = Mlp::Experts {
        count,
        top_k: top_k(config, 4, count)?,
        d_mlp: config.size_or("moe_intermediate_size", 1408)?,
        latent: None,
        gate: ExpertGate::Plain(act),
        router: softmax_router(config, "norm_topk_prob", false)?,
        shared: Some(SharedExpert {
            d_mlp: config.size_or("shared_expert_intermediate_size", 5632)?,
            act,
            weight: SharedWeight::Sigmoid,
        }),
    };
    let dense = Mlp::Gated { d_mlp: config.size_or("intermediate_size", 5632)?, act };
    let bias = Bias::when(config.flag_or("qkv_bias", true)?);
    let named = |mlp| stored::layer(bias, Bias::Absent, mlp);
    let (layers, names): (Vec<Layer>, Vec<LayerNames>) = windows(config, &sizes)?
        .into_iter()
        .zip(qwen3_moe::sparse(config, sizes.n_layers)?)
        .map(|(window, sparse)| {
            let attention = Attention { window, ..attention(sizes.scale(), PositionMark::Rope(0)) };
            match sparse {
                true => (block(attention, routed, pre_norm(norm)), named(experts())),
                false => (block(attention, dense, pre_norm(norm)), named(stored::gated(Bias::Absent))),
            }
        })
        .unzip();
    Ok((sizes.rotary_arch(rope, layers, norm), stored::model(names)))
}

/// With `use_sliding_window`, even layers below `max_window_layers` slide.
fn windows(config: &Config, sizes: &Sizes) -> Result<Vec<Window>> {
    let sliding = switched_window(config)?;
    let end = match config.raw("max_window_layers").and_then(serde_json::Value::as_u64) {
        Some(0) => 0,
        _ => config.size_or("max_window_layers", 28)?,
    };
    let slides = |l: usize| sliding != Window::Full && l.is_multiple_of(2) && l < end;
    layer_windows(config, sizes.n_layers, sliding, slides)
}

/// Experts, with a shared one.
pub(super) fn experts() -> MlpNames {
    let names = ["mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj"];
    let shared = stored::shared(names, Bias::Absent, Some("mlp.shared_expert_gate"));
    stored::with_shared(
        stored::experts(Linear::new("mlp.gate", Bias::Absent), stored::EXPERTS),
        None,
        Some(shared),
    )
}
