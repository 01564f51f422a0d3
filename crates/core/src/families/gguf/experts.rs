//! The same of decoders with experts.

use serde_json::json;

use super::configs::{base, biases, granite};
use super::metadata::{Metadata, Out, n_layers};
use super::{Header, scaling};
use crate::error::Result;

/// How many experts there are and how many a token goes through, under the class's keys.
fn counts(metadata: &Metadata, out: Out<'_>, all: &str, used: &str) -> Result<()> {
    out.insert(all.into(), metadata.required("expert_count")?.into());
    out.insert(used.into(), metadata.required("expert_used_count")?.into());
    Ok(())
}

/// Neurons of an expert: what its last tensor reads, whatever the file says of it.
fn neurons(header: &Header<'_>, metadata: &Metadata, out: Out<'_>, to: &str) -> Result<()> {
    let stated = metadata.size("expert_feed_forward_length")?;
    let neurons = header.columns("ffn_down_exps").or(stated);
    let neurons = neurons.ok_or_else(|| metadata.own().missing("expert_feed_forward_length"))?;
    out.insert(to.into(), neurons.into());
    Ok(())
}

/// That weights of experts are a softmax's or a sigmoid's, where the file says so.
pub(super) fn gating(metadata: &Metadata, only: f64) -> Result<()> {
    metadata.only("expert_gating_func", &[0.0, only])
}

const SOFTMAX: f64 = 1.0;
pub(super) const SIGMOID: f64 = 2.0;

pub(super) fn mixtral(metadata: &Metadata, out: Out<'_>) -> Result<()> {
    out.insert("model_type".into(), "mixtral".into());
    out.insert("architectures".into(), json!(["MixtralForCausalLM"]));
    counts(metadata, out, "num_local_experts", "num_experts_per_tok")
}

pub(super) fn qwen2moe(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.whole_heads(out)?;
    counts(metadata, out, "num_experts", "num_experts_per_tok")?;
    neurons(header, metadata, out, "moe_intermediate_size")?;
    let stated = metadata.size("expert_shared_feed_forward_length")?;
    let shared = header.rows("ffn_gate_shexp").or(stated);
    out.insert("shared_expert_intermediate_size".into(), shared.into());
    out.insert("norm_topk_prob".into(), false.into());
    dense_by_name(header, out);
    Ok(())
}

/// `mlp_only_layers`: those without a router.
fn dense_by_name(header: &Header<'_>, out: Out<'_>) {
    let dense: Vec<usize> = (0..n_layers(out)).filter(|l| header.has_in(*l, "ffn_up.weight")).collect();
    out.insert("mlp_only_layers".into(), dense.into());
    out.insert("decoder_sparse_step".into(), 1.into());
}

pub(super) fn qwen3moe(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.head_dim(out)?;
    normed_experts(header, metadata, out)
}

/// Experts whose weights are divided by their sum.
pub(super) fn normed_experts(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    counts(metadata, out, "num_experts", "num_experts_per_tok")?;
    neurons(header, metadata, out, "moe_intermediate_size")?;
    metadata.only("expert_weights_scale", &[0.0, 1.0])?;
    out.insert("norm_topk_prob".into(), true.into());
    dense_by_name(header, out);
    Ok(())
}

pub(super) fn olmoe(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.whole_heads(out)?;
    counts(metadata, out, "num_experts", "num_experts_per_tok")?;
    neurons(header, metadata, out, "intermediate_size")?;
    out.insert("norm_topk_prob".into(), false.into());
    Ok(())
}

pub(super) fn granitemoe(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    granite(header, metadata, out)?;
    out.remove("mlp_bias");
    counts(metadata, out, "num_local_experts", "num_experts_per_tok")?;
    neurons(header, metadata, out, "intermediate_size")?;
    metadata.size("expert_shared_feed_forward_length")?;
    if let Some(shared) = header.rows("ffn_gate_shexp") {
        out.insert("model_type".into(), "granitemoeshared".into());
        out.insert("architectures".into(), json!(["GraniteMoeSharedForCausalLM"]));
        out.insert("shared_intermediate_size".into(), shared.into());
    }
    Ok(())
}

pub(super) fn gpt_oss(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.head_dim(out)?;
    counts(metadata, out, "num_local_experts", "num_experts_per_tok")?;
    neurons(header, metadata, out, "intermediate_size")?;
    metadata.copy("attention.sliding_window", "sliding_window", out)?;
    metadata.window_types(2, out)?;
    // Its ramp is not cut to whole numbers of columns.
    match out.get_mut("rope_scaling") {
        Some(scaling) => scaling["truncate"] = false.into(),
        None => {
            out.insert("rope_scaling".into(), json!({"rope_type": "default"}));
        }
    }
    out.insert("attention_bias".into(), header.has("attn_q.bias").into());
    Ok(())
}

