//! Ministral 3: Mistral with queries scaled by position.

use super::parts::{attention, block, gated, norm, pre_norm, window};
use super::rope::{RopeKeys, object_of, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family {
    model_type: "ministral3",
    read,
    inert: &[],
    only: &[("attention_bias", Only::False), ("mlp_bias", Only::False)],
};

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 131_072,
    n_kv_heads: KvHeads::Default(8),
    d_head: HeadWidth::DefaultOrDerived(128),
    ..usual(4096, 34, 32, 262_144)
};

const ROPE: RopeKeys = RopeKeys {
    others: &["llama_4_scaling_beta", "max_position_embeddings"],
    absent: r#"{"type": "yarn", "rope_theta": 1000000.0, "factor": 16.0, "original_max_position_embeddings": 16384,
                "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0,
                "llama_4_scaling_beta": 0.1}"#,
    ..RopeKeys::USUAL
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    let attention = Attention {
        window: window(config, None)?,
        query_growth: Some(growth(config)?),
        ..attention(sizes.scale(), PositionMark::Rope(0))
    };
    let layer = block(attention, gated(config, 14_336)?, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    let names = stored::layer(Bias::Absent, Bias::Absent, stored::gated(Bias::Absent));
    Ok((arch, stored::model(vec![names])))
}

/// The scaling of queries by position: both numbers must exist, as in transformers.
fn growth(config: &Config) -> Result<QueryGrowth> {
    let object = object_of(config, &ROPE)?;
    let original = match object.has("original_max_position_embeddings") {
        true => object.size("original_max_position_embeddings")?,
        // `standardize_rope_params` fills it in for the scaling types.
        false => config.size_or("max_position_embeddings", 262_144)?,
    };
    Ok(QueryGrowth { beta: object.number("llama_4_scaling_beta")? as f32, original })
}
