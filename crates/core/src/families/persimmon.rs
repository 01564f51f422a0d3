//! Persimmon: half of each head rotates, norms of queries and keys, biases everywhere.

use super::parts::{attention, block, norm, plain, pre_norm};
use super::rope::{Part, RopeKeys, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family =
    Family { model_type: "persimmon", read, inert: &["num_key_value_heads"], only: &[] };

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 262_144,
    n_kv_heads: KvHeads::NoKey,
    d_head: HeadWidth::Always,
    ..usual(4096, 36, 64, 16_384)
};

const ROPE: RopeKeys = RopeKeys { part: Part::EvenFraction("partial_rotary_factor", 0.5), ..RopeKeys::USUAL };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::Layer, "layer_norm_eps", 1e-5)?;
    let normed = config.flag_or("qk_layernorm", true)?;
    let qk_norm = if normed { QkNorm::PerHead(norm) } else { QkNorm::None };
    let attention = Attention { qk_norm, ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let layer = block(attention, plain(config, 16_384, "relu2")?, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    let mlp = stored::plain("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", Bias::Stored);
    let layer = LayerNames {
        qkv: QkvNames::ByHead(Linear::new("self_attn.query_key_value", Bias::Stored)),
        out: Linear::new("self_attn.dense", Bias::Stored),
        ..stored::layer(Bias::Stored, Bias::Stored, mlp)
    };
    let layer = if normed {
        stored::with_qk_norm(layer, "self_attn.q_layernorm", "self_attn.k_layernorm")
    } else {
        layer
    };
    Ok((arch, Names { final_norm: Some("final_layernorm"), ..stored::model(vec![layer]) }))
}
