//! SmolLM3: Llama with some layers without rotary positions, which may slide.

use super::parts::{attention, block, gated, layer_windows, norm, pre_norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family =
    Family { model_type: "smollm3", read, inert: &["pretraining_tp", "max_window_layers"], only: &[] };

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 128_256,
    n_kv_heads: KvHeads::DefaultOrAsQueries(4),
    tied: true,
    ..usual(2048, 36, 16, 32_768)
};

const ROPE: RopeKeys = RopeKeys { default_theta: 2e6, ..RopeKeys::USUAL };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let mlp = gated(config, 11_008)?;
    let turns = turning(config, sizes.n_layers)?;
    let layers = windows(config, &turns)?
        .into_iter()
        .zip(&turns)
        .map(|(window, turns)| {
            let position = if *turns { PositionMark::Rope(0) } else { PositionMark::None };
            block(Attention { window, ..attention(sizes.scale(), position) }, mlp, pre_norm(norm))
        })
        .collect();
    let arch = sizes.rotary_arch(rope, layers, norm);
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let mlp_bias = Bias::when(config.flag_or("mlp_bias", false)?);
    Ok((arch, stored::model(vec![stored::layer(bias, bias, stored::gated(mlp_bias))])))
}

/// Which layers have rotary positions: those with 1 in `no_rope_layers`.
fn turning(config: &Config, n_layers: usize) -> Result<Vec<bool>> {
    let interval = config.size_or("no_rope_layer_interval", 4)?;
    match config.optional_indices("no_rope_layers")? {
        None => Ok((0..n_layers).map(|l| !(l + 1).is_multiple_of(interval)).collect()),
        Some(list) if list.len() == n_layers => Ok(list.into_iter().map(|turns| turns != 0).collect()),
        Some(_) => Err(config.wrong("no_rope_layers", &format!("one entry for each of {n_layers} layers"))),
    }
}

/// Those of `layer_types`. Without it layers without rotary positions slide if `use_sliding_window` says so; the mask of
/// transformers does not look at the flag otherwise.
fn windows(config: &Config, turns: &[bool]) -> Result<Vec<Window>> {
    let sliding = config.optional_size("sliding_window")?.map_or(Window::Full, Window::Sliding);
    let by_position = config.flag_or("use_sliding_window", false)? && sliding != Window::Full;
    layer_windows(config, turns.len(), sliding, |l| by_position && !turns[l])
}
