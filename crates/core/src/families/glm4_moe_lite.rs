//! GLM-4.7 Flash: DeepSeek V3 with layers without experts by a list.

use super::deepseek_v3::{Defaults, decoder, pairing};
use super::latent::{LatentKeys, LatentParts};
use super::sizes::{HeadWidth, SizeKeys, usual};
use super::{Family, Only};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "glm4_moe_lite",
    read,
    // Widths that follow from others, and a key of the original implementation.
    inert: &["head_dim", "pretraining_tp", "qk_head_dim"],
    only: &[
        // The class reads `mlp_layer_types`, whose default this is.
        ("first_k_dense_replace", Only::One),
        ("partial_rotary_factor", Only::One),
        ("scoring_func", Only::Text("sigmoid")),
        ("topk_method", Only::Text("noaux_tc")),
    ],
};

const SIZES: SizeKeys =
    SizeKeys { vocabulary: 154_880, d_head: HeadWidth::OfOtherKeys, ..usual(2048, 47, 20, 202_752) };

const WIDTHS: LatentKeys = LatentKeys { own: 192, value: 256, queries: 768 };

const DEFAULTS: Defaults =
    Defaults { eps: 1e-5, count: 64, chosen: 4, d_expert: 1536, d_mlp: 10_240, groups: [1, 1], scale: 1.8 };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let parts = LatentParts::read(config, &SIZES, &WIDTHS, pairing(config)?)?;
    let kinds = config.optional_texts("mlp_layer_types")?;
    let n = parts.sizes.n_layers;
    let is_kind = |kind: &&str| ["dense", "sparse"].contains(kind);
    if kinds.as_ref().is_some_and(|kinds| kinds.len() != n || !kinds.iter().all(is_kind)) {
        return Err(config.wrong("mlp_layer_types", &format!("dense or sparse for each of {n} layers")));
    }
    let is_dense = |layer: usize| kinds.as_ref().map_or(layer == 0, |kinds| kinds[layer] == "dense");
    decoder(config, parts, &DEFAULTS, is_dense)
}
