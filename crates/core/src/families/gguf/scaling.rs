//! Rotary scaling in GGUF files.

use serde_json::{Map, Value, json};

use super::metadata::{Metadata, shortest};
use crate::error::Result;

/// Writes `rope_scaling` from the keys `rope.scaling.*`.
pub(super) fn scaling(metadata: &Metadata, out: &mut Map<String, Value>) -> Result<()> {
    // Whether the model was trained with the scaling; it is applied either way.
    metadata.ignore("rope.scaling.finetuned");
    // A key of the oldest files, without effect at 1.
    metadata.only("rope.scale_linear", &[1.0])?;
    let factor = metadata.number("rope.scaling.factor")?;
    let original = metadata.size("rope.scaling.original_context_length")?;
    let key = "rope.scaling.type";
    let object = match metadata.text(key)? {
        None => {
            metadata.only("rope.scaling.factor", &[0.0, 1.0])?;
            return Ok(());
        }
        Some("none") => return Ok(()),
        Some("linear") => {
            let factor = factor.ok_or_else(|| metadata.own().missing("rope.scaling.factor"))?;
            json!({"rope_type": "linear", "factor": factor})
        }
        Some("yarn") => {
            let factor = factor.ok_or_else(|| metadata.own().missing("rope.scaling.factor"))?;
            let original =
                original.ok_or_else(|| metadata.own().missing("rope.scaling.original_context_length"))?;
            metadata.only("rope.scaling.attn_factor", &[1.0])?;
            let mut object =
                json!({"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original});
            for (from, to) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
                if let Some(number) = metadata.number(&format!("rope.scaling.{from}"))? {
                    object[to] = number;
                }
            }
            object
        }
        Some(_) => return Err(metadata.own().unsupported(key, "none, linear, yarn")),
    };
    out.insert("rope_scaling".into(), object);
    Ok(())
}

/// Writes `rope_scaling` from `rope_freqs.weight`: divisors of the frequencies, one per pair of columns, which
/// llama.cpp's converter computes for the rope type `llama3`. LongRoPE with the same divisors for short and long rows,
/// and no factor on cos and sin, is exactly that.
pub(super) fn divisors(metadata: &Metadata, divisors: &[f32], out: &mut Map<String, Value>) -> Result<()> {
    let mut other = Map::new();
    scaling(metadata, &mut other)?;
    if !other.is_empty() {
        return Err(metadata
            .own()
            .unsupported("rope.scaling.type", "none beside a tensor `rope_freqs.weight`"));
    }
    let list: Vec<f64> = divisors.iter().map(|d| shortest(f64::from(*d))).collect();
    let context = out.get("max_position_embeddings").cloned().unwrap_or(Value::Null);
    out.insert(
        "rope_scaling".into(),
        json!({
            "rope_type": "longrope",
            "short_factor": list,
            "long_factor": list,
            "original_max_position_embeddings": context,
            "attention_factor": 1.0,
        }),
    );
    Ok(())
}
