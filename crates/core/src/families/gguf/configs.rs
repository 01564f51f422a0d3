//! What the metadata of each architecture says beyond the common keys, as a config of transformers: dense decoders.

use serde_json::{Map, Value, json};

use super::Header;
use super::metadata::{Metadata, Out, n_layers};
use super::scaling;
use crate::error::Result;

pub(super) use super::experts::*;
pub(super) use super::gemma4::gemma4;
pub(super) use super::recurrences::*;

/// Keys of a decoder whose rotary embedding may be scaled.
pub(super) fn base(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    metadata.decoder(header, out)?;
    scaling::any(header, metadata, out)
}

/// Whether projections have biases, by what the file has: attention's under `attention_bias`, the MLP's under `mlp_bias`.
pub(super) fn biases(header: &Header<'_>, out: Out<'_>) {
    out.insert("attention_bias".into(), header.has("attn_q.bias").into());
    out.insert("mlp_bias".into(), header.has("ffn_up.bias").into());
}

/// Gives keys the names that the class has for them.
fn rename<const N: usize>(out: Out<'_>, names: [(&str, &str); N]) {
    for (from, to) in names {
        if let Some(value) = out.remove(from) {
            out.insert(to.into(), value);
        }
    }
}

/// Takes away keys that the class does not have, of a decoder without a rotary embedding.
fn without<const N: usize>(out: Out<'_>, keys: [&str; N]) {
    for key in keys {
        out.remove(key);
    }
}

pub(super) fn llama(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.head_dim(out)?;
    // Expert counts stand in dense files too, as zero.
    if metadata.count("expert_count")? > 0 {
        return mixtral(metadata, out);
    }
    metadata.only("expert_used_count", &[0.0])?;
    biases(header, out);
    Ok(())
}

/// Ministral 3, whose queries grow with their position; without that it is Mistral's decoder.
pub(super) fn mistral3(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    let growth = metadata.number("attention.temperature_scale")?.filter(|beta| beta.as_f64() != Some(0.0));
    let Some(growth) = growth else {
        out.insert("model_type".into(), "llama".into());
        out.insert("architectures".into(), json!(["LlamaForCausalLM"]));
        return llama(header, metadata, out);
    };
    metadata.decoder(header, out)?;
    metadata.head_dim(out)?;
    scaling::scaling(metadata, out)?;
    let all = metadata.number("rope.scaling.yarn_log_multiplier")?;
    let Some(object) = out.get_mut("rope_scaling").filter(|object| object["rope_type"] == "yarn") else {
        return Err(metadata
            .own()
            .unsupported("rope.scaling.type", "yarn beside `attention.temperature_scale`"));
    };
    object["llama_4_scaling_beta"] = growth;
    if let Some(all) = all {
        // llama.cpp takes the other factor for 1.
        object["mscale"] = 1.0.into();
        object["mscale_all_dim"] = all;
    }
    Ok(())
}

pub(super) fn qwen(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.head_dim(out)
}

pub(super) fn gemma(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    metadata.decoder(header, out)?;
    metadata.head_dim(out)
}

/// Layers of the 27B models, whose scores are scaled by the stream's width over the heads rather than by the
/// head's; the files do not say so (llama.cpp, `llama-model.cpp`, `f_attention_scale`).
const LAYERS_OF_GEMMA2_27B: usize = 46;
const LAYERS_OF_GEMMA3_27B: usize = 62;

pub(super) fn gemma2(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    gemma(header, metadata, out)?;
    metadata.query_scalar(out, LAYERS_OF_GEMMA2_27B);
    metadata.copy("attention.sliding_window", "sliding_window", out)?;
    metadata.copy("attn_logit_softcapping", "attn_logit_softcapping", out)?;
    metadata.copy("final_logit_softcapping", "final_logit_softcapping", out)
}

pub(super) fn gemma3(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    gemma(header, metadata, out)?;
    metadata.query_scalar(out, LAYERS_OF_GEMMA3_27B);
    metadata.copy("attention.sliding_window", "sliding_window", out)?;
    metadata.copy("final_logit_softcapping", "final_logit_softcapping", out)?;
    // Files without these two mean the class's defaults, 10000 and 6.
    metadata.copy("rope.freq_base_swa", "rope_local_base_freq", out)?;
    metadata.window_pattern(out)?;
    // About the full layers alone, as `rope_scaling` is in this family.
    scaling::scaling(metadata, out)
}

pub(super) fn phi2(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.part_of_head("partial_rotary_factor", out)
}

pub(super) fn phi3(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    metadata.decoder(header, out)?;
    metadata.part_of_head("partial_rotary_factor", out)?;
    let original = metadata.size("rope.scaling.original_context_length")?;
    if let Some(original) = original {
        out.insert("original_max_position_embeddings".into(), original.into());
    }
    // Zero is none.
    let window = Some(metadata.count("attention.sliding_window")?).filter(|window| *window > 0);
    out.insert("sliding_window".into(), window.into());
    scaling::long(header, metadata, out)
}

