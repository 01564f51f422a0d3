//! Queries, keys and values that a file has as one tensor although the checkpoint has three: llama.cpp's converter with
//! `--fuse-qkv`, and earlier ones for some architectures.

use serde_json::{Map, Value};

use super::rules::Rule;
use super::{Tensors, architecture};
use crate::error::Result;

/// A tensor of the file, and the tensors that its rows stand for, in order, each with its number of rows.
pub type Division = (String, Vec<(String, usize)>);

const WHOLE: &str = "attn_qkv";
const THREE: [&str; 3] = ["attn_q", "attn_k", "attn_v"];

/// The fused tensors of a file. Those of which the metadata do not say the parts are left as they are, and have no place
/// then.
///
/// # Errors
/// The architecture is missing or not read.
pub fn divisions(metadata: &Map<String, Value>, tensors: &Tensors) -> Result<Vec<Division>> {
    let architecture = architecture(metadata)?;
    let has = |wanted: &str| {
        architecture.layer.iter().flat_map(|rules| *rules).any(|rule: &Rule| rule.theirs == wanted)
    };
    if !THREE.into_iter().all(has) {
        return Ok(Vec::new());
    }
    // One number, or one for each layer.
    let count = |key: &str, layer: usize| {
        let stated = metadata.get(&format!("{}.attention.{key}", architecture.name))?;
        let stated = stated.as_array().map_or(Some(stated), |each| each.get(layer))?;
        stated.as_u64().and_then(|count| usize::try_from(count).ok())
    };
    let division = |(name, shape): (&String, &Vec<usize>)| {
        let (layer, end) = name.strip_prefix("blk.")?.split_once('.')?;
        let end = end.strip_prefix(WHOLE).filter(|end| [".weight", ".bias"].contains(end))?;
        // Values are as wide as keys, and attention's output reads one for each query head.
        let read = *tensors.get(&format!("blk.{layer}.attn_output.weight"))?.last()?;
        let heads = count("head_count", layer.parse().ok()?)?;
        let kv_heads = count("head_count_kv", layer.parse().ok()?).unwrap_or(heads);
        let keys = read.checked_div(heads)?.checked_mul(kv_heads)?;
        let queries = shape.first()?.checked_sub(keys.checked_mul(2)?)?;
        let parts = THREE.into_iter().zip([queries, keys, keys]);
        let parts = parts.map(|(part, rows)| (format!("blk.{layer}.{part}{end}"), rows)).collect();
        (queries > 0 && keys > 0).then(|| (name.clone(), parts))
    };
    Ok(tensors.iter().filter_map(division).collect())
}
