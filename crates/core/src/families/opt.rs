//! OPT, with both placements of its norms: before each part, or on the stream after it (OPT-350m).

use super::parts::{activation, attention, block, pre_norm};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "opt",
    read,
    inert: &["activation_dropout", "dropout", "init_std", "layerdrop"],
    only: &[],
};

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 50_272,
    n_kv_heads: KvHeads::NoKey,
    d_head: HeadWidth::Always,
    tied: true,
    ..usual(768, 12, 12, 2048)
};

/// Rows of the position table before the first position (modeling_opt.py, `OPTLearnedPositionalEmbedding`).
const OFFSET: usize = 2;

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let affine = config.flag_or("layer_norm_elementwise_affine", true)?;
    // The epsilon is not a key of this class: it is `nn.LayerNorm`'s default.
    let norm = Norm { kind: if affine { NormKind::Layer } else { NormKind::LayerNoParams }, eps: 1e-5 };
    let before = config.flag_or("do_layer_norm_before", true)?;
    let wiring = if before {
        pre_norm(norm)
    } else {
        Wiring::NormOnStream { attention: norm, mlp: norm, side: StreamNorm::After }
    };
    let mlp = Mlp::Plain {
        d_mlp: config.size_or("ffn_dim", 3072)?,
        act: activation(config, "activation_function", "relu")?,
    };
    let layer = block(attention(sizes.scale(), PositionMark::None), mlp, wiring);
    let mut arch = sizes.arch(vec![layer; sizes.n_layers], norm);
    let removed = config.flag_or("_remove_final_layer_norm", false)?;
    arch.final_norm = if before && !removed { Some(norm) } else { None };
    arch.embed.width = config.optional_size("word_embed_proj_dim")?.unwrap_or(sizes.d_model);
    arch.embed.positions = Some(LearnedPositions { offset: OFFSET, rows: sizes.context + OFFSET });
    let names = names(&arch, Bias::when(config.flag_or("enable_bias", true)?));
    Ok((arch, names))
}

fn names(arch: &Arch, bias: Bias) -> Names {
    let projected = arch.embed.width != arch.d_model;
    let mlp = MlpNames::Plain { up: Linear::new("fc1", bias), down: Linear::new("fc2", bias) };
    let layer = LayerNames {
        attention_norm: Some("self_attn_layer_norm"),
        // The layer's `final_layer_norm` is the MLP's.
        mlp_norm: Some("final_layer_norm"),
        out: Linear::new("self_attn.out_proj", bias),
        ..stored::layer(bias, bias, mlp)
    };
    Names {
        embed: "decoder.embed_tokens",
        positions: Some("decoder.embed_positions"),
        project_in: projected.then_some("decoder.project_in"),
        project_out: projected.then_some("decoder.project_out"),
        final_norm: arch.final_norm.map(|_| "decoder.final_layer_norm"),
        layer: "decoder.layers.{}.",
        ignored: &["decoder.version"],
        ..stored::model(vec![layer])
    }
}
