//! BioGPT: OPT with a scaled embedding.

use super::parts::{attention, block, plain, pre_norm};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, gemma, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "biogpt",
    read,
    // The norms' epsilon is that of `nn.LayerNorm`, whatever the key says.
    inert: &["activation_dropout", "layer_norm_eps", "layerdrop"],
    only: &[],
};

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 42_384,
    n_kv_heads: KvHeads::NoKey,
    d_head: HeadWidth::Always,
    tied: true,
    ..usual(1024, 24, 16, 1024)
};

/// Rows of the position table before the first position (modeling_biogpt.py, `BioGptLearnedPositionalEmbedding`).
const OFFSET: usize = 2;

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let norm = Norm { kind: NormKind::Layer, eps: 1e-5 };
    let mlp = plain(config, 4096, "gelu")?;
    let layer = block(attention(sizes.scale(), PositionMark::None), mlp, pre_norm(norm));
    let mut arch = sizes.arch(vec![layer; sizes.n_layers], norm);
    arch.embed.positions = Some(LearnedPositions { offset: OFFSET, rows: sizes.context + OFFSET });
    let scaled = config.flag_or("scale_embedding", true)?;
    arch.embed.scale = scaled.then(|| gemma::embed_scale(&sizes));
    let layer = LayerNames {
        attention_norm: Some("self_attn_layer_norm"),
        // The layer's `final_layer_norm` is the MLP's.
        mlp_norm: Some("final_layer_norm"),
        out: Linear::new("self_attn.out_proj", Bias::Stored),
        ..stored::layer(Bias::Stored, Bias::Stored, stored::plain("fc1", "fc2", Bias::Stored))
    };
    let names = Names {
        prefix: "biogpt.",
        positions: Some("embed_positions"),
        final_norm: Some("layer_norm"),
        unembed: "output_projection",
        ..stored::model(vec![layer])
    };
    Ok((arch, names))
}