pub(super) fn gpt2(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    metadata.decoder(header, out)?;
    metadata.whole_heads(out)?;
    without(out, ["rope_theta", "num_key_value_heads"]);
    rename(
        out,
        [
            ("hidden_size", "n_embd"),
            ("num_hidden_layers", "n_layer"),
            ("num_attention_heads", "n_head"),
            ("intermediate_size", "n_inner"),
            ("max_position_embeddings", "n_positions"),
        ],
    );
    Ok(())
}

pub(super) fn starcoder(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    // One key for all queries is the one layout that llama.cpp writes.
    metadata.only("attention.head_count_kv", &[1.0])?;
    gpt2(header, metadata, out)?;
    out.insert("multi_query".into(), true.into());
    Ok(())
}

pub(super) fn starcoder2(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.whole_heads(out)?;
    out.insert("use_bias".into(), header.has("attn_q.bias").into());
    Ok(())
}

pub(super) fn gptneox(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    metadata.decoder(header, out)?;
    metadata.part_of_head("rotary_pct", out)?;
    without(out, ["num_key_value_heads"]);
    rename(out, [("rope_theta", "rotary_emb_base")]);
    let parallel = metadata.flag("use_parallel_residual")?.unwrap_or(true);
    out.insert("use_parallel_residual".into(), parallel.into());
    out.insert("attention_bias".into(), header.has("attn_qkv.bias").into());
    Ok(())
}

pub(super) fn bloom(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    metadata.decoder(header, out)?;
    metadata.whole_heads(out)?;
    four_neurons_a_column(metadata, out)?;
    without(out, ["rope_theta", "num_key_value_heads", "intermediate_size"]);
    rename(
        out,
        [
            ("num_hidden_layers", "n_layer"),
            ("num_attention_heads", "n_head"),
            ("max_position_embeddings", "seq_length"),
        ],
    );
    Ok(())
}

/// For classes whose MLP has four neurons for each column of the stream.
fn four_neurons_a_column(metadata: &Metadata, out: Out<'_>) -> Result<()> {
    let size = |key: &str| out.get(key).and_then(Value::as_u64).unwrap_or(0);
    if size("intermediate_size") == 4 * size("hidden_size") {
        return Ok(());
    }
    Err(metadata.own().unsupported("feed_forward_length", "four times `embedding_length`"))
}

pub(super) fn mpt(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    metadata.decoder(header, out)?;
    metadata.whole_heads(out)?;
    four_neurons_a_column(metadata, out)?;
    if out.get("num_key_value_heads") != out.get("num_attention_heads") {
        return Err(metadata
            .own()
            .unsupported("attention.head_count_kv", "as many as `attention.head_count`"));
    }
    // The class's own; llama.cpp takes an absent key for no biases at all.
    let largest = metadata.number("attention.max_alibi_bias")?.and_then(|bias| bias.as_f64());
    if largest != Some(8.0) {
        return Err(metadata.own().unsupported("attention.max_alibi_bias", "8"));
    }
    let mut attention = Map::new();
    metadata.copy("attention.clamp_kqv", "clip_qkv", &mut attention)?;
    out.insert("attn_config".into(), attention.into());
    without(out, ["rope_theta", "num_key_value_heads", "intermediate_size"]);
    rename(
        out,
        [
            ("hidden_size", "d_model"),
            ("num_hidden_layers", "n_layers"),
            ("num_attention_heads", "n_heads"),
            ("max_position_embeddings", "max_seq_len"),
        ],
    );
    Ok(())
}

/// The three packings of queries, keys and values are one in the file; the norms of a layer say which wiring it is.
pub(super) fn falcon(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    // Files of the first converter say how they order queries, keys and values.
    match metadata.text("tensor_data_layout")? {
        None | Some("jploski") => {}
        Some(_) => return Err(metadata.own().unsupported("tensor_data_layout", "jploski")),
    }
    metadata.decoder(header, out)?;
    metadata.whole_heads(out)?;
    let keys = out.get("num_key_value_heads").and_then(Value::as_u64).unwrap_or(1);
    let two_norms = header.has("attn_norm_2.weight");
    out.insert("new_decoder_architecture".into(), (two_norms || keys > 1).into());
    out.insert("num_ln_in_parallel_attn".into(), if two_norms { 2 } else { 1 }.into());
    out.insert("multi_query".into(), true.into());
    out.insert("parallel_attn".into(), true.into());
    out.insert("alibi".into(), false.into());
    out.insert("bias".into(), header.has("attn_qkv.bias").into());
    rename(out, [("num_key_value_heads", "num_kv_heads"), ("intermediate_size", "ffn_hidden_size")]);
    Ok(())
}

pub(super) fn stablelm(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.part_of_head("partial_rotary_factor", out)?;
    out.insert("use_qkv_bias".into(), header.has("attn_q.bias").into());
    out.insert("qk_layernorm".into(), header.has("attn_q_norm.weight").into());
    // A parallel layer reads one norm, whatever the key says (llama.cpp goes by the tensor too).
    metadata.flag("use_parallel_residual")?;
    out.insert("use_parallel_residual".into(), (!header.has("ffn_norm.weight")).into());
    Ok(())
}

