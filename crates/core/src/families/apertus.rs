//! Apertus: norms on every head, and an MLP whose non-linearity has learned parameters.

use super::parts::{attention, block, norm, plain, pre_norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "apertus",
    read,
    inert: &[],
    only: &[("mlp_bias", Only::False), ("post_norm", Only::False), ("qk_norm", Only::True)],
};

const SIZES: SizeKeys = SizeKeys { vocabulary: 131_072, ..usual(4096, 32, 32, 65_536) };

const ROPE: RopeKeys = RopeKeys {
    default_theta: 12e6,
    absent: r#"{"rope_type": "llama3", "rope_theta": 12000000.0, "factor": 8.0,
                "original_max_position_embeddings": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0}"#,
    ..RopeKeys::USUAL
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    let attention =
        Attention { qk_norm: QkNorm::PerHead(norm), ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let learned = config.raw("hidden_act").is_none_or(|name| name == "xielu");
    let mlp = match learned {
        true => Mlp::Xielu { d_mlp: config.size_or("intermediate_size", 14_336)? },
        false => plain(config, 14_336, "xielu")?,
    };
    let layer = block(attention, mlp, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);

    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let [up, down] = ["mlp.up_proj", "mlp.down_proj"].map(|name| Linear::new(name, Bias::Absent));
    let mlp = match learned {
        true => MlpNames::Xielu { up, down, act: "mlp.act_fn" },
        false => MlpNames::Plain { up, down },
    };
    let names = LayerNames {
        attention_norm: Some("attention_layernorm"),
        mlp_norm: Some("feedforward_layernorm"),
        ..stored::layer(bias, bias, mlp)
    };
    Ok((arch, stored::model(vec![stored::with_qk_norm(names, "self_attn.q_norm", "self_attn.k_norm")])))
}
