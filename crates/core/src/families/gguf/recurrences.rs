//! The same of decoders with recurrences.

use serde_json::{Map, Value, json};

use super::Header;
use super::configs::{base, multipliers};
use super::experts::{SIGMOID, gating, normed_experts};
use super::metadata::{Metadata, Out, layer_types, n_layers};
use crate::error::Result;

/// Sizes of a state space under the class's keys; what it has of them.
struct Space {
    inner: usize,
    heads: usize,
}

impl Space {
    fn read(metadata: &Metadata, out: Out<'_>, [size, kernel]: [&str; 2]) -> Result<Self> {
        out.insert(size.into(), metadata.required("ssm.state_size")?.into());
        out.insert(kernel.into(), metadata.required("ssm.conv_kernel")?.into());
        let (inner, heads) = (metadata.required("ssm.inner_size")?, metadata.required("ssm.time_step_rank")?);
        Ok(Space { inner, heads })
    }

    /// Width of a head.
    fn d_head(&self, metadata: &Metadata) -> Result<usize> {
        let fits = self.inner.is_multiple_of(self.heads);
        let wrong = || metadata.own().wrong("ssm.time_step_rank", "a divisor of `ssm.inner_size`");
        if fits { Ok(self.inner / self.heads) } else { Err(wrong()) }
    }

    /// How many times as wide as the stream it is.
    fn expansion(&self, out: &Map<String, Value>) -> Value {
        let width = out.get("hidden_size").and_then(Value::as_u64).unwrap_or(1);
        let inner = self.inner as u64;
        if inner.is_multiple_of(width) {
            (inner / width).into()
        } else {
            (inner as f64 / width as f64).into()
        }
    }
}

/// Keys that llama.cpp wants of every model and that say nothing of one without attention.
fn without_attention(metadata: &Metadata) {
    for key in ["context_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv"] {
        metadata.ignore(key);
    }
}

pub(super) fn mamba(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    without_attention(metadata);
    let space = Space::read(metadata, out, ["state_size", "conv_kernel"])?;
    if metadata.flag("ssm.dt_b_c_rms")? == Some(true) {
        // Their epsilon is the class's, which the files do not say.
        out.insert("model_type".into(), "falcon_mamba".into());
        out.insert("architectures".into(), json!(["FalconMambaForCausalLM"]));
    }
    out.insert("intermediate_size".into(), space.inner.into());
    out.insert("time_step_rank".into(), space.heads.into());
    out.insert("expand".into(), space.expansion(out));
    out.insert("use_bias".into(), header.has("ssm_in.bias").into());
    out.insert("use_conv_bias".into(), header.has("ssm_conv1d.bias").into());
    Ok(())
}

pub(super) fn mamba2(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    without_attention(metadata);
    let space = Space::read(metadata, out, ["state_size", "conv_kernel"])?;
    out.insert("num_heads".into(), space.heads.into());
    out.insert("head_dim".into(), space.d_head(metadata)?.into());
    out.insert("n_groups".into(), metadata.required("ssm.group_count")?.into());
    out.insert("expand".into(), space.expansion(out));
    out.insert("use_bias".into(), header.has("ssm_in.bias").into());
    out.insert("use_conv_bias".into(), header.has("ssm_conv1d.bias").into());
    Ok(())
}

