//! Gemma 3 without its vision tower: five sliding layers per full one, each kind with its own rotary table.

use super::gemma::embed_scale;
use super::gemma2::{self, four_norms, query_scale, softcap};
use super::parts::{attention, block, layer_windows, norm, window};
use super::rope::reach;
use super::rope_by_type::{FULL, SLIDING, ropes_by_type};
use super::sizes::{SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family {
    model_type: "gemma3_text",
    read,
    // transformers 5 writes `_sliding_window_pattern` next to `layer_types` and never reads it. The softcap of the
    // scores is a key of the class, but its attention does not apply it (modeling_gemma3.py, `Gemma3Attention.forward`
    // passes no `softcap`).
    inert: &["_sliding_window_pattern", "attn_logit_softcapping"],
    only: &[("use_bidirectional_attention", Only::FalseOrNull)],
};

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 262_208,
    n_kv_heads: gemma2::SIZES.n_kv_heads,
    d_head: gemma2::SIZES.d_head,
    tied: true,
    ..usual(2304, 26, 8, 131_072)
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let ropes = ropes_by_type(config, &sizes, 1e6, Some(("rope_local_base_freq", 1e4)))?;
    let norm = norm(config, NormKind::RmsOffset, "rms_norm_eps", 1e-6)?;
    let scale = query_scale(config)?;
    let mlp = gemma2::mlp(config)?;
    let pattern = config.size_or("sliding_window_pattern", 6)?;
    let sliding = window(config, Some(4096))?;
    let layers = layer_windows(config, sizes.n_layers, sliding, |l| !(l + 1).is_multiple_of(pattern))?
        .into_iter()
        .map(|window| {
            let table = if window == Window::Full { FULL } else { SLIDING };
            let qk_norm = QkNorm::PerHead(norm);
            let attention = Attention { window, qk_norm, ..attention(scale, PositionMark::Rope(table)) };
            block(attention, mlp, four_norms(norm))
        })
        .collect();
    let mut arch = sizes.arch(layers, norm);
    arch.context = reach(&ropes[FULL], sizes.context);
    arch.ropes = ropes;
    arch.embed.scale = Some(embed_scale(&sizes));
    arch.unembed.softcap = softcap(config, "final_logit_softcapping", None)?;

    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let layer = stored::with_post_norms(stored::layer(bias, bias, stored::gated(Bias::Absent)));
    Ok((arch, stored::model(vec![stored::with_qk_norm(layer, "self_attn.q_norm", "self_attn.k_norm")])))
}
