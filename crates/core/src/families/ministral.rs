//! Ministral: Mistral with windows that may differ by layer.

use super::parts::{attention, block, gated, layer_windows, norm, pre_norm, window};
use super::rope::{RopeKeys, rope};
use super::sizes::{KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family {
    model_type: "ministral",
    read,
    inert: &[],
    only: &[("attention_bias", Only::False), ("mlp_bias", Only::False)],
};

const SIZES: SizeKeys =
    SizeKeys { vocabulary: 32_000, n_kv_heads: KvHeads::Default(8), ..usual(4096, 32, 32, 4096 * 32) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let mlp = gated(config, 14_336)?;
    let sliding = window(config, Some(4096))?;
    let layers = layer_windows(config, sizes.n_layers, sliding, |_| sliding != Window::Full)?
        .into_iter()
        .map(|window| {
            let attention = Attention { window, ..attention(sizes.scale(), PositionMark::Rope(0)) };
            block(attention, mlp, pre_norm(norm))
        })
        .collect();
    let arch = sizes.rotary_arch(rope, layers, norm);
    let names = stored::layer(Bias::Absent, Bias::Absent, stored::gated(Bias::Absent));
    Ok((arch, stored::model(vec![names])))
}
