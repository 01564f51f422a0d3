//! gpt-oss: an attention sink per head, experts with biases and clamped gates, windows in every other layer, weights in
//! MXFP4.

use super::parts::{RENORMALISED, attention, block, layer_windows, norm, pre_norm, window};
use super::rope::{RopeKeys, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "gpt_oss",
    read,
    // The class has its own non-linearity; the other keys repeat effective ones.
    inert: &["experts_per_token", "hidden_act", "initial_context_length", "quantization_config"],
    only: &[],
};

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 201_088,
    n_kv_heads: KvHeads::DefaultOrAsQueries(8),
    d_head: HeadWidth::DefaultOrDerived(64),
    ..usual(2880, 36, 64, 131_072)
};

const ROPE: RopeKeys = RopeKeys {
    default_theta: 150_000.0,
    absent: r#"{"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
                "original_max_position_embeddings": 4096}"#,
    ..RopeKeys::USUAL
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    let count = config.size_of_any(&["num_local_experts", "num_experts"], 128)?;
    let mlp = Mlp::Experts {
        count,
        top_k: super::parts::top_k(config, 4, count)?,
        d_mlp: config.size_or("intermediate_size", 2880)?,
        latent: None,
        gate: ExpertGate::Clamped {
            alpha: config.positive_or("swiglu_alpha", 1.702)? as f32,
            limit: config.positive_or("swiglu_limit", 7.0)? as f32,
        },
        // A softmax over the chosen scores equals a softmax over all, divided by the sum of the chosen.
        router: Router::softmax(RENORMALISED),
        shared: None,
    };
    let layers = layer_windows(config, sizes.n_layers, window(config, Some(128))?, |l| l % 2 == 0)?
        .into_iter()
        .map(|window| {
            let attention =
                Attention { window, sinks: Bias::Stored, ..attention(sizes.scale(), PositionMark::Rope(0)) };
            block(attention, mlp, pre_norm(norm))
        })
        .collect();
    let arch = sizes.rotary_arch(rope, layers, norm);
    let bias = Bias::when(config.flag_or("attention_bias", true)?);
    let experts = MlpNames::Experts {
        router: Linear::new("mlp.router", Bias::Stored),
        correction: None,
        apart: None,
        experts: ExpertNames::Alternating {
            gate_up: "mlp.experts.gate_up_proj",
            down: "mlp.experts.down_proj",
        },
        latent: None,
        shared: None,
    };
    let layer = LayerNames { sinks: Some("self_attn.sinks"), ..stored::layer(bias, bias, experts) };
    Ok((arch, stored::model(vec![layer])))
}
