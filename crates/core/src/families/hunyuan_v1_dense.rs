//! Hunyuan: queries and keys are normed after rotation; the rotary base is scaled by a fixed factor.

use super::parts::{attention, block, gated, norm, pre_norm};
use super::rope::{RopeKeys, object_of, rope};
use super::sizes::{SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family {
    model_type: "hunyuan_v1_dense",
    read,
    inert: &[
        "dense_list",
        "pad_id",
        "attention_head_dim",
        "cla_share_factor",
        "eod_token_id",
        "im_start_id",
        "im_end_id",
        "im_newline_id",
        "mask_init_id",
        "norm_type",
        "num_media_embeds",
        "org_vocab_size",
        "pretraining_tp",
        "pool_type",
        "position_embedding_xdrope",
        "sep_token_id",
        "text_start_id",
        "text_end_id",
        "use_mla",
        "anyres_pooling_size",
        "anyres_vit_max_image_size",
        "anyres_vit_two_views",
        "skip_cls_token",
        "vit_add_patchemb_bias",
        "vit_input_resolution",
        "vit_mapping_type",
        "vit_norm_type",
        "vit_path",
        "vit_patch",
        "vit_remove_prenorm",
        "vit_token",
        "vit_type",
        "vit_used_rms_norm",
        "video_start_id",
        "video_end_id",
        "add_classification_head",
        "class_num",
        "enable_lm_head_fp32",
        "rope_theta_old",
        "use_rotary_pos_emb",
    ],
    only: &[("mlp_bias", Only::False), ("use_cla", Only::False), ("use_qk_norm", Only::True)],
};

const SIZES: SizeKeys = SizeKeys { vocabulary: 290_943, ..usual(4096, 32, 32, 2048) };

const ROPE: RopeKeys = RopeKeys { others: &["alpha"], ..RopeKeys::USUAL };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = stretched(config, &sizes)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    let attention = Attention {
        qk_norm: QkNorm::PerHead(norm),
        qk_norm_at: QkNormAt::Rotated,
        ..attention(sizes.scale(), PositionMark::Rope(0))
    };
    let layer = block(attention, gated(config, 11_008)?, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let names = stored::layer(bias, bias, stored::gated(Bias::Absent));
    let names = stored::with_qk_norm(names, "self_attn.query_layernorm", "self_attn.key_layernorm");
    Ok((arch, stored::model(vec![names])))
}

/// The type `dynamic` with an `alpha` scales the base by a fixed factor (`compute_ntk_alpha_rope_parameters`).
fn stretched(config: &Config, sizes: &Sizes) -> Result<Rope> {
    let rope = rope(config, sizes, &ROPE)?;
    let RopeScaling::Dynamic { .. } = rope.scaling else { return Ok(rope) };
    let alpha = object_of(config, &ROPE)?.optional_number("alpha")?.filter(|alpha| *alpha != 0.0);
    let Some(alpha) = alpha else { return Ok(rope) };
    if alpha < 0.0 {
        return Err(object_of(config, &ROPE)?.wrong("alpha", "a number above zero"));
    }
    let width = sizes.d_head as f64;
    Ok(Rope { theta: rope.theta * alpha.powf(width / (width - 2.0)), scaling: RopeScaling::None, ..rope })
}
