//! Rotary scaling in GGUF files.

use serde_json::{Map, Value, json};

use super::Header;
use super::metadata::{Metadata, shortest};
use crate::error::Result;

/// Writes `rope_scaling` from the keys `rope.scaling.*`, or from divisors of the frequencies.
pub(super) fn any(header: &Header<'_>, metadata: &Metadata, out: &mut Map<String, Value>) -> Result<()> {
    match header.rope_divisors {
        None => scaling(metadata, out),
        Some(list) => divisors(metadata, list, out),
    }
}

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
            metadata.only("rope.scaling.yarn_ext_factor", &[1.0, -1.0])?;
            let mut object =
                json!({"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original});
            for (from, to) in [
                ("yarn_attn_factor", "attention_factor"),
                ("yarn_beta_fast", "beta_fast"),
                ("yarn_beta_slow", "beta_slow"),
            ] {
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

/// Writes `rope_scaling` from `rope_factors_short.weight` and `rope_factors_long.weight`, where the file has them
/// (LongRoPE).
pub(super) fn long(header: &Header<'_>, metadata: &Metadata, out: &mut Map<String, Value>) -> Result<()> {
    let Some([short, long]) = header.rope_factors else { return scaling(metadata, out) };
    let key = "rope.scaling.type";
    if metadata.text(key)?.is_some_and(|kind| kind != "longrope") {
        return Err(metadata.own().unsupported(key, "longrope beside tensors `rope_factors_*.weight`"));
    }
    metadata.ignore("rope.scaling.finetuned");
    let list = |factors: &[f32]| factors.iter().map(|f| shortest(f64::from(*f))).collect::<Vec<f64>>();
    let original = "original_max_position_embeddings";
    let original =
        out.get(original).ok_or_else(|| metadata.own().missing("rope.scaling.original_context_length"))?;
    let mut object = json!({
        "rope_type": "longrope",
        "short_factor": list(short),
        "long_factor": list(long),
        "original_max_position_embeddings": original,
    });
    if let Some(factor) = metadata.number("rope.scaling.attn_factor")? {
        object["attention_factor"] = factor;
    }
    out.insert("rope_scaling".into(), object);
    Ok(())
}

/// Writes `rope_scaling` of compressed keys: their scores grow with the stretch, by a tenth of a factor that the file has
/// (llama.cpp, `TAG_DEEPSEEK2_YARN_LOG_MUL_FIX`).
pub(super) fn latent(metadata: &Metadata, out: &mut Map<String, Value>) -> Result<()> {
    scaling(metadata, out)?;
    let tenth = metadata.own().optional_number("rope.scaling.yarn_log_multiplier")?;
    if let (Some(object), Some(tenth)) = (out.get_mut("rope_scaling"), tenth) {
        let factor = shortest(f64::from((shortest(tenth) * 10.0) as f32));
        // Both, so that cosines and sines stay as they are: the releases' two factors are one.
        object["mscale"] = factor.into();
        object["mscale_all_dim"] = factor.into();
    }
    Ok(())
}
