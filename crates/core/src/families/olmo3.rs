//! OLMo 3: OLMo 2 with three of four layers sliding; full layers have a rotary table of their own.

use super::parts::{attention, block, gated, layer_windows, norm, post_norm, window};
use super::rope::reach;
use super::sizes::{SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

use super::rope_by_type::{FULL, SLIDING, ropes_by_type};

pub(super) const FAMILY: Family = Family { model_type: "olmo3", read, inert: &[], only: &[] };

const SIZES: SizeKeys = SizeKeys { vocabulary: 50_304, ..usual(4096, 32, 32, 2048) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    // The older `rope_theta` concerns only full layers: sliding ones keep the class's default (configuration_olmo3.py).
    let ropes = ropes_by_type(config, &sizes, 500_000.0, None)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    let mlp = gated(config, 11_008)?;
    let sliding = window(config, Some(4096))?;
    let layers = layer_windows(config, sizes.n_layers, sliding, |l| !(l + 1).is_multiple_of(4))?
        .into_iter()
        .map(|window| {
            let table = if window == Window::Full { FULL } else { SLIDING };
            let attention = Attention {
                window,
                qk_norm: QkNorm::Whole(norm),
                ..attention(sizes.scale(), PositionMark::Rope(table))
            };
            block(attention, mlp, post_norm(norm))
        })
        .collect();
    let mut arch = sizes.arch(layers, norm);
    arch.context = reach(&ropes[FULL], sizes.context);
    arch.ropes = ropes;
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let names = stored::with_only_post_norms(stored::layer(bias, bias, stored::gated(Bias::Absent)));
    Ok((arch, stored::model(vec![stored::with_qk_norm(names, "self_attn.q_norm", "self_attn.k_norm")])))
}
