//! Qwen2: Llama with biases on queries, keys and values, and windows in the later layers.

use super::parts::{activation, attention, block, layer_windows, norm, pre_norm, switched_window};
use super::rope::{RopeKeys, rope};
use super::sizes::{KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family =
    Family { model_type: "qwen2", read, inert: &[], only: &[("use_mrope", Only::False)] };

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 151_936,
    n_kv_heads: KvHeads::DefaultOrAsQueries(32),
    ..usual(4096, 32, 32, 32_768)
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let mlp = Mlp::Gated {
        d_mlp: config.size_or("intermediate_size", 22_016)?,
        act: activation(config, "hidden_act", "silu")?,
    };
    let layers = windows(config, &sizes, 28)?
        .into_iter()
        .map(|window| {
            let attention = Attention { window, ..attention(sizes.scale(), PositionMark::Rope(0)) };
            block(attention, mlp, pre_norm(norm))
        })
        .collect();
    let arch = sizes.rotary_arch(rope, layers, norm);
    let names = stored::layer(Bias::Stored, Bias::Absent, stored::gated(Bias::Absent));
    Ok((arch, stored::model(vec![names])))
}

/// With `use_sliding_window`, layers from `max_window_layers` on slide.
pub(super) fn windows(config: &Config, sizes: &Sizes, first: usize) -> Result<Vec<Window>> {
    let sliding = switched_window(config)?;
    let first = match config.raw("max_window_layers").and_then(serde_json::Value::as_u64) {
        // Zero is a valid size here: every layer slides.
        Some(0) => 0,
        _ => config.size_or("max_window_layers", first)?,
    };
    layer_windows(config, sizes.n_layers, sliding, |l| sliding != Window::Full && l >= first)
}
