//! Shared by families with a gated delta rule: its layers, the attention layers between them, and their names.

use super::mixers::{layer_kinds, mixed};
use super::parts::{activation, attention, block, pre_norm};
use super::sizes::Sizes;
use super::stored;
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

/// Layers of a delta rule or of gated attention, each with the MLP that `mlp` gives.
pub(super) fn layers(
    config: &Config,
    sizes: &Sizes,
    norm: Norm,
    mlp: impl Fn(usize) -> Mlp,
) -> Result<Vec<Layer>> {
    let (key_heads, value_heads) =
        (config.size_or("linear_num_key_heads", 16)?, config.size_or("linear_num_value_heads", 32)?);
    if !value_heads.is_multiple_of(key_heads) {
        return Err(config.wrong("linear_num_value_heads", &format!("a multiple of {key_heads} key heads")));
    }
    let d_value = config.size_or("linear_value_head_dim", 128)?;
    let recurrence = Recurrence {
        kernel: config.size_or("linear_conv_kernel_dim", 4)?,
        bias: Bias::Absent,
        act: Some(activation(config, "hidden_act", "silu")?),
        factors: None,
        state: State::Delta {
            key_heads,
            value_heads,
            d_key: config.size_or("linear_key_head_dim", 128)?,
            d_value,
        },
        // The norm next to the gate multiplies by its weight, not by one plus its weight.
        gate: Gate {
            act: Some(Activation::Silu),
            norm: GateNorm::Before(Norm { kind: NormKind::Rms, eps: norm.eps }, d_value),
        },
    };
    let attention = Attention {
        qk_norm: QkNorm::PerHead(norm),
        gate: AttentionGate::Sigmoid,
        ..attention(sizes.scale(), PositionMark::Rope(0))
    };
    let interval = config.size_or("full_attention_interval", 4)?;
    let (linear, full) = (["linear_attention"], ["full_attention"]);
    let every = |l: usize| (l + 1).is_multiple_of(interval);
    let kinds = layer_kinds(config, &["layer_types"], sizes.n_layers, linear, full, every)?;
    let layer = |(l, attends): (usize, bool)| match attends {
        true => block(attention.clone(), mlp(l), pre_norm(norm)),
        false => mixed(recurrence, Some(mlp(l)), norm),
    };
    Ok(kinds.into_iter().enumerate().map(layer).collect())
}

/// The names of a layer of either kind.
pub(super) fn names(bias: Bias, input: RecurrenceInput, mlp: MlpNames) -> LayerNames {
    let linear = |name| Linear::new(name, bias);
    let recurrence = RecurrenceNames {
        input,
        convolution: "linear_attn.conv1d",
        state: StateNames::Heads { steps: "linear_attn.dt_bias", decay: "linear_attn.A_log", skip: None },
        norm: Some("linear_attn.norm"),
        out: Linear::new("linear_attn.out_proj", Bias::Absent),
    };
    let [q, k, v] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(linear);
    LayerNames {
        qkv: QkvNames::SplitGated { q, k, v },
        recurrence: Some(recurrence),
        ..stored::with_qk_norm(stored::layer(bias, bias, mlp), "self_attn.q_norm", "self_attn.k_norm")
    }
}
