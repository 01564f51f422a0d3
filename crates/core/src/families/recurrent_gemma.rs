//! RecurrentGemma (Griffin): linear recurrent units in two of three layers, attention in a window in the third.

use super::mixers::{mixed, ungated};
use super::parts::{activation, attention, block, norm, pre_norm};
use super::rope::{Part, RopeKeys, rope};
use super::sizes::{SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::{Config, LARGEST_SIZE};
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "recurrent_gemma",
    read,
    inert: &["_block_types", "final_w_init_variance_scale", "w_init_variance_scale"],
    only: &[],
};

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 256_000,
    // The class does not limit the length.
    context: None,
    tied: true,
    ..usual(2560, 26, 10, LARGEST_SIZE as usize)
};

const ROPE: RopeKeys = RopeKeys { part: Part::Fraction("partial_rotary_factor", 0.5), ..RopeKeys::USUAL };

const INPUT: RecurrenceInput = RecurrenceInput::Split(&[
    Linear { name: "temporal_block.linear_x", bias: Bias::Stored, axes: Axes::OutIn },
    Linear { name: "temporal_block.linear_y", bias: Bias::Stored, axes: Axes::OutIn },
]);

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::RmsOffset, "rms_norm_eps", 1e-6)?;
    let act = activation(config, "hidden_activation", "gelu_pytorch_tanh")?;
    let both = config.size_or("intermediate_size", 7680)?;
    if both < 2 {
        return Err(config.wrong("intermediate_size", "two or more: half of it are neurons"));
    }
    let mlp = Mlp::Gated { d_mlp: both / 2, act };
    let width = config.optional_size("lru_width")?.unwrap_or(sizes.d_model);
    if !width.is_multiple_of(sizes.n_heads) {
        return Err(config.wrong("lru_width", &format!("a multiple of {} blocks", sizes.n_heads)));
    }
    let recurrence = Recurrence {
        kernel: config.size_or("conv1d_width", 4)?,
        bias: Bias::Stored,
        act: None,
        factors: None,
        state: State::Unit { width, blocks: sizes.n_heads },
        gate: ungated(Some(act)),
    };
    let window = Window::Sliding(config.size_or("attention_window_size", 2048)?);
    let attention = Attention { window, ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let kinds = config.optional_texts("block_types")?.unwrap_or(vec!["recurrent", "recurrent", "attention"]);
    if kinds.is_empty() || kinds.iter().any(|kind| !["recurrent", "attention"].contains(kind)) {
        return Err(config.unsupported("block_types", "recurrent, attention"));
    }
    let layer = |kind: &&str| match *kind {
        "attention" => block(attention.clone(), mlp, pre_norm(norm)),
        _ => mixed(recurrence, Some(mlp), norm),
    };
    let layers = kinds.iter().cycle().take(sizes.n_layers).map(layer).collect();
    let mut arch = sizes.rotary_arch(rope, layers, norm);
    arch.embed.scale = Some(to_bf16((sizes.d_model as f64).sqrt() as f32));
    arch.unembed.softcap = Some(config.positive_or("logits_soft_cap", 30.0)? as f32);

    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    Ok((arch, Names { final_norm: Some("final_norm"), ..stored::model(vec![names(bias)]) }))
}

/// Rounds to bf16: the class keeps the embedding's factor in bf16, whatever the type of its weights.
fn to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// The names of a layer of either kind.
fn names(bias: Bias) -> LayerNames {
    let recurrence = RecurrenceNames {
        input: INPUT,
        convolution: "temporal_block.conv_1d",
        state: StateNames::Unit {
            input: "temporal_block.rg_lru.input_gate",
            forget: "temporal_block.rg_lru.recurrent_gate",
            decay: "temporal_block.rg_lru.recurrent_param",
        },
        norm: None,
        out: Linear::new("temporal_block.linear_out", Bias::Stored),
    };
    let [gate, up, down] = ["mlp_block.gate_proj", "mlp_block.up_proj", "mlp_block.down_proj"]
        .map(|name| Linear::new(name, Bias::Stored));
    LayerNames {
        attention_norm: Some("temporal_pre_norm"),
        mlp_norm: Some("channel_pre_norm"),
        qkv: stored::split("temporal_block.q_proj", "temporal_block.k_proj", "temporal_block.v_proj", bias),
        out: Linear::new("temporal_block.o_proj", Bias::Stored),
        recurrence: Some(recurrence),
        ..stored::layer(bias, bias, MlpNames::Gated { gate, up, down })
    }
}
