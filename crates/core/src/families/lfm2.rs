//! LFM2: short convolutions between two gates in most layers, attention with norms of queries and keys in the others.

use super::mixers::{layer_kinds, mixed, ungated};
use super::parts::{attention, block, norm, pre_norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::{Config, LARGEST_SIZE};
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "lfm2",
    read,
    // Names of the original implementation, next to those that the class reads.
    inert: &[
        "block_dim",
        "block_mlp_init_scale",
        "block_norm_eps",
        "block_out_init_scale",
        "block_use_swiglu",
        "block_use_xavier_init",
        "conv_dim",
        "conv_dim_out",
        "conv_use_xavier_init",
        "num_heads",
        "theta",
        "use_pos_enc",
    ],
    only: &[],
};

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 65_536,
    n_kv_heads: KvHeads::Default(8),
    tied: true,
    ..usual(2560, 32, 32, 128_000)
};

const ROPE: RopeKeys = RopeKeys { default_theta: 1e6, ..RopeKeys::USUAL };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let mut sizes = Sizes::read(config, &SIZES)?;
    if config.has("tie_embedding") {
        let tied = config.flag_or("tie_embedding", true)?;
        sizes.matrix = if tied { UnembedMatrix::Tied } else { UnembedMatrix::Own };
    }
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::Rms, "norm_eps", 1e-5)?;
    let mlp = Mlp::Gated { d_mlp: d_mlp(config)?, act: Activation::Silu };
    let bias = Bias::when(config.flag_or("conv_bias", false)?);
    let recurrence = Recurrence {
        kernel: config.size_or("conv_L_cache", 3)?,
        bias,
        act: None,
        factors: None,
        state: State::None { width: sizes.d_model },
        gate: ungated(None),
    };
    let attention =
        Attention { qk_norm: QkNorm::PerHead(norm), ..attention(sizes.scale(), PositionMark::Rope(0)) };
    // Without a list of kinds, the layers in this list have attention, or all if it is absent.
    let named = config.optional_indices("full_attn_idxs")?;
    let attends = |l: usize| named.as_ref().is_none_or(|named| named.contains(&(l as u64)));
    let layers =
        layer_kinds(config, &["layer_types"], sizes.n_layers, ["conv"], ["full_attention"], attends)?
            .into_iter()
            .map(|attends| match attends {
                true => block(attention.clone(), mlp, pre_norm(norm)),
                false => mixed(recurrence, Some(mlp), norm),
            })
            .collect();
    let names = Names { final_norm: Some("embedding_norm"), ..stored::model(vec![names(bias)]) };
    Ok((sizes.rotary_arch(rope, layers, norm), names))
}

/// Neurons: two thirds of the stated width, times a factor, rounded up to a multiple (transformers, `Lfm2MLP`).
fn d_mlp(config: &Config) -> Result<usize> {
    let own = config.size_or("intermediate_size", 12_288)?;
    let named = config.optional_size("block_ff_dim")?.unwrap_or(own);
    let multiple = config.size_or("block_multiple_of", 256)?;
    let key = "block_ffn_dim_multiplier";
    let factor = if config.has(key) { config.optional_positive(key)? } else { Some(1.0) };
    if !config.flag_or("block_auto_adjust_ff_dim", true)? {
        return Ok(named);
    }
    let width = (2 * named / 3) as f64;
    let up = |width: f64| (width.floor() / multiple as f64).ceil() * multiple as f64;
    let adjusted = factor.map_or(width, |factor| up(factor * width));
    match (1.0..=LARGEST_SIZE as f64).contains(&adjusted) {
        true => Ok(adjusted as usize),
        false => Err(config.wrong(key, "a factor that leaves from 1 to 2^28 neurons")),
    }
}

/// The names of a layer of either kind.
fn names(bias: Bias) -> LayerNames {
    let [gate, up, down] =
        ["feed_forward.w1", "feed_forward.w3", "feed_forward.w2"].map(|name| Linear::new(name, Bias::Absent));
    let order = [InputPart::Rest, InputPart::Gate, InputPart::Convolved];
    let recurrence = RecurrenceNames {
        input: RecurrenceInput::Stacked(Linear::new("conv.in_proj", bias), order),
        convolution: "conv.conv",
        state: StateNames::None,
        norm: None,
        out: Linear::new("conv.out_proj", bias),
    };
    let layer = stored::layer(Bias::Absent, Bias::Absent, MlpNames::Gated { gate, up, down });
    LayerNames {
        attention_norm: Some("operator_norm"),
        mlp_norm: Some("ffn_norm"),
        out: Linear::new("self_attn.out_proj", Bias::Absent),
        recurrence: Some(recurrence),
        ..stored::with_qk_norm(layer, "self_attn.q_layernorm", "self_attn.k_layernorm")
    }
}
