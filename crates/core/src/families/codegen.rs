//! CodeGen: GPT-J with queries, values and keys stored in blocks of heads.

use super::{Family, Only, gptj};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "codegen",
    read,
    inert: gptj::FAMILY.inert,
    only: &[("rotary", Only::True), ("scale_attn_weights", Only::True)],
};

/// Blocks of heads in the stored projection (modeling_codegen.py, `mp_num`).
const BLOCKS: usize = 4;

fn read(config: &Config) -> Result<(Arch, Names)> {
    let (arch, mut names) = gptj::read(config)?;
    if !arch.n_heads.is_multiple_of(BLOCKS) {
        return Err(config.wrong("n_head", "a multiple of 4"));
    }
    for layer in &mut names.layers {
        let linear = Linear::new("attn.qkv_proj", Bias::Absent);
        layer.qkv = QkvNames::InBlocks { linear, blocks: BLOCKS };
        layer.out = Linear::new("attn.out_proj", Bias::Absent);
    }
    names.ignored = &["attn.causal_mask", "attn.bias", "attn.embed_positions"];
    Ok((arch, names))
}
