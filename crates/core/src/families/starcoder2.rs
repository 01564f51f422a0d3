//! StarCoder2: LayerNorm and a plain MLP on Mistral's attention, biases everywhere.

use super::parts::{activation, attention, block, norm, pre_norm, window};
use super::rope::{RopeKeys, rope};
use super::sizes::{KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "starcoder2",
    read,
    // `norm_epsilon` is the effective key; the releases repeat it under the older name.
    inert: &["layer_norm_epsilon", "scale_attention_softmax_in_fp32"],
    only: &[
        ("mlp_type", Only::Text("default")),
        ("norm_type", Only::Text("layer_norm")),
        ("scale_attn_weights", Only::True),
    ],
};

const SIZES: SizeKeys =
    SizeKeys { vocabulary: 49_152, n_kv_heads: KvHeads::Default(2), tied: true, ..usual(3072, 30, 24, 4096) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Layer, "norm_epsilon", 1e-5)?;
    let attention =
        Attention { window: window(config, None)?, ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let mlp = Mlp::Plain {
        d_mlp: config.size_or("intermediate_size", 12_288)?,
        act: activation(config, "hidden_act", "gelu_pytorch_tanh")?,
    };
    let layer = block(attention, mlp, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);

    let bias = Bias::when(config.flag_or("use_bias", true)?);
    let mlp = MlpNames::Plain { up: Linear::new("mlp.c_fc", bias), down: Linear::new("mlp.c_proj", bias) };
    Ok((arch, stored::model(vec![stored::layer(bias, bias, mlp)])))
}
