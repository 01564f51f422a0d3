//! Phi-3.5-MoE: LayerNorm, and two experts chosen in sequence, each weighed against its near rivals.

use super::parts::{activation, attention, block, norm, pre_norm, window};
use super::rope::{RopeKeys, object_of, rope};
use super::sizes::{KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "phimoe",
    read,
    // Two experts are chosen, whatever the first key says; noise is for training.
    inert: &["num_experts_per_tok", "input_jitter_noise"],
    only: &[],
};

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 32_064,
    n_kv_heads: KvHeads::DefaultOrAsQueries(8),
    ..usual(4096, 32, 32, 4096 * 32)
};

/// Keys of this class's LongRoPE for factors on cos and sin, by row length.
const MAGNITUDES: &[&str] = &["short_mscale", "long_mscale"];

const ROPE: RopeKeys = RopeKeys { default_theta: 1e6, others: MAGNITUDES, ..RopeKeys::USUAL };

/// transformers divides by the short factors for rows of any length.
fn long_rope(config: &Config, rope: Rope) -> Result<Rope> {
    let RopeScaling::LongRope { short, original, .. } = rope.scaling else {
        if rope.scaling == RopeScaling::None {
            return Ok(rope);
        }
        let key = if config.value("rope_scaling").is_some() { "rope_scaling" } else { "rope_parameters" };
        return Err(config.unsupported(key, "the default type, longrope"));
    };
    let object = object_of(config, &ROPE)?;
    let magnitude = |key| object.optional_positive(key)?.ok_or_else(|| object.missing(key));
    let (attention_factor, long) = (magnitude("short_mscale")?, magnitude("long_mscale")?);
    if attention_factor != long {
        return Err(object.unsupported("long_mscale", "the same number as short_mscale"));
    }
    let scaling = RopeScaling::LongRope { long: short.clone(), short, original, attention_factor };
    Ok(Rope { scaling, ..rope })
}

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = long_rope(config, rope(config, &sizes, &ROPE)?)?;
    let norm = norm(config, NormKind::Layer, "rms_norm_eps", 1e-5)?;
    let attention =
        Attention { window: window(config, None)?, ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let count = config.size_of_any(&["num_local_experts", "num_experts"], 16)?;
    if count < 2 {
        return Err(config.wrong("num_local_experts", "two or more"));
    }
    let jitter = config.number_or("router_jitter_noise", 0.01)? as f32;
    let mlp = Mlp::Experts {
        count,
        top_k: 2,
        d_mlp: config.size_or("intermediate_size", 6400)?,
        latent: None,
        gate: ExpertGate::Plain(activation(config, "hidden_act", "silu")?),
        router: Router {
            factors: Bias::Absent,
            apart: None,
            scores: ExpertScores::SparseMixer { jitter },
            ..Router::softmax(ExpertWeights::AsTheyAre)
        },
        shared: None,
    };
    let layer = block(attention, mlp, pre_norm(norm));
    let mut arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    arch.unembed.bias = Bias::when(config.flag_or("lm_head_bias", false)?);
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let router = Linear::new("block_sparse_moe.gate", Bias::Absent);
    let experts = stored::experts(router, stored::BLOCK_SPARSE);
    Ok((arch, stored::model(vec![stored::layer(bias, bias, experts)])))
}