pub(super) fn glm4moe(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.part_of_head_dim(out)?;
    metadata.only("rope.dimension_sections", &[])?;
    gating(metadata, SIGMOID)?;
    shared_and_groups(header, metadata, out)?;
    out.insert("attention_bias".into(), header.has("attn_q.bias").into());
    out.insert("use_qk_norm".into(), header.has("attn_q_norm.weight").into());
    Ok(())
}

/// Experts with shared ones beside them, in groups, behind layers without.
fn shared_and_groups(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    counts(metadata, out, "n_routed_experts", "num_experts_per_tok")?;
    neurons(header, metadata, out, "moe_intermediate_size")?;
    out.insert("n_shared_experts".into(), metadata.required("expert_shared_count")?.into());
    out.insert("first_k_dense_replace".into(), metadata.count("leading_dense_block_count")?.into());
    for (from, to) in [("expert_group_count", "n_group"), ("expert_group_used_count", "topk_group")] {
        out.insert(to.into(), metadata.count(from)?.max(1).into());
    }
    out.insert("routed_scaling_factor".into(), 1.0.into());
    metadata.copy("expert_weights_scale", "routed_scaling_factor", out)?;
    let normed = metadata.flag("expert_weights_norm")?.unwrap_or(false);
    out.insert("norm_topk_prob".into(), normed.into());
    Ok(())
}

/// DeepSeek V2, and V3 where experts are chosen by corrected probabilities.
pub(super) fn deepseek2(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    metadata.decoder(header, out)?;
    let heads = out["num_attention_heads"].clone();
    out.insert("num_key_value_heads".into(), heads);
    scaling::latent(metadata, out)?;
    let turned = metadata.required("rope.dimension_count")?;
    let [key, value] = ["key_length", "value_length"].map(|width| {
        let of_all = format!("attention.{width}");
        // Newer files give here what a head reads of the compressed vectors, and its own width apart.
        let own = metadata.size(&format!("{of_all}_mla"))?;
        let width = metadata.size(&of_all)?;
        own.or(width).ok_or_else(|| metadata.own().missing(&of_all))
    });
    let own = key?.checked_sub(turned).filter(|own| *own > 0);
    let wrong = || metadata.own().wrong("attention.key_length_mla", "more than `rope.dimension_count`");
    out.insert("qk_nope_head_dim".into(), own.ok_or_else(wrong)?.into());
    out.insert("qk_rope_head_dim".into(), turned.into());
    out.insert("v_head_dim".into(), value?.into());
    out.insert("kv_lora_rank".into(), metadata.required("attention.kv_lora_rank")?.into());
    let stated = metadata.size("attention.q_lora_rank")?;
    let queries = header.rows("attn_q_a").and(stated);
    out.insert("q_lora_rank".into(), queries.into());
    shared_and_groups(header, metadata, out)?;
    if header.has("exp_probs_b.bias") {
        gating(metadata, SIGMOID)?;
        out.insert("model_type".into(), "deepseek_v3".into());
        out.insert("architectures".into(), json!(["DeepseekV3ForCausalLM"]));
        return Ok(());
    }
    gating(metadata, SOFTMAX)?;
    // The class of V2 has no norm over the weights of a token's experts.
    metadata.only_flag("expert_weights_norm", false)?;
    out.remove("norm_topk_prob");
    let limited = out["n_group"] != 1;
    out.insert("topk_method".into(), if limited { "group_limited_greedy" } else { "greedy" }.into());
    Ok(())
}

pub(super) fn minimax_m2(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.part_of_head_dim(out)?;
    out.remove("partial_rotary_factor");
    let turned = metadata.size("rope.dimension_count")?;
    if let Some(turned) = turned {
        out.insert("rotary_dim".into(), turned.into());
    }
    gating(metadata, SIGMOID)?;
    counts(metadata, out, "num_local_experts", "num_experts_per_tok")?;
    neurons(header, metadata, out, "intermediate_size")
}

pub(super) fn ernie_moe(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.whole_heads(out)?;
    counts(metadata, out, "moe_num_experts", "moe_k")?;
    neurons(header, metadata, out, "moe_intermediate_size")?;
    // A rule of the converter's, which is no tensor's width.
    metadata.ignore("expert_shared_feed_forward_length");
    out.insert("moe_num_shared_experts".into(), metadata.count("expert_shared_count")?.into());
    out.insert("moe_layer_start_index".into(), metadata.count("leading_dense_block_count")?.into());
    out.insert("moe_layer_interval".into(), metadata.count("interleave_moe_layer_step")?.max(1).into());
    biases(header, out);
    out.remove("mlp_bias");
    let bias = out.remove("attention_bias").unwrap_or_default();
    out.insert("use_bias".into(), bias);
    Ok(())
}
