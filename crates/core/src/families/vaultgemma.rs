//! VaultGemma: Gemma 2 without norms on the outputs of attention and MLP.

use super::parts::pre_norm;
use super::{Family, gemma2};
use crate::arch::Arch;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family { model_type: "vaultgemma", read, inert: &[], only: &[] };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let (mut arch, mut names) = gemma2::read(config)?;
    for layer in &mut arch.layers {
        if let Some(norm) = arch.final_norm {
            layer.wiring = pre_norm(norm);
        }
    }
    for layer in &mut names.layers {
        (layer.attention_post_norm, layer.mlp_post_norm) = (None, None);
    }
    Ok((arch, names))
}