/// A state space of heads, as Granite's and Falcon's classes name its sizes.
fn prefixed(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<Space> {
    let space = Space::read(metadata, out, ["mamba_d_state", "mamba_d_conv"])?;
    out.insert("mamba_n_heads".into(), space.heads.into());
    out.insert("mamba_d_head".into(), space.d_head(metadata)?.into());
    out.insert("mamba_n_groups".into(), metadata.required("ssm.group_count")?.into());
    out.insert("mamba_expand".into(), space.expansion(out));
    out.insert("mamba_conv_bias".into(), header.has("ssm_conv1d.bias").into());
    out.insert("mamba_proj_bias".into(), header.has("ssm_in.bias").into());
    Ok(space)
}

pub(super) fn granitehybrid(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    // Whether it turns: the key's meaning in these files.
    let turns = metadata.flag("rope.scaling.finetuned")?.unwrap_or(true);
    base(header, metadata, out)?;
    metadata.head_dim(out)?;
    out.remove("head_dim");
    multipliers(metadata, out)?;
    prefixed(header, metadata, out)?;
    out.insert("position_embedding_type".into(), if turns { json!("rope") } else { Value::Null });
    // A layer is a state space where it has no keys.
    layer_types(out, ["attention", "mamba"], |l| header.has_in(l, "attn_k.weight"));
    if let Some(keys) = header.rows("attn_k") {
        let size = |key: &str| out.get(key).and_then(Value::as_u64).unwrap_or(1);
        let width = size("hidden_size") / size("num_attention_heads").max(1);
        out.insert("num_key_value_heads".into(), (keys as u64 / width.max(1)).into());
    }
    let experts = metadata.count("expert_count")?;
    out.insert("num_local_experts".into(), experts.into());
    out.insert("num_experts_per_tok".into(), metadata.count("expert_used_count")?.into());
    metadata.count("expert_shared_feed_forward_length")?;
    let shared = if experts > 0 { "ffn_gate_shexp" } else { "ffn_gate" };
    out.insert("shared_intermediate_size".into(), header.rows(shared).into());
    if let Some(neurons) = header.rows("ffn_gate_exps") {
        out.insert("intermediate_size".into(), neurons.into());
    }
    out.insert("attention_bias".into(), header.has("attn_q.bias").into());
    Ok(())
}

/// The converter multiplies every factor into the weights.
pub(super) fn falcon_h1(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.head_dim(out)?;
    let space = prefixed(header, metadata, out)?;
    out.insert("mamba_d_ssm".into(), space.inner.into());
    out.insert("mamba_rms_norm".into(), header.has("ssm_norm.weight").into());
    out.insert("mamba_norm_before_gate".into(), false.into());
    out.insert("projectors_bias".into(), header.has("ssm_out.bias").into());
    for key in [
        "attention_in_multiplier",
        "attention_out_multiplier",
        "embedding_multiplier",
        "key_multiplier",
        "lm_head_multiplier",
        "ssm_in_multiplier",
        "ssm_out_multiplier",
    ] {
        out.insert(key.into(), 1.0.into());
    }
    out.insert("mlp_multipliers".into(), json!([1.0, 1.0]));
    out.insert("ssm_multipliers".into(), json!([1.0, 1.0, 1.0, 1.0, 1.0]));
    Ok(())
}

pub(super) fn lfm2(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.whole_heads(out)?;
    metadata.only("attention.sliding_window", &[0.0])?;
    out.insert("block_auto_adjust_ff_dim".into(), false.into());
    out.insert("conv_L_cache".into(), metadata.required("shortconv.l_cache")?.into());
    out.insert("conv_bias".into(), header.has("shortconv.in_proj.bias").into());
    let attends = metadata.layers_with("attention.head_count_kv");
    let attends = attends.ok_or_else(|| {
        metadata.own().wrong("attention.head_count_kv", "a number for each layer, 0 for convolutions")
    })?;
    let kind = |attends: bool| if attends { "full_attention" } else { "conv" };
    out.insert("layer_types".into(), attends.into_iter().map(kind).collect());
    Ok(())
}

pub(super) fn qwen3next(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.part_of_head_dim(out)?;
    normed_experts(header, metadata, out)?;
    let stated = metadata.size("expert_shared_feed_forward_length")?;
    out.insert("shared_expert_intermediate_size".into(), header.rows("ffn_gate_shexp").or(stated).into());
    delta(header, metadata, out)
}

/// Qwen3.5; its three kinds of positions are one in a text.
pub(super) fn qwen35(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    base(header, metadata, out)?;
    metadata.part_of_head_dim(out)?;
    metadata.ignore("rope.dimension_sections");
    delta(header, metadata, out)
}

/// The same with experts.
pub(super) fn qwen35moe(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    qwen35(header, metadata, out)?;
    normed_experts(header, metadata, out)?;
    for key in ["intermediate_size", "mlp_only_layers", "decoder_sparse_step"] {
        out.remove(key);
    }
    let stated = metadata.size("expert_shared_feed_forward_length")?;
    out.insert("shared_expert_intermediate_size".into(), header.rows("ffn_gate_shexp").or(stated).into());
    Ok(())
}

/// A gated delta rule in most layers.
fn delta(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    let space = Space::read(metadata, out, ["linear_key_head_dim", "linear_conv_kernel_dim"])?;
    out.insert("linear_num_key_heads".into(), metadata.required("ssm.group_count")?.into());
    out.insert("linear_num_value_heads".into(), space.heads.into());
    out.insert("linear_value_head_dim".into(), space.d_head(metadata)?.into());
    // Both keys say which layers attend; the tensors do too, and count.
    metadata.ignore("full_attention_interval");
    metadata.ignore("attention.recurrent_layers");
    layer_types(out, ["full_attention", "linear_attention"], |l| header.has_in(l, "attn_k.weight"));
    Ok(())
}

/// One part a layer, which its tensors tell; nothing turns.
pub(super) fn nemotron_h(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    for key in ["rope.dimension_count", "rope.freq_base", "rope.scaling.finetuned"] {
        metadata.ignore(key);
    }
    for (from, to) in [
        ("attention.head_count", "num_attention_heads"),
        ("attention.key_length", "head_dim"),
        ("context_length", "max_position_embeddings"),
    ] {
        out.insert(to.into(), metadata.required(from)?.into());
    }
    let width = out["head_dim"].clone();
    if metadata.size("attention.value_length")?.is_some_and(|own| width != own) {
        return Err(metadata.own().unsupported("attention.value_length", "that of keys"));
    }
    let kv = metadata.size_of_some("attention.head_count_kv")?;
    out.insert(
        "num_key_value_heads".into(),
        kv.map_or_else(|| out["num_attention_heads"].clone(), Value::from),
    );
    let space = Space::read(metadata, out, ["ssm_state_size", "conv_kernel"])?;
    out.insert("mamba_num_heads".into(), space.heads.into());
    out.insert("mamba_head_dim".into(), space.d_head(metadata)?.into());
    out.insert("n_groups".into(), metadata.required("ssm.group_count")?.into());
    out.insert("use_conv_bias".into(), header.has("ssm_conv1d.bias").into());
    out.insert("use_bias".into(), header.has("ssm_in.bias").into());
    out.insert("mlp_bias".into(), (header.has("ffn_up.bias") || header.has("ffn_up_shexp.bias")).into());
    let kind = |layer: usize| {
        let has = |module: &str| header.has_in(layer, &format!("{module}.weight"));
        match () {
            () if has("ssm_in") => "linear_attention",
            () if has("attn_q") => "full_attention",
            () if has("ffn_gate_inp") => "moe",
            () => "mlp",
        }
    };
    out.insert("layers_block_type".into(), (0..n_layers(out)).map(kind).collect());
    let stated = metadata.size_of_some("feed_forward_length")?;
    if let Some(neurons) = header.rows("ffn_up").or(stated) {
        out.insert("intermediate_size".into(), neurons.into());
    }
    squared_experts(header, metadata, out)
}

/// Experts without gates.
fn squared_experts(header: &Header<'_>, metadata: &Metadata, out: Out<'_>) -> Result<()> {
    gating(metadata, SIGMOID)?;
    let (count, used) = (metadata.count("expert_count")?, metadata.count("expert_used_count")?);
    let stated = metadata.count("expert_feed_forward_length")?;
    let shared = metadata.count("expert_shared_feed_forward_length")?;
    let (groups, kept) = (metadata.count("expert_group_count")?, metadata.count("expert_group_used_count")?);
    let beside = metadata.count("expert_shared_count")?;
    let normed = metadata.flag("expert_weights_norm")?.unwrap_or(false);
    let scale = metadata.number("expert_weights_scale")?;
    let latent = metadata.size("moe_latent_size")?;
    // Files without experts may count some.
    if !header.has("ffn_gate_inp.weight") {
        return Ok(());
    }
    for (key, size) in [
        ("n_routed_experts", count),
        ("num_experts_per_tok", used),
        ("moe_intermediate_size", header.rows("ffn_up_exps").unwrap_or(stated)),
        ("moe_shared_expert_intermediate_size", header.rows("ffn_up_shexp").unwrap_or(shared)),
        ("n_shared_experts", beside.max(1)),
        ("n_group", groups.max(1)),
        ("topk_group", kept.max(1)),
    ] {
        out.insert(key.into(), size.into());
    }
    out.insert("norm_topk_prob".into(), normed.into());
    out.insert("routed_scaling_factor".into(), scale.unwrap_or_else(|| 1.0.into()));
    if let Some(latent) = latent {
        out.insert("moe_latent_size".into(), latent.into());
    }
    Ok(())
}
