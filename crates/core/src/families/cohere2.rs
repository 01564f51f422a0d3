//! Command R7B: Command R with windows; only sliding layers have rotary positions.

use super::parts::{attention, block, gated, layer_windows, norm, window};
use super::rope::{RopeKeys, rope};
use super::sizes::Sizes;
use super::{Family, cohere, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family {
    model_type: "cohere2",
    read,
    // transformers writes the first next to `layer_types`; the releases contain the others, which nothing reads.
    inert: &[
        "_sliding_window_pattern",
        "order_of_interleaved_layers",
        "rotary_pct",
        "position_embedding_type",
        "use_embedding_sharing",
        "layer_switch",
        "use_parallel_block",
        "use_parallel_embedding",
        "use_gated_activation",
    ],
    only: &[],
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &cohere::SIZES)?;
    let rope = Rope { pairing: Pairing::Adjacent, ..rope(config, &sizes, &RopeKeys::USUAL)? };
    let norm = norm(config, NormKind::LayerNoBias, "layer_norm_eps", 1e-5)?;
    let mlp = gated(config, 22_528)?;
    let pattern = config.size_or("sliding_window_pattern", 4)?;
    let sliding = window(config, Some(4096))?;
    let layers = layer_windows(config, sizes.n_layers, sliding, |l| !(l + 1).is_multiple_of(pattern))?
        .into_iter()
        .map(|window| {
            let slides = window != Window::Full;
            let position = if slides { PositionMark::Rope(0) } else { PositionMark::None };
            let attention = Attention { window, ..attention(sizes.scale(), position) };
            block(attention, mlp, Wiring::Parallel { attention: norm, mlp: None })
        })
        .collect();
    let mut arch = sizes.rotary_arch(rope, layers, norm);
    arch.unembed.divisor = cohere::logit_divisor(config)?;
    Ok((arch, stored::model(vec![cohere::names(config)?])))
}
