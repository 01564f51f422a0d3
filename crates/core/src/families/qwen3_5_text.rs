//! Qwen3.5: Qwen3-Next with a dense MLP, and with the delta rule's first projection stored in four tensors.

use super::delta::{layers, names};
use super::parts::{gated, norm};
use super::rope::{Part, RopeKeys, SECTIONS, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family { model_type: "qwen3_5_text", read, inert: INERT, only: ONLY };

/// Keys for kernels and multi-token prediction.
pub(super) const INERT: &[&str] =
    &["mamba_ssm_dtype", "mlp_only_layers", "mtp_num_hidden_layers", "mtp_use_dedicated_embeddings"];

/// What the class does in any case: attention's mixed values times the sigmoid of a gate, and silu on the recurrence's.
pub(super) const ONLY: &[(&str, Only)] =
    &[("attn_output_gate", Only::True), ("output_gate_type", Only::Text("swish"))];

pub(super) const SIZES: SizeKeys = SizeKeys {
    vocabulary: 248_320,
    n_kv_heads: KvHeads::Default(4),
    d_head: HeadWidth::Default(256),
    ..usual(4096, 32, 16, 32_768)
};

pub(super) const ROPE: RopeKeys =
    RopeKeys { part: Part::Fraction("partial_rotary_factor", 0.25), others: SECTIONS, ..RopeKeys::USUAL };

pub(super) const INPUT: RecurrenceInput = RecurrenceInput::Split(&[
    Linear { name: "linear_attn.in_proj_qkv", bias: Bias::Absent, axes: Axes::OutIn },
    Linear { name: "linear_attn.in_proj_z", bias: Bias::Absent, axes: Axes::OutIn },
    Linear { name: "linear_attn.in_proj_b", bias: Bias::Absent, axes: Axes::OutIn },
    Linear { name: "linear_attn.in_proj_a", bias: Bias::Absent, axes: Axes::OutIn },
]);

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::RmsOffset, "rms_norm_eps", 1e-6)?;
    let mlp = gated(config, 12_288)?;
    let layers = layers(config, &sizes, norm, |_| mlp)?;
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let names = model(names(bias, INPUT, stored::gated(Bias::Absent)));
    Ok((sizes.rotary_arch(rope, layers, norm), names))
}

/// A checkpoint of such layers; those that predict further tokens are left out.
pub(super) fn model(layer: LayerNames) -> Names {
    Names { left_out: &["mtp."], ..stored::model(vec![layer]) }
}
