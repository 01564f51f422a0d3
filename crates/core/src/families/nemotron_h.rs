//! Nemotron H: one part per block, by a pattern: a state space, attention without positions, a squared-ReLU MLP or
//! squared-ReLU experts, which may read a compressed stream.

use super::glm4_moe::grouped_router;
use super::mixers::{MIXER, SpaceKeys, alone, letters, space, space_names};
use super::parts::{activation, attention, norm, top_k};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "nemotron_h",
    read,
    // Keys for training, kernels and multi-token prediction; attention has no biases, no window and no rotary embedding,
    // whatever its keys say, and norms read `layer_norm_epsilon`.
    inert: &[
        "attention_bias",
        "attention_head_dim",
        "chunk_size",
        "expand",
        "mamba_proj_bias",
        "mamba_ssm_cache_dtype",
        "moe_shared_expert_overlap",
        "mtp_hybrid_override_pattern",
        "mtp_layers_block_type",
        "norm_eps",
        "num_logits_to_keep",
        "num_nextn_predict_layers",
        "partial_rotary_factor",
        "rescale_prenorm_residual",
        "residual_in_fp32",
        "rope_theta",
        "sliding_window",
        "time_step_floor",
        "time_step_limit",
        "time_step_max",
        "time_step_rank",
        "use_mamba_kernels",
    ],
    only: &[],
};

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 131_072,
    n_kv_heads: KvHeads::DefaultOrAsQueries(8),
    d_head: HeadWidth::Default(128),
    ..usual(4096, 4, 32, 4096)
};

const SPACE: SpaceKeys = SpaceKeys {
    heads: ("mamba_num_heads", 128),
    groups: ("n_groups", 8),
    size: ("ssm_state_size", 128),
    kernel: ("conv_kernel", 4),
    bias: "use_conv_bias",
    act: "mamba_hidden_act",
    eps: ("layer_norm_epsilon", 1e-5),
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let mut sizes = Sizes::read(config, &SIZES)?;
    let norm = norm(config, NormKind::Rms, "layer_norm_epsilon", 1e-5)?;
    // Limited only from below; the class's `time_step_limit` is read by nothing.
    let steps = [config.number_or("time_step_min", 0.001)? as f32, f32::INFINITY];
    let recurrence = space(config, &SPACE, steps, |_| config.size_or("mamba_head_dim", 64))?;
    let act = activation(config, "mlp_hidden_act", "relu2")?;
    let count = config.size_of_any(&["n_routed_experts", "num_local_experts"], 8)?;
    let chosen = top_k(config, 2, count)?;
    let shared = config.size_or("moe_shared_expert_intermediate_size", 7688)?;
    config.has("n_shared_experts");
    let experts = Mlp::Experts {
        count,
        top_k: chosen,
        d_mlp: config.size_or("moe_intermediate_size", 7688)?,
        latent: config.optional_size("moe_latent_size")?,
        gate: ExpertGate::None(act),
        router: grouped_router(config, [count, chosen], [1, 1], 1.0)?,
        shared: Some(SharedExpert { d_mlp: shared, act, weight: SharedWeight::One }),
    };
    let d_mlp = config.size_or("intermediate_size", 21_504)?;
    let empty = Layer { recurrence: None, ..alone(recurrence, norm) };
    let layer = |kind: char| match kind {
        'M' => alone(recurrence, norm),
        '*' => Layer { attention: Some(attention(sizes.scale(), PositionMark::None)), ..empty.clone() },
        '-' => Layer { mlp: Some(Mlp::Plain { d_mlp, act }), ..empty.clone() },
        _ => Layer { mlp: Some(experts), ..empty.clone() },
    };
    let kinds = letters(config)?;
    let layers: Vec<Layer> = kinds.chars().map(layer).collect();
    sizes.n_layers = layers.len();
    let flag = |key| config.flag_or(key, false).map(Bias::when);
    let (mlp_bias, projected) = (flag("mlp_bias")?, flag("use_bias")?);
    let named = |kind: char| LayerNames {
        attention_norm: Some("norm"),
        mlp_norm: Some("norm"),
        qkv: stored::split("mixer.q_proj", "mixer.k_proj", "mixer.v_proj", Bias::Absent),
        out: Linear::new("mixer.o_proj", Bias::Absent),
        recurrence: Some(space_names(MIXER, projected, projected)),
        ..stored::layer(Bias::Absent, Bias::Absent, mlp_names(kind, mlp_bias))
    };
    let names = Names { left_out: &["mtp."], ..stored::backbone(kinds.chars().map(named).collect()) };
    Ok((sizes.arch(layers, norm), names))
}

fn mlp_names(kind: char, bias: Bias) -> MlpNames {
    if kind != 'E' {
        return stored::plain("mixer.up_proj", "mixer.down_proj", bias);
    }
    stored::ungated_experts(bias)
}
