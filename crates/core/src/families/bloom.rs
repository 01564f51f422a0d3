//! BLOOM: linear biases instead of positions, and a norm on the embedding; optionally norms on the stream itself.

use super::parts::{attention, block, norm, pre_norm};
use super::sizes::{HeadWidth, Key, KvHeads, SizeKeys, Sizes};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "bloom",
    read,
    inert: &[
        "bias_dropout_fusion",
        "masked_softmax_fusion",
        // The MLP is always four times as wide as the stream.
        "n_inner",
        "offset_alibi",
        "skip_bias_add",
        "skip_bias_add_qkv",
        // The length it was trained on; linear biases have no limit.
        "seq_length",
    ],
    only: &[],
};

const SIZES: SizeKeys = SizeKeys {
    d_model: Key(&["n_embed", "hidden_size"], 64),
    n_layers: Key(&["n_layer", "num_hidden_layers"], 2),
    n_heads: Key(&["n_head", "num_attention_heads"], 8),
    n_kv_heads: KvHeads::NoKey,
    d_head: HeadWidth::Always,
    vocabulary: 250_880,
    context: None,
    tied: true,
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let slices = config.size_or("pretraining_tp", 1)?;
    if config.flag_or("slow_but_exact", false)? && slices > 1 {
        // That code path of transformers leaves out the biases of the output projections.
        return Err(config.unsupported("slow_but_exact", "false where `pretraining_tp` is more than 1"));
    }
    let norm = norm(config, NormKind::Layer, "layer_norm_epsilon", 1e-5)?;
    let mlp = Mlp::Plain { d_mlp: 4 * sizes.d_model, act: Activation::GeluTanh };
    // The norm's output becomes the residual stream.
    let wiring = match config.flag_or("apply_residual_connection_post_layernorm", false)? {
        true => Wiring::NormOnStream { attention: norm, mlp: norm, side: StreamNorm::Before },
        false => pre_norm(norm),
    };
    let layer = block(attention(sizes.scale(), PositionMark::Alibi(Slopes::OfLowerPower)), mlp, wiring);
    let mut arch = sizes.arch(vec![layer; sizes.n_layers], norm);
    arch.embed.norm = Some(norm);
    Ok((arch, names()))
}

fn names() -> Names {
    let mlp = MlpNames::Plain {
        up: Linear::new("mlp.dense_h_to_4h", Bias::Stored),
        down: Linear::new("mlp.dense_4h_to_h", Bias::Stored),
    };
    let layer = LayerNames {
        qkv: QkvNames::ByHead(Linear::new("self_attention.query_key_value", Bias::Stored)),
        out: Linear::new("self_attention.dense", Bias::Stored),
        ..stored::layer(Bias::Stored, Bias::Stored, mlp)
    };
    Names {
        prefix: "transformer.",
        embed: "word_embeddings",
        embed_norm: Some("word_embeddings_layernorm"),
        final_norm: Some("ln_f"),
        layer: "h.{}.",
        ignored: &[],
        ..stored::model(vec![layer])
    }
}
