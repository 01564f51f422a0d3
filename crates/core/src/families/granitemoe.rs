//! Granite with experts in place of the MLP, weighed by a softmax over the chosen scores.

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

pub(super) const FAMILY: Family = Family { model_type: "granitemoe", read, inert: &[], only: &[] };

const SIZES: SizeKeys = SizeKeys { vocabulary: 32_000, ..usual(4096, 32, 32, 2048) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    read_with(config, None)
}

/// As [`read`], with a shared expert of this many neurons.
pub(super) fn read_with(config: &Config, shared: Option<usize>) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let act = activation(config, "hidden_act", "silu")?;
    let count = config.size_of_any(&["num_local_experts", "num_experts"], 8)?;
    let mlp = Mlp::Experts {
        count,
        top_k: top_k(config, 2, count)?,
        d_mlp: config.size_or("intermediate_size", 11_008)?,
        latent: None,
        gate: ExpertGate::Plain(act),
        // A softmax over the chosen scores equals a softmax over all, divided by the sum of the chosen.
        router: Router::softmax(RENORMALISED),
        shared: shared.map(|d_mlp| SharedExpert { d_mlp, act, weight: SharedWeight::One }),
    };
    let scale = factor_or_one(config, "attention_multiplier")?.unwrap_or(1.0);
    let layer = Layer {
        factors: Factors::of_all(factor_or_one(config, "residual_multiplier")?),
        ..block(attention(scale, PositionMark::Rope(0)), mlp, pre_norm(norm))
    };
    let mut arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    arch.embed.scale = factor_or_one(config, "embedding_multiplier")?;
    arch.unembed.divisor = factor(config.positive_or("logits_scaling", 1.0)?);

    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let experts = MlpNames::Experts {
        router: Linear::new("block_sparse_moe.router.layer", Bias::Absent),
        correction: None,
        apart: None,
        experts: ExpertNames::Stacked {
            gate_up: "block_sparse_moe.input_linear.weight",
            down: "block_sparse_moe.output_linear.weight",
        },
        latent: None,
        shared: shared.map(|_| SharedNames::Stacked {
            gate_up: Linear::new("shared_mlp.input_linear", Bias::Absent),
            down: Linear::new("shared_mlp.output_linear", Bias::Absent),
        }),
    };
    Ok((arch, stored::model(vec![stored::layer(bias, bias, experts)])))
}
