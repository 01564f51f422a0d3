//! EXAONE 4: norms after attention and MLP, and on every head; if some layers slide, only those have rotary positions.

use super::parts::{attention, block, gated, layer_windows, norm, post_norm, window};
use super::rope::{RopeKeys, rope};
use super::sizes::{KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family { model_type: "exaone4", read, inert: &[], only: &[] };

const SIZES: SizeKeys =
    SizeKeys { vocabulary: 102_400, n_kv_heads: KvHeads::Default(32), ..usual(4096, 32, 32, 2048) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    let mlp = gated(config, 16_384)?;
    let sliding = window(config, Some(4096))?;
    let layers = windows(config, sizes.n_layers, sliding)?
        .into_iter()
        .map(|window| {
            let turns = sliding == Window::Full || window != Window::Full;
            let position = if turns { PositionMark::Rope(0) } else { PositionMark::None };
            let qk_norm = QkNorm::PerHead(norm);
            let attention = Attention { window, qk_norm, ..attention(sizes.scale(), position) };
            block(attention, mlp, post_norm(norm))
        })
        .collect();
    let arch = sizes.rotary_arch(rope, layers, norm);
    let names =
        stored::with_only_post_norms(stored::layer(Bias::Absent, Bias::Absent, stored::gated(Bias::Absent)));
    Ok((arch, stored::model(vec![stored::with_qk_norm(names, "self_attn.q_norm", "self_attn.k_norm")])))
}

/// The window of every layer. `sliding_window_pattern` is a period, or a string with one letter per layer of a period
/// ("LLLG": the last is global); it applies if there is no `layer_types`.
fn windows(config: &Config, n_layers: usize, sliding: Window) -> Result<Vec<Window>> {
    let key = "sliding_window_pattern";
    if sliding == Window::Full {
        config.has(key);
        return layer_windows(config, n_layers, sliding, |_| false);
    }
    let letters = match config.raw(key) {
        Some(serde_json::Value::String(word)) => {
            let letters: Vec<bool> = word.chars().map(|letter| letter == 'L').collect();
            if letters.is_empty() || !word.chars().all(|letter| matches!(letter, 'L' | 'G')) {
                return Err(config.wrong(key, "a word of the letters L and G, or a number"));
            }
            letters
        }
        _ => {
            let period = config.size_or(key, 4)?.min(n_layers + 1);
            (1..=period).map(|l| l != period).collect()
        }
    };
    layer_windows(config, n_layers, sliding, |l| letters[l % letters.len()])
}
