//! StableLM: LayerNorm, a fraction of each head that rotates, separate norms for every head.

use super::parts::{activation, attention, block, norm, pre_norm};
use super::rope::{Part, RopeKeys, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family { model_type: "stablelm", read, inert: &[], only: &[] };

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 50_304,
    n_kv_heads: KvHeads::Default(32),
    d_head: HeadWidth::Always,
    ..usual(2560, 32, 32, 4096)
};

const ROPE: RopeKeys =
    RopeKeys { part: Part::EvenFraction("partial_rotary_factor", 0.25), ..RopeKeys::USUAL };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::Layer, "layer_norm_eps", 1e-5)?;
    let normed = config.flag_or("qk_layernorm", false)?;
    let qk_norm = match normed {
        true => QkNorm::PerHeadOwnWeights(Norm { kind: NormKind::LayerNoBias, ..norm }),
        false => QkNorm::None,
    };
    let attention = Attention { qk_norm, ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let mlp = Mlp::Gated {
        d_mlp: config.size_or("intermediate_size", 6912)?,
        act: activation(config, "hidden_act", "silu")?,
    };
    let parallel = config.flag_or("use_parallel_residual", false)?;
    let wiring = if parallel { Wiring::Parallel { attention: norm, mlp: None } } else { pre_norm(norm) };
    let arch = sizes.rotary_arch(rope, vec![block(attention, mlp, wiring); sizes.n_layers], norm);

    let qkv = Bias::when(config.flag_or("use_qkv_bias", false)?);
    let mut layer = stored::layer(qkv, Bias::Absent, stored::gated(Bias::Absent));
    if normed {
        layer.q_norm = Some(HeadNorm::EachHead("self_attn.q_layernorm.norms.{}"));
        layer.k_norm = Some(HeadNorm::EachHead("self_attn.k_layernorm.norms.{}"));
    }
    if parallel {
        layer.mlp_norm = None;
    }
    Ok((arch, stored::model(vec![layer])))
}