pub(super) fn olmo(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.whole_heads(out)?;
    // The class's own.
    metadata.only("attention.layer_norm_epsilon", &[f64::from(1e-5_f32), 1e-5])?;
    metadata.copy("attention.clamp_kqv", "clip_qkv", out)
}

/// OLMo 3 is the same with windows.
pub(super) fn olmo2(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    metadata.decoder(header, out)?;
    metadata.whole_heads(out)?;
    let window = metadata.count("attention.sliding_window")?;
    if window == 0 {
        return scaling::any(header, metadata, out);
    }
    out.insert("model_type".into(), "olmo3".into());
    out.insert("architectures".into(), json!(["Olmo3ForCausalLM"]));
    out.insert("sliding_window".into(), window.into());
    metadata.window_types(4, out)?;
    // Sliding layers turn by a table of their own, which is never scaled (llama.cpp, `olmo2.cpp`).
    scaling::scaling(metadata, out)?;
    let theta = out.remove("rope_theta").unwrap_or_default();
    let sliding = metadata.number("rope.freq_base_swa")?.unwrap_or_else(|| theta.clone());
    let mut full = out.remove("rope_scaling").unwrap_or_else(|| json!({"rope_type": "default"}));
    full["rope_theta"] = theta;
    let sliding = json!({"rope_type": "default", "rope_theta": sliding});
    out.insert("rope_parameters".into(), json!({"full_attention": full, "sliding_attention": sliding}));
    Ok(())
}

pub(super) fn command_r(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.whole_heads(out)?;
    metadata.copy("logit_scale", "logit_scale", out)?;
    out.insert("use_qk_norm".into(), header.has("attn_q_norm.weight").into());
    out.insert("attention_bias".into(), header.has("attn_q.bias").into());
    Ok(())
}

pub(super) fn cohere2(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.head_dim(out)?;
    metadata.copy("logit_scale", "logit_scale", out)?;
    metadata.copy("attention.sliding_window", "sliding_window", out)?;
    out.insert("attention_bias".into(), header.has("attn_q.bias").into());
    metadata.window_types(4, out)
}

pub(super) fn granite(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.head_dim(out)?;
    out.remove("head_dim");
    metadata.only("rope.scaling.finetuned", &[])?;
    multipliers(metadata, out)?;
    biases(header, out);
    Ok(())
}

/// Factors of Granite. A file without that of scores would mean another one to llama.cpp than to the class.
pub(super) fn multipliers(metadata: &Metadata, out: Out<'_>) -> Result<()> {
    for (from, to) in [
        ("attention.scale", "attention_multiplier"),
        ("embedding_scale", "embedding_multiplier"),
        ("residual_scale", "residual_multiplier"),
        ("logit_scale", "logits_scaling"),
    ] {
        metadata.copy(from, to, out)?;
    }
    if out.contains_key("attention_multiplier") {
        return Ok(());
    }
    Err(metadata.own().missing("attention.scale"))
}

/// GLM and GLM 4.
pub(super) fn glm(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.part_of_head_dim(out)?;
    // The file has gates and neurons in one.
    metadata.only("rope.dimension_sections", &[])?;
    out.insert("attention_bias".into(), header.has("attn_q.bias").into());
    Ok(())
}

pub(super) fn ernie(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.head_dim(out)?;
    out.insert("use_bias".into(), header.has("attn_q.bias").into());
    Ok(())
}

pub(super) fn exaone4(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.head_dim(out)?;
    let window = Some(metadata.count("attention.sliding_window")?).filter(|window| *window > 0);
    out.insert("sliding_window".into(), window.into());
    match window {
        Some(_) => metadata.window_types(4, out),
        None => {
            metadata.ignore("attention.sliding_window_pattern");
            out.insert("layer_types".into(), vec!["full_attention"; n_layers(out)].into());
            Ok(())
        }
    }
}

pub(super) fn hunyuan(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    // The base holds the scaling already.
    metadata.only("rope.scaling.factor", &[1.0])?;
    metadata.ignore("rope.scaling.original_context_length");
    base(header, metadata, out)?;
    metadata.head_dim(out)?;
    out.insert("attention_bias".into(), header.has("attn_q.bias").into());
    Ok(())
}

/// Every fourth layer does not turn, which the files do not say (llama.cpp, `n_no_rope_layer_step`).
pub(super) fn smollm3(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.whole_heads(out)?;
    biases(header, out);
    out.insert("no_rope_layer_interval".into(), 4.into());
    Ok(())
}

pub(super) fn apertus(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.head_dim(out)?;
    // A file without scaling means none, not the class's own.
    out.entry("rope_scaling").or_insert_with(|| json!({"rope_type": "default"}));
    out.insert("attention_bias".into(), header.has("attn_q.bias").into());
    Ok(())
}

pub(super) fn arcee(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.head_dim(out)?;
    biases(header, out);
    Ok(())
}

pub(super) fn seed_oss(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    arcee(header, metadata, out)?;
    out.insert("attention_out_bias".into(), header.has("attn_output.bias").into());
    Ok(())
}

pub(super) fn nemotron(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.part_of_head_dim(out)?;
    biases(header, out);
    Ok(())
}
