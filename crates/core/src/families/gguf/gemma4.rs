//! Metadata of Gemma 4: heads, windows and neurons depend on the kind of a layer.

use serde_json::{Map, Value, json};

use super::Header;
use super::metadata::{Metadata, Out, n_layers};
use crate::error::Result;

pub(super) fn gemma4(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    for (from, to) in
        [("attention.head_count", "num_attention_heads"), ("context_length", "max_position_embeddings")]
    {
        out.insert(to.into(), metadata.required(from)?.into());
    }
    metadata.copy("attention.sliding_window", "sliding_window", out)?;
    metadata.copy("final_logit_softcapping", "final_logit_softcapping", out)?;
    metadata.window_types(6, out)?;
    out.insert("attention_bias".into(), header.has("attn_q.bias").into());
    let n = n_layers(out);
    let is_full = |kinds: &Value, layer: usize| kinds.get(layer).is_some_and(|kind| kind == "full_attention");
    let full: Vec<bool> = (0..n).map(|layer| is_full(&out["layer_types"], layer)).collect();
    let shared = metadata.count("attention.shared_kv_layers")?;
    out.insert("num_kv_shared_layers".into(), shared.into());
    let has_keys_as_values =
        |layer: usize| header.has_in(layer, "attn_k.weight") && !header.has_in(layer, "attn_v.weight");
    let of_keys = (0..n.saturating_sub(shared)).any(|layer| full[layer] && has_keys_as_values(layer));
    out.insert("attention_k_eq_v".into(), of_keys.into());
    heads(metadata, &full, out)?;
    neurons(header, metadata, shared, out)?;
    inputs(header, metadata, out)?;
    experts(header, metadata, out)?;
    rope(header, metadata, out)
}

/// Heads of sliding layers, and for each full layer its own.
fn heads(metadata: &Metadata, full: &[bool], out: Out<'_>) -> Result<()> {
    let width = |kind: &str| {
        let key = format!("attention.key_length{kind}");
        let width = metadata.required(&key)?;
        for (other, turned) in [("attention.value_length", false), ("rope.dimension_count", true)] {
            let other = format!("{other}{kind}");
            if metadata.size(&other)?.is_some_and(|size| size != width) {
                let part = if turned { "turned as a whole" } else { "of keys" };
                return Err(metadata
                    .own()
                    .unsupported(&other, &format!("{width}, the width of a head {part}")));
            }
        }
        Ok(width)
    };
    let (of_full, of_sliding) = (width("")?, width("_swa")?);
    let heads = out["num_attention_heads"].as_u64().unwrap_or(1) as usize;
    let kv = metadata.each("attention.head_count_kv", full.len())?.unwrap_or_else(|| vec![heads; full.len()]);
    let usual = full.iter().position(|full| !full).or(Some(0)).and_then(|l| kv.get(l)).copied();
    out.insert("num_key_value_heads".into(), usual.into());
    out.insert("head_dim".into(), of_sliding.into());
    let own = |(layer, _): (usize, &bool)| {
        (layer.to_string(), json!({"head_dim": of_full, "num_key_value_heads": kv[layer]}))
    };
    let own: Map<String, Value> = full.iter().enumerate().filter(|(_, full)| **full).map(own).collect();
    out.insert("per_layer_config".into(), own.into());
    Ok(())
}

/// Neurons: those of layers without keys of their own may be twice as many.
fn neurons(header: &Header<'_>, metadata: &Metadata, shared: usize, out: Out<'_>) -> Result<()> {
    let n = n_layers(out);
    let stated = metadata.each("feed_forward_length", n)?;
    let of = |layer: usize| {
        header.rows_in(layer, "ffn_gate").or_else(|| stated.as_ref().and_then(|all| all.get(layer).copied()))
    };
    let first = of(0).ok_or_else(|| metadata.own().missing("feed_forward_length"))?;
    out.insert("intermediate_size".into(), first.into());
    let doubles = shared > 0 && shared < n && of(n - 1) == Some(2 * first);
    out.insert("use_double_wide_mlp".into(), doubles.into());
    Ok(())
}

/// Additional inputs of layers.
fn inputs(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    let width = metadata.count("embedding_length_per_layer_input")?;
    out.insert("hidden_size_per_layer_input".into(), width.into());
    if let Some([rows, _]) = header.tensors.get("per_layer_token_embd.weight").map(Vec::as_slice) {
        out.insert("vocab_size_per_layer_input".into(), (*rows).into());
    }
    Ok(())
}

/// Experts beside the MLP.
fn experts(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    let has_experts = header.has("ffn_gate_inp.weight");
    out.insert("enable_moe_block".into(), has_experts.into());
    let stated = metadata.count("expert_feed_forward_length")?;
    let (count, used) = (metadata.count("expert_count")?, metadata.count("expert_used_count")?);
    if has_experts {
        out.insert("num_experts".into(), count.into());
        out.insert("top_k_experts".into(), used.into());
        out.insert("moe_intermediate_size".into(), header.columns("ffn_down_exps").unwrap_or(stated).into());
    }
    Ok(())
}

/// Full layers turn the first pairs of a head: those whose divisor is 1. The others have one that stands for infinity
/// (llama.cpp's converter, `Gemma4Model.generate_extra_tensors`).
fn rope(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    const STILL: f32 = 1e30;
    let divisors = header.rope_divisors.unwrap_or_default();
    let turned = divisors.iter().take_while(|divisor| **divisor == 1.0).count();
    if turned == 0 || divisors[turned..].iter().any(|divisor| *divisor < STILL) {
        return Err(super::unsupported("tensor `rope_freqs.weight` of gemma4 is not some ones, then 1e30"));
    }
    let mut part = turned as f64 / divisors.len() as f64;
    if ((part * divisors.len() as f64) as usize) < turned {
        part = part.next_up();
    }
    let theta = metadata.number("rope.freq_base")?.unwrap_or_else(|| 10_000.0.into());
    let sliding = metadata.number("rope.freq_base_swa")?.unwrap_or_else(|| theta.clone());
    let full = json!({"rope_type": "proportional", "partial_rotary_factor": part, "rope_theta": theta});
    let sliding = json!({"rope_type": "default", "rope_theta": sliding});
    out.insert("rope_parameters".into(), json!({"full_attention": full, "sliding_attention": sliding}));
    Ok(())
}

/// Whether divisors of frequencies became a part of a config.
pub(super) fn has_divisors(config: &Map<String, Value>) -> bool {
    config.get("rope_parameters").is_some_and(|rope| rope["full_attention"]["rope_type"] == "proportional")
}
