//! Weight names that several families share.

use crate::arch::Bias;
use crate::names::*;

/// Buffers of rotary embeddings in older checkpoints.
pub(super) const INV_FREQ: &[&str] = &["rotary_emb.inv_freq"];

/// Separate projections for queries, keys and values.
pub(super) fn split(q: &'static str, k: &'static str, v: &'static str, bias: Bias) -> QkvNames {
    QkvNames::Split { q: Linear::new(q, bias), k: Linear::new(k, bias), v: Linear::new(v, bias) }
}

/// `gate_proj`, `up_proj` and `down_proj`.
pub(super) fn gated(bias: Bias) -> MlpNames {
    MlpNames::Gated {
        gate: Linear::new("mlp.gate_proj", bias),
        up: Linear::new("mlp.up_proj", bias),
        down: Linear::new("mlp.down_proj", bias),
    }
}

/// Experts stored one by one under `experts.{}.`.
pub(super) fn experts(router: Linear, experts: [&'static str; 3]) -> MlpNames {
    let [gate, up, down] = experts.map(|name| Linear::new(name, Bias::Absent));
    let experts = ExpertNames::Each { gate, up, down };
    MlpNames::Experts { router, correction: None, apart: None, experts, latent: None, shared: None }
}

/// `gate_proj`, `up_proj` and `down_proj` of each expert.
pub(super) const EXPERTS: [&str; 3] =
    ["mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj", "mlp.experts.{}.down_proj"];

/// `w1`, `w3` and `w2` of each expert.
pub(super) const BLOCK_SPARSE: [&str; 3] =
    ["block_sparse_moe.experts.{}.w1", "block_sparse_moe.experts.{}.w3", "block_sparse_moe.experts.{}.w2"];

/// Experts with a correction, or with a shared one next to them.
pub(super) fn with_shared(
    mlp: MlpNames,
    correction: Option<Correction>,
    shared: Option<SharedNames>,
) -> MlpNames {
    match mlp {
        MlpNames::Experts { router, experts, .. } => {
            MlpNames::Experts { router, correction, apart: None, experts, latent: None, shared }
        }
        other => other,
    }
}

/// A shared expert with these projections.
pub(super) fn shared(names: [&'static str; 3], bias: Bias, weigh: Option<&'static str>) -> SharedNames {
    let [gate, up, down] = names.map(|name| Linear::new(name, bias));
    SharedNames::Split { gate, up, down, weigh }
}

/// An MLP of two projections.
pub(super) fn plain(up: &'static str, down: &'static str, bias: Bias) -> MlpNames {
    MlpNames::Plain { up: Linear::new(up, bias), down: Linear::new(down, bias) }
}

/// Gate and up in one projection.
pub(super) fn gate_up(bias: Bias) -> MlpNames {
    MlpNames::GatedStacked {
        gate_up: Linear::new("mlp.gate_up_proj", bias),
        down: Linear::new("mlp.down_proj", bias),
    }
}

/// A layer named as in most families since Llama: norms before attention and MLP, split projections.
pub(super) fn layer(qkv: Bias, out: Bias, mlp: MlpNames) -> LayerNames {
    LayerNames {
        attention_norm: Some("input_layernorm"),
        attention_post_norm: None,
        mlp_norm: Some("post_attention_layernorm"),
        mlp_post_norm: None,
        qkv: split("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", qkv),
        q_norm: None,
        k_norm: None,
        sinks: None,
        recurrence: None,
        out: Linear::new("self_attn.o_proj", out),
        mlp,
        per_layer: None,
        leaving_scale: None,
    }
}

/// A layer with only a recurrence, named as in Mamba.
pub(super) fn alone(recurrence: RecurrenceNames) -> LayerNames {
    LayerNames {
        attention_norm: Some("norm"),
        recurrence: Some(recurrence),
        ..layer(Bias::Absent, Bias::Absent, gated(Bias::Absent))
    }
}

/// A checkpoint named as in Mamba.
pub(super) fn backbone(layers: Vec<LayerNames>) -> Names {
    Names { prefix: "backbone.", embed: "embeddings", final_norm: Some("norm_f"), ..model(layers) }
}

/// A checkpoint named as in most families since Llama.
pub(super) fn model(layers: Vec<LayerNames>) -> Names {
    Names {
        prefix: "model.",
        embed: "embed_tokens",
        positions: None,
        embed_norm: None,
        project_in: None,
        project_out: None,
        final_norm: Some("norm"),
        unembed: "lm_head",
        score: &[],
        layer: "layers.{}.",
        layers,
        ignored: INV_FREQ,
        spellings: &[],
        left_out: &[],
        further_layers: 0..0,
        per_layer: None,
    }
}

/// Norms on the outputs of attention and MLP, none before.
pub(super) fn with_only_post_norms(layer: LayerNames) -> LayerNames {
    LayerNames {
        attention_norm: None,
        attention_post_norm: Some("post_attention_layernorm"),
        mlp_norm: None,
        mlp_post_norm: Some("post_feedforward_layernorm"),
        ..layer
    }
}

/// Norms of queries and keys, one tensor each.
pub(super) fn with_qk_norm(layer: LayerNames, q: &'static str, k: &'static str) -> LayerNames {
    LayerNames { q_norm: Some(HeadNorm::One(q)), k_norm: Some(HeadNorm::One(k)), ..layer }
}

/// Gemma's four norms per block: before and after attention, before and after the MLP.
pub(super) fn with_post_norms(layer: LayerNames) -> LayerNames {
    LayerNames {
        attention_post_norm: Some("post_attention_layernorm"),
        mlp_norm: Some("pre_feedforward_layernorm"),
        mlp_post_norm: Some("post_feedforward_layernorm"),
        ..layer
    }
}

/// Experts without gates, one by one, with a shared one, as Nemotron H stores them.
pub(super) fn ungated_experts(bias: Bias) -> MlpNames {
    MlpNames::Experts {
        apart: None,
        router: Linear::new("mixer.gate", Bias::Absent),
        correction: Some(Correction::Vector("mixer.gate.e_score_correction_bias")),
        experts: ExpertNames::Ungated {
            up: Linear::new("mixer.experts.{}.up_proj", Bias::Absent),
            down: Linear::new("mixer.experts.{}.down_proj", Bias::Absent),
        },
        latent: Some(["mixer.fc1_latent_proj", "mixer.fc2_latent_proj"].map(|name| Linear::new(name, bias))),
        shared: Some(SharedNames::Ungated {
            up: Linear::new("mixer.shared_experts.up_proj", bias),
            down: Linear::new("mixer.shared_experts.down_proj", bias),
        }),
    }
}
