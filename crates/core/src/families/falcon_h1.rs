//! Falcon H1: attention and a state space in parallel in each block, with factors on the input and output of every
//! part.

use super::mixers::{MAMBA, PREFIXED, SpaceKeys, expanded, head_width, space, space_names, step_limits};
use super::parts::{attention, block, factor, factor_or_one, gated, norm, pre_norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "falcon_h1",
    read,
    inert: &[
        "attn_layer_indices",
        "mamba_chunk_size",
        "mamba_use_mlp",
        "num_logits_to_keep",
        "rope_scaling",
        "time_step_floor",
        "time_step_max",
        "time_step_min",
        "time_step_rank",
    ],
    only: &[],
};

const SIZES: SizeKeys =
    SizeKeys { vocabulary: 128_000, n_kv_heads: KvHeads::DefaultOrAsQueries(8), ..usual(4096, 32, 32, 8192) };

const SPACE: SpaceKeys = SpaceKeys { eps: ("rms_norm_eps", 1e-5), ..PREFIXED };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    let expanded = expanded(config, "mamba_expand", 2.0, sizes.d_model)?;
    let channels = match config.has("mamba_d_ssm") {
        true => config.optional_size("mamba_d_ssm")?.unwrap_or(expanded),
        false => 1024,
    };
    let mut recurrence = space(config, &SPACE, step_limits(config, "time_step_limit")?, |heads| {
        head_width(config, "mamba_d_head", channels, heads)
    })?;
    let before = config.flag_or("mamba_norm_before_gate", true)?;
    recurrence.gate.norm = match (recurrence.gate.norm, config.flag_or("mamba_rms_norm", false)?) {
        (GateNorm::AfterOwnWeights(norm, group), true) if before => GateNorm::BeforeOwnWeights(norm, group),
        (after, true) => after,
        (_, false) => GateNorm::None,
    };
    let several = |key: &str, count: usize| -> Result<Vec<f32>> {
        let factors = config.optional_numbers(key)?.unwrap_or_else(|| vec![1.0; count]);
        let factors: Vec<f32> = factors.into_iter().map(|x| x as f32).collect();
        match factors.len() == count && factors.iter().all(|x| x.is_finite()) {
            true => Ok(factors),
            false => Err(config.wrong(key, &format!("{count} finite numbers"))),
        }
    };
    let [gate, down] = several("mlp_multipliers", 2)?[..] else {
        return Err(config.missing("mlp_multipliers"));
    };
    let parts = several("ssm_multipliers", 5)?;
    if let [z, x, b, c, dt] = parts[..] {
        recurrence.factors = Some([x, b, c, z, dt]).filter(|factors| *factors != [1.0; 5]);
    }
    // A factor on all keys is a factor on all scores.
    let scale = sizes.scale() * factor_or_one(config, "key_multiplier")?.unwrap_or(1.0);
    let layer = Layer {
        recurrence: Some(recurrence),
        factors: Factors {
            attention_in: factor_or_one(config, "attention_in_multiplier")?,
            attention: factor_or_one(config, "attention_out_multiplier")?,
            recurrence_in: factor_or_one(config, "ssm_in_multiplier")?,
            recurrence: factor_or_one(config, "ssm_out_multiplier")?,
            gate: factor(f64::from(gate)),
            mlp: factor(f64::from(down)),
        },
        ..block(attention(scale, PositionMark::Rope(0)), gated(config, 14_336)?, pre_norm(norm))
    };
    let mut arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    arch.embed.scale = factor_or_one(config, "embedding_multiplier")?;
    arch.unembed.divisor = factor(config.positive_or("lm_head_multiplier", 1.0)?.recip());

    let flag = |key| config.flag_or(key, false).map(Bias::when);
    let (bias, mlp_bias) = (flag("attention_bias")?, flag("mlp_bias")?);
    let [gate, up, down] = ["feed_forward.gate_proj", "feed_forward.up_proj", "feed_forward.down_proj"]
        .map(|name| Linear::new(name, mlp_bias));
    let mut names = space_names(MAMBA, flag("mamba_proj_bias")?, flag("projectors_bias")?);
    names.norm = names.norm.filter(|_| recurrence.gate.norm != GateNorm::None);
    let layer = LayerNames {
        mlp_norm: Some("pre_ff_layernorm"),
        recurrence: Some(names),
        ..stored::layer(bias, bias, MlpNames::Gated { gate, up, down })
    };
    Ok((arch, Names { final_norm: Some("final_layernorm"), ..stored::model(vec![layer]) }))
}
