//! Chameleon: Llama with a separate norm for every head, and with images as token ids, which it does not predict.

use super::parts::{attention, block, gated, norm, post_norm, pre_norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "chameleon",
    read,
    // The image encoder is ignored.
    inert: &["model_parallel_size", "vq_config", "mask_image_logits", "dropout"],
    only: &[],
};

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 65_536,
    n_kv_heads: KvHeads::DefaultOrAsQueries(32),
    d_head: HeadWidth::Always,
    ..usual(4096, 32, 32, 4096)
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    // The epsilon is not configurable (modeling_chameleon.py, `ChameleonLayerNorm`).
    let of_heads = QkNorm::PerHeadOwnWeights(Norm { kind: NormKind::Layer, eps: 1e-5 });
    let attention = Attention { qk_norm: of_heads, ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let after = config.flag_or("swin_norm", false)?;
    let wiring = if after { post_norm(norm) } else { pre_norm(norm) };
    let layer = block(attention, gated(config, 11_008)?, wiring);
    let mut arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    (arch.embed.placeholders, arch.unembed.never) = images(config)?;

    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let mlp_bias = Bias::when(config.flag_or("mlp_bias", false)?);
    let mut names = stored::layer(bias, bias, stored::gated(mlp_bias));
    if after {
        names.attention_post_norm = names.attention_norm.take();
        names.mlp_post_norm = names.mlp_norm.take();
    }
    let names = stored::with_qk_norm(names, "self_attn.q_norm", "self_attn.k_norm");
    let left_out = &["model.vqmodel.", "vqmodel."];
    Ok((arch, Names { left_out, ..stored::model(vec![names]) }))
}

/// Placeholder ids for images, and ids of image tokens (`ChameleonImageVocabularyMapping`).
fn images(config: &Config) -> Result<(Vec<u32>, Vec<u32>)> {
    let (mut places, mut pieces) = (Vec::new(), Vec::new());
    let id = |value: &serde_json::Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| config.wrong("vocabulary_map", "an object of token ids"))
    };
    match config.value("vocabulary_map") {
        None => {}
        Some(serde_json::Value::Object(map)) => {
            for (name, value) in map {
                match name.as_str() {
                    "<image>" => places.push(id(value)?),
                    name if name.starts_with("IMGIMG") => pieces.push(id(value)?),
                    _ => {}
                }
            }
        }
        Some(_) => return Err(config.wrong("vocabulary_map", "an object of token ids")),
    }
    places.extend(config.value("image_token_id").map(id).transpose()?.filter(|id| !places.contains(id)));
    Ok((places, pieces))
}
