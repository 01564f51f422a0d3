//! Gemma 2: norms before and after attention and MLP, softcaps, every other layer slides.

use super::gemma::embed_scale;
use super::parts::{activation, attention, block, layer_windows, norm, window};
use super::rope::{RopeKeys, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family {
    model_type: "gemma2",
    read,
    // Early configs contain `hidden_act` and `sliding_window_size`, which transformers ignores.
    inert: &["hidden_act", "sliding_window_size"],
    only: &[("use_bidirectional_attention", Only::FalseOrNull)],
};

pub(super) const SIZES: SizeKeys = SizeKeys {
    vocabulary: 256_000,
    n_kv_heads: KvHeads::Default(4),
    d_head: HeadWidth::Default(256),
    tied: true,
    ..usual(2304, 26, 8, 8192)
};

pub(super) fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::RmsOffset, "rms_norm_eps", 1e-6)?;
    let softcap = softcap(config, "attn_logit_softcapping", Some(50.0))?;
    let scale = query_scale(config)?;
    let mlp = mlp(config)?;
    let layers = layer_windows(config, sizes.n_layers, window(config, Some(4096))?, |l| l % 2 == 0)?
        .into_iter()
        .map(|window| {
            let attention = Attention { softcap, window, ..attention(scale, PositionMark::Rope(0)) };
            block(attention, mlp, four_norms(norm))
        })
        .collect();
    let mut arch = sizes.rotary_arch(rope, layers, norm);
    arch.embed.scale = Some(embed_scale(&sizes));
    arch.unembed.softcap = self::softcap(config, "final_logit_softcapping", Some(30.0))?;
    Ok((arch, names(config)?))
}

/// The MLP of Gemma 2 and 3.
pub(super) fn mlp(config: &Config) -> Result<Mlp> {
    Ok(Mlp::Gated {
        d_mlp: config.size_or("intermediate_size", 9216)?,
        act: activation(config, "hidden_activation", "gelu_pytorch_tanh")?,
    })
}

/// `query_pre_attn_scalar ** -0.5`
pub(super) fn query_scale(config: &Config) -> Result<f32> {
    Ok(config.positive_or("query_pre_attn_scalar", 256.0)?.powf(-0.5) as f32)
}

/// A softcap: absent means the class's default, null means none.
pub(super) fn softcap(config: &Config, key: &str, default: Option<f64>) -> Result<Option<f32>> {
    let cap = if config.has(key) { config.optional_positive(key)? } else { default };
    Ok(cap.map(|cap| cap as f32))
}

/// Norms before and after attention and MLP.
pub(super) fn four_norms(norm: Norm) -> Wiring {
    let norms = Norms { pre: Some(norm), post: Some(norm) };
    Wiring::Sequential { attention: norms, mlp: norms }
}

fn names(config: &Config) -> Result<Names> {
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let layer = stored::layer(bias, bias, stored::gated(Bias::Absent));
    Ok(stored::model(vec![stored::with_post_norms(layer)]))
}
