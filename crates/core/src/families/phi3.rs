//! Phi 3 and 4: Llama with stacked projections, LongRoPE, and a fraction of each head that rotates.

use super::parts::{activation, attention, block, norm, pre_norm, window};
use super::rope::{LongRopeKeys, Part, RopeKeys, rope};
use super::sizes::{SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "phi3",
    read,
    inert: &[],
    only: &[
        ("attention_bias", Only::False),
        ("mlp_bias", Only::False),
        ("lm_head_bias", Only::False),
        ("interpolate_factor", Only::One),
        ("full_attn_mod", Only::One),
    ],
};

const SIZES: SizeKeys = SizeKeys { vocabulary: 32_064, ..usual(3072, 32, 32, 4096) };

const ROPE: RopeKeys = RopeKeys {
    part: Part::Fraction("partial_rotary_factor", 1.0),
    longrope: LongRopeKeys::Only(4096),
    ..RopeKeys::USUAL
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    let attention =
        Attention { window: window(config, None)?, ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let mlp = Mlp::Gated {
        d_mlp: config.size_or("intermediate_size", 8192)?,
        act: activation(config, "hidden_act", "silu")?,
    };
    let layer = block(attention, mlp, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);

    let mlp = MlpNames::GatedStacked {
        gate_up: Linear::new("mlp.gate_up_proj", Bias::Absent),
        down: Linear::new("mlp.down_proj", Bias::Absent),
    };
    let names = LayerNames {
        qkv: QkvNames::Stacked(Linear::new("self_attn.qkv_proj", Bias::Absent)),
        ..stored::layer(Bias::Absent, Bias::Absent, mlp)
    };
    Ok((arch, stored::model(vec![names])))
}
