//! Phi 1 and 2: attention and MLP in parallel on one norm, biases everywhere.

use super::parts::{activation, attention, block, norm};
use super::rope::{Part, RopeKeys, rope};
use super::sizes::{SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family { model_type: "phi", read, inert: &[], only: &[] };

const SIZES: SizeKeys = SizeKeys { vocabulary: 51_200, ..usual(2048, 24, 32, 2048) };

const ROPE: RopeKeys = RopeKeys { part: Part::EvenFraction("partial_rotary_factor", 0.5), ..RopeKeys::USUAL };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::Layer, "layer_norm_eps", 1e-5)?;
    let normed = config.flag_or("qk_layernorm", false)?;
    if normed && sizes.n_heads.checked_mul(sizes.d_head) != Some(sizes.d_model) {
        // The norms are as wide as the stream divided by the heads, whatever `head_dim` says.
        return Err(config.unsupported("head_dim", "none beside `qk_layernorm`"));
    }
    let qk_norm = if normed { QkNorm::PerHead(norm) } else { QkNorm::None };
    let attention = Attention { qk_norm, ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let mlp = Mlp::Plain {
        d_mlp: config.size_or("intermediate_size", 8192)?,
        act: activation(config, "hidden_act", "gelu_new")?,
    };
    let layer = block(attention, mlp, Wiring::Parallel { attention: norm, mlp: None });
    let mut arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    arch.unembed.bias = Bias::Stored;
    Ok((arch, names(normed)))
}

fn names(normed: bool) -> Names {
    let mlp = MlpNames::Plain {
        up: Linear::new("mlp.fc1", Bias::Stored),
        down: Linear::new("mlp.fc2", Bias::Stored),
    };
    let layer = LayerNames {
        mlp_norm: None,
        out: Linear::new("self_attn.dense", Bias::Stored),
        ..stored::layer(Bias::Stored, Bias::Stored, mlp)
    };
    let layer = if normed {
        stored::with_qk_norm(layer, "self_attn.q_layernorm", "self_attn.k_layernorm")
    } else {
        layer
    };
    Names { final_norm: Some("final_layernorm"), ..stored::model(vec![layer]) }
}
