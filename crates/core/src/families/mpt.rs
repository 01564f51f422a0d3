//! MPT: linear biases, LayerNorm without bias, no biases at all.

use super::parts::{attention, block, norm, pre_norm};
use super::sizes::{HeadWidth, Key, KvHeads, SizeKeys, Sizes};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "mpt",
    read,
    // Switches of the original program that transformers' class fixes to one value.
    inert: &[
        "tokenizer_name",
        "embedding_fraction",
        "expansion_ratio",
        "init_config",
        "init_device",
        "learned_pos_emb",
        "logit_scale",
        "no_bias",
        "norm_type",
        "use_pad_tok_in_ffn",
        "verbose",
        "emb_pdrop",
        "param_init_fn",
        "rope",
        "fc_type",
        "ffn_config",
        "max_seq_len_train",
    ],
    only: &[],
};

const SIZES: SizeKeys = SizeKeys {
    d_model: Key(&["d_model", "hidden_size"], 2048),
    n_layers: Key(&["n_layers", "num_hidden_layers"], 24),
    n_heads: Key(&["n_heads", "num_attention_heads"], 16),
    n_kv_heads: KvHeads::NoKey,
    d_head: HeadWidth::Always,
    vocabulary: 50_368,
    context: None,
    tied: true,
};

/// Keys of `attn_config` without effect here: linear biases are always on, with a fixed range.
const INERT: &[&str] =
    &["alibi", "alibi_bias_max", "attn_impl", "attn_pdrop", "attn_type", "is_encoder_decoder", "qk_ln"];

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    // Linear biases have no limit.
    config.optional_size("max_seq_len")?;
    let own =
        config.object("attn_config")?.unwrap_or_else(|| Config::from_map("config.json", Default::default()));
    for flag in ["attn_uses_sequence_id", "prefix_lm"] {
        if own.flag_or(flag, false)? {
            return Err(own.unsupported(flag, "false"));
        }
    }
    let inert = [crate::config::INERT, INERT];
    let scale = own.optional_number("softmax_scale")?.map_or(sizes.scale(), |scale| scale as f32);
    let clip = own.optional_number("clip_qkv")?.filter(|clip| *clip != 0.0);
    if clip.is_some_and(|clip| clip < 0.0) {
        return Err(own.wrong("clip_qkv", "a number above zero"));
    }
    own.finish_with(&inert, &[])?;
    let norm = norm(config, NormKind::LayerNoBias, "layer_norm_epsilon", 1e-5)?;
    let attention = Attention {
        clip: clip.map(|clip| clip as f32),
        ..attention(scale, PositionMark::Alibi(Slopes::OfHigherPower))
    };
    let mlp = Mlp::Plain { d_mlp: 4 * sizes.d_model, act: Activation::Gelu };
    let layer = block(attention, mlp, pre_norm(norm));
    let arch = sizes.arch(vec![layer; sizes.n_layers], norm);
    let layer = LayerNames {
        attention_norm: Some("norm_1"),
        mlp_norm: Some("norm_2"),
        qkv: QkvNames::Stacked(Linear::new("attn.Wqkv", Bias::Absent)),
        out: Linear::new("attn.out_proj", Bias::Absent),
        ..stored::layer(
            Bias::Absent,
            Bias::Absent,
            stored::plain("ffn.up_proj", "ffn.down_proj", Bias::Absent),
        )
    };
    let names = Names {
        prefix: "transformer.",
        embed: "wte",
        final_norm: Some("norm_f"),
        layer: "blocks.{}.",
        ..stored::model(vec![layer])
    };
    Ok((arch, names))
}
