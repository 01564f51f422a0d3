//! Files next to a model's weights that may be meant to change its numbers.

use std::fs::Metadata;
use std::path::Path;
use std::time::SystemTime;

use super::folder::{INDEX, WEIGHTS, names};
use super::printable;
use crate::adapter;
use crate::config::read_small;
use crate::error::{Result, list};

/// Warnings about files in a model's folder that are not read, although a user might expect it.
///
/// # Errors
/// If the folder cannot be listed.
pub(crate) fn warnings(folder: &Path) -> Result<Vec<String>> {
    let names = names(folder)?;
    let has = |name: &str| names.iter().any(|n| n == name);
    let mut warnings = Vec::new();
    if has(WEIGHTS) && has(INDEX) {
        warnings.push(format!(
            "the folder has {WEIGHTS} and the shards of {INDEX}: the first is read, as transformers does"
        ));
    }
    if has(adapter::WEIGHTS) && !has(adapter::CONFIG) {
        warnings.push(format!(
            "{} is not applied: there is no {} beside it",
            adapter::WEIGHTS,
            adapter::CONFIG
        ));
    }
    for name in ["quantize_config.json", "quant_config.json", "hf_quant_config.json"] {
        if has(name) {
            warnings.push(format!(
                "{name} speaks of quantised weights, config.json does not: they are read as plain ones"
            ));
        }
    }
    if let Some(what) = has("modules.json").then(|| later_modules(&folder.join("modules.json"))).flatten() {
        warnings.push(format!(
            "modules.json has {what} follow the decoder (sentence-transformers): that is not computed"
        ));
    }
    if let Some(newer) = newer_weights(folder, &names) {
        warnings.push(format!("not read, although later than the weights that are: {newer}"));
    }
    Ok(warnings)
}

/// The modules of sentence-transformers after the first, which is the decoder.
fn later_modules(path: &Path) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(&read_small(path).ok()?).ok()?;
    let name = |module: &serde_json::Value| {
        let kind = module.get("type").and_then(serde_json::Value::as_str).unwrap_or_default();
        printable(kind.rsplit('.').next().unwrap_or_default())
    };
    let later: Vec<String> = json.as_array()?.iter().map(name).filter(|name| name != "Transformer").collect();
    (!later.is_empty()).then(|| later.join(", "))
}

/// Other weights that changed after those that are read, perhaps a later training state. File times in a download cache
/// say nothing.
fn newer_weights(folder: &Path, names: &[String]) -> Option<String> {
    if folder.parent().is_some_and(|parent| parent.ends_with("snapshots")) {
        return None;
    }
    let changed = |name: &str| folder.join(name).metadata().ok().and_then(|m: Metadata| m.modified().ok());
    let read: SystemTime = changed(if names.iter().any(|n| n == WEIGHTS) { WEIGHTS } else { INDEX })?;
    let is_other = |name: &&String| {
        let is_weights = (name.starts_with("pytorch_model") && name.ends_with(".bin"))
            || (name.starts_with("consolidated") && name.ends_with(".safetensors"));
        // A copy or a checkout gives all files about the same time.
        is_weights && changed(name).is_some_and(|time| time > read + std::time::Duration::from_secs(60))
    };
    let newer: Vec<&String> = names.iter().filter(is_other).collect();
    (!newer.is_empty()).then(|| list(&newer))
}
