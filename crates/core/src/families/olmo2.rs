//! OLMo 2: norms after attention and MLP instead of before, and over the whole queries and keys.

use super::parts::{activation, attention, block, norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family { model_type: "olmo2", read, inert: &[], only: &[] };

const SIZES: SizeKeys = SizeKeys { vocabulary: 50_304, ..usual(4096, 32, 32, 2048) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    let attention =
        Attention { qk_norm: QkNorm::Whole(norm), ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let mlp = Mlp::Gated {
        d_mlp: config.size_or("intermediate_size", 11_008)?,
        act: activation(config, "hidden_act", "silu")?,
    };
    let after = Norms { pre: None, post: Some(norm) };
    let layer = block(attention, mlp, Wiring::Sequential { attention: after, mlp: after });
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);

    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let names = LayerNames {
        attention_norm: None,
        attention_post_norm: Some("post_attention_layernorm"),
        mlp_norm: None,
        mlp_post_norm: Some("post_feedforward_layernorm"),
        ..stored::layer(bias, bias, stored::gated(Bias::Absent))
    };
    Ok((arch, stored::model(vec![stored::with_qk_norm(names, "self_attn.q_norm", "self_attn.k_norm")])))
}
