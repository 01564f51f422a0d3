//! Rotary tables that depend on a layer's attention type (`convert_rope_params_to_dict` of the classes that have them).

use serde_json::Map;

use super::rope::nested_rope;
use super::sizes::Sizes;
use crate::arch::Rope;
use crate::config::Config;
use crate::error::Result;

/// Index of the full layers' table in [`Arch::ropes`](crate::arch::Arch); the sliding layers' comes next.
pub(super) const FULL: usize = 0;
pub(super) const SLIDING: usize = 1;

/// Tables of the full and the sliding layers, from the objects in `rope_parameters`; `rope_scaling` concerns only the
/// full layers. `local` is the key and the default of the sliding layers' base, if they have their own.
pub(super) fn ropes_by_type(
    config: &Config,
    sizes: &Sizes,
    default_theta: f64,
    local: Option<(&str, f64)>,
) -> Result<Vec<Rope>> {
    let parameters = config.object("rope_parameters")?;
    let inside = |kind| parameters.as_ref().map_or(Ok(None), |object| object.object(kind));
    let (full, sliding) = (inside("full_attention")?, inside("sliding_attention")?);
    let scaling = config.object("rope_scaling")?.filter(|o| !o.as_map().is_empty());
    if let Some(scaling) = &scaling {
        if full.is_some() {
            return Err(
                config.unsupported("rope_scaling", "null, or `rope_parameters` without `full_attention`")
            );
        }
        if scaling.has("type") && !scaling.has("rope_type") {
            // transformers would silently keep the default type.
            return Err(scaling.unsupported("type", "the spelling `rope_type`"));
        }
    }
    let nothing = || Config::from_map("config.json", Map::new());
    let theta = |key, default| if config.has(key) { config.positive_or(key, default) } else { Ok(default) };
    let of_full = theta("rope_theta", default_theta)?;
    let of_sliding = match local {
        Some((key, default)) => theta(key, default)?,
        None => default_theta,
    };
    let full = full.or(scaling).unwrap_or_else(nothing);
    let sliding = sliding.unwrap_or_else(nothing);
    Ok(vec![nested_rope(&full, sizes, of_full)?, nested_rope(&sliding, sizes, of_sliding)?])
}
