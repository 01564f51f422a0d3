//! Granite 4: state spaces in most layers, attention in some, each before a shared expert with or without routed ones.

use super::mixers::{
    MAMBA, PREFIXED, expanded, head_width, layer_kinds, mixed, space, space_names, step_limits,
};
use super::parts::{
    RENORMALISED, activation, attention, block, factor, factor_or_one, norm, pre_norm, top_k,
};
use super::rope::{RopeKeys, rope};
use super::sizes::{SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "granitemoehybrid",
    read,
    inert: &["init_method", "mamba_chunk_size", "normalization_function", "rope_scaling"],
    only: &[],
};

const SIZES: SizeKeys = SizeKeys { vocabulary: 32_000, ..usual(4096, 32, 32, 2048) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let factors = Factors::of_all(factor_or_one(config, "residual_multiplier")?);
    let channels = expanded(config, "mamba_expand", 2.0, sizes.d_model)?;
    let recurrence = space(config, &PREFIXED, step_limits(config, "time_step_limit")?, |heads| {
        head_width(config, "mamba_d_head", channels, heads)
    })?;
    let turns = config.optional_text("position_embedding_type")? == Some("rope");
    let position = if turns { PositionMark::Rope(0) } else { PositionMark::None };
    let scale = factor_or_one(config, "attention_multiplier")?.unwrap_or(1.0);
    let (mlp, mlp_names) = mlp(config)?;
    let kinds = ["layer_types", "layers_block_type"];
    let (recurrent, attends) = (["linear_attention", "mamba"], ["full_attention", "attention"]);
    let layers = layer_kinds(config, &kinds, sizes.n_layers, recurrent, attends, |_| false)?
        .into_iter()
        .map(|attends| match attends {
            true => Layer { factors, ..block(attention(scale, position), mlp, pre_norm(norm)) },
            false => Layer { factors, ..mixed(recurrence, Some(mlp), norm) },
        })
        .collect();
    let mut arch = if turns { sizes.rotary_arch(rope, layers, norm) } else { sizes.arch(layers, norm) };
    arch.embed.scale = factor_or_one(config, "embedding_multiplier")?;
    arch.unembed.divisor = factor(config.positive_or("logits_scaling", 1.0)?);

    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let projected = Bias::when(config.flag_or("mamba_proj_bias", false)?);
    let names = LayerNames {
        recurrence: Some(space_names(MAMBA, projected, projected)),
        ..stored::layer(bias, bias, mlp_names)
    };
    Ok((arch, stored::model(vec![names])))
}

/// A shared expert next to routed ones; without routed ones it is the MLP.
fn mlp(config: &Config) -> Result<(Mlp, MlpNames)> {
    let act = activation(config, "hidden_act", "silu")?;
    let shared = config.size_or("shared_intermediate_size", 1024)?;
    let [gate_up, down] =
        ["shared_mlp.input_linear", "shared_mlp.output_linear"].map(|name| Linear::new(name, Bias::Absent));
    let d_mlp = config.size_or("intermediate_size", 11_008)?;
    let count = match config.raw("num_local_experts").and_then(serde_json::Value::as_u64) {
        Some(0) => {
            // There are no experts for it to choose.
            config.has("num_experts_per_tok");
            return Ok((Mlp::Gated { d_mlp: shared, act }, MlpNames::GatedStacked { gate_up, down }));
        }
        _ => config.size_or("num_local_experts", 8)?,
    };
    let mlp = Mlp::Experts {
        count,
        top_k: top_k(config, 2, count)?,
        d_mlp,
        latent: None,
        gate: ExpertGate::Plain(act),
        // A softmax over the chosen scores equals a softmax over all, divided by the sum of the chosen.
        router: Router::softmax(RENORMALISED),
        shared: Some(SharedExpert { d_mlp: shared, act, weight: SharedWeight::One }),
    };
    let names = MlpNames::Experts {
        apart: None,
        router: Linear::new("block_sparse_moe.router.layer", Bias::Absent),
        correction: None,
        experts: ExpertNames::Stacked {
            gate_up: "block_sparse_moe.input_linear.weight",
            down: "block_sparse_moe.output_linear.weight",
        },
        latent: None,
        shared: Some(SharedNames::Stacked { gate_up, down }),
    };
    Ok((mlp, names))
}
