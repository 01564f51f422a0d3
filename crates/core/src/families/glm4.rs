//! GLM-4-0414: GLM with norms on the outputs of attention and MLP.

use super::gemma2::four_norms;
use super::{Family, glm};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family { model_type: "glm4", read, inert: &[], only: &[] };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let (mut arch, mut names) = glm::read(config)?;
    for layer in &mut arch.layers {
        if let Some(norm) = arch.final_norm {
            layer.wiring = four_norms(norm);
        }
    }
    for layer in &mut names.layers {
        // `post_attention_layernorm` stays the MLP's input norm.
        layer.attention_post_norm = Some("post_self_attn_layernorm");
        layer.mlp_post_norm = Some("post_mlp_layernorm");
    }
    Ok((arch, names))
}
