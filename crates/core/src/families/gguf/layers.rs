//! Names of the modules of a layer that several architectures share: those of the file, and those of the checkpoint.

use super::rules::{How, Rule};

pub(super) const fn rule(theirs: &'static str, ours: &'static str, how: How) -> Rule {
    Rule { theirs, ours, how }
}

pub(super) const fn same(theirs: &'static str, ours: &'static str) -> Rule {
    rule(theirs, ours, How::Same)
}

/// Outside the layers, as most.
pub(super) const OUTSIDE: &[Rule] =
    &[same("token_embd", "model.embed_tokens"), same("output_norm", "model.norm"), same("output", "lm_head")];

pub(super) const OUTSIDE_PLUS_ONE: &[Rule] = &[
    same("token_embd", "model.embed_tokens"),
    rule("output_norm", "model.norm", How::PlusOne),
    same("output", "lm_head"),
];

pub(super) const FINAL_LAYERNORM: &[Rule] = &[
    same("token_embd", "model.embed_tokens"),
    same("output_norm", "model.final_layernorm"),
    same("output", "lm_head"),
];

/// GPT-2 and what took over its names.
pub(super) const OUTSIDE_GPT2: &[Rule] = &[
    same("token_embd", "transformer.wte"),
    same("position_embd", "transformer.wpe"),
    same("output_norm", "transformer.ln_f"),
    same("output", "lm_head"),
];

pub(super) const OUTSIDE_FALCON: &[Rule] = &[
    same("token_embd", "transformer.word_embeddings"),
    same("token_embd_norm", "transformer.word_embeddings_layernorm"),
    same("output_norm", "transformer.ln_f"),
    same("output", "lm_head"),
];

pub(super) const OUTSIDE_MPT: &[Rule] = &[
    same("token_embd", "transformer.wte"),
    same("output_norm", "transformer.norm_f"),
    same("output", "lm_head"),
];

pub(super) const OUTSIDE_NEOX: &[Rule] = &[
    same("token_embd", "gpt_neox.embed_in"),
    same("output_norm", "gpt_neox.final_layer_norm"),
    same("output", "embed_out"),
];

pub(super) const OUTSIDE_BACKBONE: &[Rule] = &[
    same("token_embd", "backbone.embeddings"),
    same("output_norm", "backbone.norm_f"),
    same("output", "lm_head"),
];

/// LFM2 has its last norm under either name.
pub(super) const OUTSIDE_LFM2: &[Rule] = &[
    same("token_embd", "model.embed_tokens"),
    same("token_embd_norm", "model.embedding_norm"),
    same("output_norm", "model.embedding_norm"),
    same("output", "lm_head"),
];

/// Three projections, and the one back.
pub(super) const ATTENTION: &[Rule] = &[
    same("attn_q", "self_attn.q_proj"),
    same("attn_k", "self_attn.k_proj"),
    same("attn_v", "self_attn.v_proj"),
    same("attn_output", "self_attn.o_proj"),
];

/// The same, with queries and keys for a rotary embedding of neighbouring columns.
pub(super) const TURNED: &[Rule] = &[
    rule("attn_q", "self_attn.q_proj", How::Turned),
    rule("attn_k", "self_attn.k_proj", How::Turned),
    same("attn_v", "self_attn.v_proj"),
    same("attn_output", "self_attn.o_proj"),
];

pub(super) const NORM_BEFORE: &[Rule] = &[same("attn_norm", "input_layernorm")];

pub(super) const TWO_NORMS: &[Rule] =
    &[same("attn_norm", "input_layernorm"), same("ffn_norm", "post_attention_layernorm")];

pub(super) const NORMS_APERTUS: &[Rule] =
    &[same("attn_norm", "attention_layernorm"), same("ffn_norm", "feedforward_layernorm")];

pub(super) const TWO_NORMS_PLUS_ONE: &[Rule] = &[
    rule("attn_norm", "input_layernorm", How::PlusOne),
    rule("ffn_norm", "post_attention_layernorm", How::PlusOne),
];

/// Llama's second norm under the name of one after attention.
pub(super) const TWO_NORMS_AFTER: &[Rule] =
    &[same("attn_norm", "input_layernorm"), same("post_attention_norm", "post_attention_layernorm")];

/// Nemotron adds 1 to the weights alone, and has biases.
pub(super) const TWO_LAYER_NORMS_PLUS_ONE: &[Rule] = &[
    rule("attn_norm.weight", "input_layernorm.weight", How::PlusOne),
    same("attn_norm.bias", "input_layernorm.bias"),
    rule("ffn_norm.weight", "post_attention_layernorm.weight", How::PlusOne),
    same("ffn_norm.bias", "post_attention_layernorm.bias"),
];

pub(super) const OUTSIDE_LAYER_PLUS_ONE: &[Rule] = &[
    same("token_embd", "model.embed_tokens"),
    rule("output_norm.weight", "model.norm.weight", How::PlusOne),
    same("output_norm.bias", "model.norm.bias"),
    same("output", "lm_head"),
];

/// Gemma's norms before and after both parts.
pub(super) const FOUR_NORMS_PLUS_ONE: &[Rule] = &[
    rule("attn_norm", "input_layernorm", How::PlusOne),
    rule("post_attention_norm", "post_attention_layernorm", How::PlusOne),
    rule("ffn_norm", "pre_feedforward_layernorm", How::PlusOne),
    rule("post_ffw_norm", "post_feedforward_layernorm", How::PlusOne),
];

/// Norms on what both parts add alone.
pub(super) const POST_NORMS: &[Rule] = &[
    same("post_attention_norm", "post_attention_layernorm"),
    same("post_ffw_norm", "post_feedforward_layernorm"),
];

pub(super) const NORMS_GLM4: &[Rule] = &[
    same("attn_norm", "input_layernorm"),
    same("post_attention_norm", "post_self_attn_layernorm"),
    same("ffn_norm", "post_attention_layernorm"),
    same("post_ffw_norm", "post_mlp_layernorm"),
];

pub(super) const QK_NORMS: &[Rule] =
    &[same("attn_q_norm", "self_attn.q_norm"), same("attn_k_norm", "self_attn.k_norm")];

pub(super) const QK_NORMS_PLUS_ONE: &[Rule] = &[
    rule("attn_q_norm", "self_attn.q_norm", How::PlusOne),
    rule("attn_k_norm", "self_attn.k_norm", How::PlusOne),
];

/// A norm of its own for each head.
pub(super) const QK_NORMS_STABLELM: &[Rule] = &[
    rule("attn_q_norm", "self_attn.q_layernorm.norms.{}", How::Each),
    rule("attn_k_norm", "self_attn.k_layernorm.norms.{}", How::Each),
];

pub(super) const QK_NORMS_HUNYUAN: &[Rule] =
    &[same("attn_q_norm", "self_attn.query_layernorm"), same("attn_k_norm", "self_attn.key_layernorm")];

pub(super) const GATED: &[Rule] =
    &[same("ffn_gate", "mlp.gate_proj"), same("ffn_up", "mlp.up_proj"), same("ffn_down", "mlp.down_proj")];

/// Gates and neurons in one, where the file has neurons.
pub(super) const GATE_UP: &[Rule] = &[same("ffn_up", "mlp.gate_up_proj"), same("ffn_down", "mlp.down_proj")];

pub(super) const QKV_PHI3: &[Rule] =
    &[same("attn_qkv", "self_attn.qkv_proj"), same("attn_output", "self_attn.o_proj")];

/// Experts one by one in the checkpoint.
pub(super) const EXPERTS: &[Rule] = &[
    same("ffn_gate_inp", "mlp.gate"),
    rule("ffn_gate_exps", "mlp.experts.{}.gate_proj", How::Each),
    rule("ffn_up_exps", "mlp.experts.{}.up_proj", How::Each),
    rule("ffn_gate_up_exps", "mlp.experts.{}.gate_proj", How::EachHalf(0)),
    rule("ffn_gate_up_exps", "mlp.experts.{}.up_proj", How::EachHalf(1)),
    rule("ffn_down_exps", "mlp.experts.{}.down_proj", How::Each),
];

pub(super) const BLOCK_SPARSE: &[Rule] = &[
    same("ffn_gate_inp", "block_sparse_moe.gate"),
    rule("ffn_gate_exps", "block_sparse_moe.experts.{}.w1", How::Each),
    rule("ffn_up_exps", "block_sparse_moe.experts.{}.w3", How::Each),
    rule("ffn_down_exps", "block_sparse_moe.experts.{}.w2", How::Each),
    rule("exp_probs_b.bias", "block_sparse_moe.e_score_correction_bias", How::Vector),
];

pub(super) const SHARED_EXPERTS: &[Rule] = &[
    same("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
    same("ffn_up_shexp", "mlp.shared_experts.up_proj"),
    same("ffn_down_shexp", "mlp.shared_experts.down_proj"),
    rule("exp_probs_b.bias", "mlp.gate.e_score_correction_bias", How::Vector),
];

pub(super) const SHARED_EXPERTS_ERNIE: &[Rule] = &[
    same("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
    same("ffn_up_shexp", "mlp.shared_experts.up_proj"),
    same("ffn_down_shexp", "mlp.shared_experts.down_proj"),
    rule("exp_probs_b.bias", "mlp.moe_statics.e_score_correction_bias", How::OneRow),
];

pub(super) const SHARED_EXPERT: &[Rule] = &[
    same("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    same("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    same("ffn_down_shexp", "mlp.shared_expert.down_proj"),
    rule("ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight", How::OneRow),
];

pub(super) const EXPERTS_GRANITE: &[Rule] = &[
    same("ffn_gate_inp", "block_sparse_moe.router.layer"),
    rule("ffn_gate_exps", "block_sparse_moe.input_linear", How::Stacked(0)),
    rule("ffn_up_exps", "block_sparse_moe.input_linear", How::Stacked(1)),
    same("ffn_down_exps", "block_sparse_moe.output_linear"),
    rule("ffn_gate_shexp", "shared_mlp.input_linear", How::Stacked(0)),
    rule("ffn_up_shexp", "shared_mlp.input_linear", How::Stacked(1)),
    same("ffn_down_shexp", "shared_mlp.output_linear"),
];

/// Without routed experts the shared one is the MLP.
pub(super) const DENSE_GRANITE: &[Rule] = &[
    rule("ffn_gate", "shared_mlp.input_linear", How::Stacked(0)),
    rule("ffn_up", "shared_mlp.input_linear", How::Stacked(1)),
    same("ffn_down", "shared_mlp.output_linear"),
];

pub(super) const EXPERTS_GPT_OSS: &[Rule] = &[
    same("ffn_gate_inp", "mlp.router"),
    rule("ffn_gate_exps.weight", "mlp.experts.gate_up_proj", How::Alternating(0)),
    rule("ffn_up_exps.weight", "mlp.experts.gate_up_proj", How::Alternating(1)),
    rule("ffn_gate_exps.bias", "mlp.experts.gate_up_proj_bias", How::AlternatingBiases(0)),
    rule("ffn_up_exps.bias", "mlp.experts.gate_up_proj_bias", How::AlternatingBiases(1)),
    rule("ffn_down_exps.weight", "mlp.experts.down_proj", How::Swapped),
    same("ffn_down_exps.bias", "mlp.experts.down_proj_bias"),
    same("attn_sinks.weight", "self_attn.sinks"),
];

/// Compressed queries, keys and values; older files have the last two together.
pub(super) const LATENT: &[Rule] = &[
    same("attn_q", "self_attn.q_proj"),
    same("attn_q_a", "self_attn.q_a_proj"),
    same("attn_q_a_norm", "self_attn.q_a_layernorm"),
    same("attn_q_b", "self_attn.q_b_proj"),
    same("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
    same("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
    same("attn_kv_b", "self_attn.kv_b_proj"),
    rule("attn_k_b", "self_attn.kv_b_proj", How::KeysAndValues(0)),
    rule("attn_v_b", "self_attn.kv_b_proj", How::KeysAndValues(1)),
    same("attn_output", "self_attn.o_proj"),
];

pub(super) const LAYER_GPT2: &[Rule] = &[
    same("attn_norm", "ln_1"),
    rule("attn_qkv", "attn.c_attn", How::Swapped),
    rule("attn_output", "attn.c_proj", How::Swapped),
    same("ffn_norm", "ln_2"),
    rule("ffn_up", "mlp.c_fc", How::Swapped),
    rule("ffn_down", "mlp.c_proj", How::Swapped),
];

pub(super) const LAYER_STARCODER: &[Rule] = &[
    same("attn_norm", "ln_1"),
    same("attn_qkv", "attn.c_attn"),
    same("attn_output", "attn.c_proj"),
    same("ffn_norm", "ln_2"),
    same("ffn_up", "mlp.c_fc"),
    same("ffn_down", "mlp.c_proj"),
];

pub(super) const MLP_STARCODER2: &[Rule] = &[same("ffn_up", "mlp.c_fc"), same("ffn_down", "mlp.c_proj")];

pub(super) const LAYER_PHI2: &[Rule] = &[
    same("attn_norm", "input_layernorm"),
    same("attn_q", "self_attn.q_proj"),
    same("attn_k", "self_attn.k_proj"),
    same("attn_v", "self_attn.v_proj"),
    same("attn_output", "self_attn.dense"),
    same("ffn_up", "mlp.fc1"),
    same("ffn_down", "mlp.fc2"),
];

pub(super) const LAYER_NEOX: &[Rule] = &[
    same("attn_norm", "input_layernorm"),
    rule("attn_qkv", "attention.query_key_value", How::ByHead),
    same("attn_output", "attention.dense"),
    same("ffn_norm", "post_attention_layernorm"),
    same("ffn_up", "mlp.dense_h_to_4h"),
    same("ffn_down", "mlp.dense_4h_to_h"),
];

pub(super) const LAYER_BLOOM: &[Rule] = &[
    same("attn_norm", "input_layernorm"),
    rule("attn_qkv", "self_attention.query_key_value", How::ByHead),
    same("attn_output", "self_attention.dense"),
    same("ffn_norm", "post_attention_layernorm"),
    same("ffn_up", "mlp.dense_h_to_4h"),
    same("ffn_down", "mlp.dense_4h_to_h"),
];

pub(super) const LAYER_MPT: &[Rule] = &[
    same("attn_norm", "norm_1"),
    same("attn_qkv", "attn.Wqkv"),
    same("attn_output", "attn.out_proj"),
    same("ffn_norm", "norm_2"),
    same("ffn_up", "ffn.up_proj"),
    same("ffn_down", "ffn.down_proj"),
];

/// Layers with one norm; those with two have the variant below.
pub(super) const LAYER_FALCON: &[Rule] = &[
    same("attn_norm", "input_layernorm"),
    rule("attn_qkv", "self_attention.query_key_value", How::ByGroup),
    same("attn_output", "self_attention.dense"),
    same("ffn_up", "mlp.dense_h_to_4h"),
    same("ffn_down", "mlp.dense_4h_to_h"),
];

/// With two norms the first one in the file is the MLP's.
pub(super) const LAYER_FALCON_40B: &[Rule] = &[
    same("attn_norm", "ln_mlp"),
    same("attn_norm_2", "ln_attn"),
    rule("attn_qkv", "self_attention.query_key_value", How::ByGroup),
    same("attn_output", "self_attention.dense"),
    same("ffn_up", "mlp.dense_h_to_4h"),
    same("ffn_down", "mlp.dense_4h_to_h"),
];

pub(super) const LAYER_MAMBA: &[Rule] = &[
    same("attn_norm", "norm"),
    same("ssm_in", "mixer.in_proj"),
    rule("ssm_conv1d.weight", "mixer.conv1d.weight", How::Taps),
    same("ssm_conv1d.bias", "mixer.conv1d.bias"),
    same("ssm_x", "mixer.x_proj"),
    same("ssm_dt", "mixer.dt_proj"),
    rule("ssm_a", "mixer.A_log", How::Decay),
    rule("ssm_d", "mixer.D", How::Vector),
    same("ssm_out", "mixer.out_proj"),
];

pub(super) const LAYER_MAMBA2: &[Rule] = &[
    same("attn_norm", "norm"),
    same("ssm_in", "mixer.in_proj"),
    rule("ssm_conv1d.weight", "mixer.conv1d.weight", How::Taps),
    same("ssm_conv1d.bias", "mixer.conv1d.bias"),
    rule("ssm_dt.bias", "mixer.dt_bias", How::Vector),
    rule("ssm_a", "mixer.A_log", How::Decays),
    rule("ssm_d", "mixer.D", How::Vector),
    rule("ssm_norm.weight", "mixer.norm.weight", How::Vector),
    same("ssm_out", "mixer.out_proj"),
];

/// A state space beside or in place of attention.
pub(super) const SPACE: &[Rule] = &[
    same("ssm_in", "mamba.in_proj"),
    rule("ssm_conv1d.weight", "mamba.conv1d.weight", How::Taps),
    same("ssm_conv1d.bias", "mamba.conv1d.bias"),
    rule("ssm_dt.bias", "mamba.dt_bias", How::Vector),
    rule("ssm_a", "mamba.A_log", How::Decays),
    rule("ssm_d", "mamba.D", How::Vector),
    rule("ssm_norm.weight", "mamba.norm.weight", How::Vector),
    same("ssm_out", "mamba.out_proj"),
];

pub(super) const LAYER_FALCON_H1: &[Rule] = &[
    same("attn_norm", "input_layernorm"),
    // The converter leaves the end of this one's name out.
    same("ffn_norm", "pre_ff_layernorm.weight"),
    same("ffn_norm.weight", "pre_ff_layernorm.weight"),
    same("ffn_gate", "feed_forward.gate_proj"),
    same("ffn_up", "feed_forward.up_proj"),
    same("ffn_down", "feed_forward.down_proj"),
];

pub(super) const LAYER_LFM2: &[Rule] = &[
    same("attn_norm", "operator_norm"),
    same("attn_q", "self_attn.q_proj"),
    same("attn_k", "self_attn.k_proj"),
    same("attn_v", "self_attn.v_proj"),
    same("attn_output", "self_attn.out_proj"),
    same("attn_q_norm", "self_attn.q_layernorm"),
    same("attn_k_norm", "self_attn.k_layernorm"),
    same("shortconv.in_proj", "conv.in_proj"),
    rule("shortconv.conv.weight", "conv.conv.weight", How::Taps),
    same("shortconv.conv.bias", "conv.conv.bias"),
    same("shortconv.out_proj", "conv.out_proj"),
    same("ffn_norm", "ffn_norm"),
    same("ffn_gate", "feed_forward.w1"),
    same("ffn_up", "feed_forward.w3"),
    same("ffn_down", "feed_forward.w2"),
];

pub(super) const LAYER_QWEN3NEXT: &[Rule] = &[
    rule("attn_norm", "input_layernorm", How::PlusOne),
    rule("post_attention_norm", "post_attention_layernorm", How::PlusOne),
    rule("attn_qkv.weight", "linear_attn.in_proj_qkvz.weight", How::KeyHeads(0)),
    rule("attn_gate.weight", "linear_attn.in_proj_qkvz.weight", How::KeyHeads(1)),
    // Of the first converter.
    same("ssm_in", "linear_attn.in_proj_qkvz"),
    same("ssm_ba", "linear_attn.in_proj_ba"),
    rule("ssm_conv1d.weight", "linear_attn.conv1d.weight", How::Taps),
    rule("ssm_dt.bias", "linear_attn.dt_bias", How::Vector),
    rule("ssm_a", "linear_attn.A_log", How::Decays),
    same("ssm_norm", "linear_attn.norm"),
    same("ssm_out", "linear_attn.out_proj"),
];

/// Qwen3-Next's recurrence with its first projection in four.
pub(super) const LAYER_QWEN35: &[Rule] = &[
    rule("attn_norm", "input_layernorm", How::PlusOne),
    rule("post_attention_norm", "post_attention_layernorm", How::PlusOne),
    rule("attn_qkv", "linear_attn.in_proj_qkv", How::ValueHeads(&How::Same)),
    rule("attn_gate", "linear_attn.in_proj_z", How::ValueHeads(&How::Same)),
    rule("ssm_alpha", "linear_attn.in_proj_a", How::ValueHeads(&How::Same)),
    rule("ssm_beta", "linear_attn.in_proj_b", How::ValueHeads(&How::Same)),
    rule("ssm_conv1d.weight", "linear_attn.conv1d.weight", How::ValueHeads(&How::Taps)),
    rule("ssm_dt.bias", "linear_attn.dt_bias", How::ValueHeads(&How::Vector)),
    rule("ssm_a", "linear_attn.A_log", How::ValueHeads(&How::Decays)),
    same("ssm_norm", "linear_attn.norm"),
    rule("ssm_out", "linear_attn.out_proj", How::ValueColumns),
];

pub(super) const OUTSIDE_GEMMA4: &[Rule] = &[
    same("token_embd", "model.embed_tokens"),
    same("per_layer_token_embd", "model.embed_tokens_per_layer"),
    same("per_layer_model_proj", "model.per_layer_model_projection"),
    same("per_layer_proj_norm", "model.per_layer_projection_norm"),
    same("output_norm", "model.norm"),
    same("output", "lm_head"),
];

/// Gemma 4's norms, additional inputs and factors of layers; experts and their router beside the MLP.
pub(super) const LAYER_GEMMA4: &[Rule] = &[
    same("attn_norm", "input_layernorm"),
    same("post_attention_norm", "post_attention_layernorm"),
    same("ffn_norm", "pre_feedforward_layernorm"),
    same("post_ffw_norm", "post_feedforward_layernorm"),
    same("inp_gate", "per_layer_input_gate"),
    same("proj", "per_layer_projection"),
    same("post_norm", "post_per_layer_input_norm"),
    same("layer_output_scale.weight", "layer_scalar"),
    same("ffn_gate_inp.weight", "router.proj.weight"),
    same("ffn_gate_inp.scale", "router.scale"),
    same("ffn_gate_up_exps.weight", "experts.gate_up_proj"),
    rule("ffn_gate_exps.weight", "experts.gate_up_proj", How::Stacked(0)),
    rule("ffn_up_exps.weight", "experts.gate_up_proj", How::Stacked(1)),
    same("ffn_down_exps.weight", "experts.down_proj"),
    same("ffn_down_exps.scale", "router.per_expert_scale"),
    same("pre_ffw_norm_2", "pre_feedforward_layernorm_2"),
    same("post_ffw_norm_1", "post_feedforward_layernorm_1"),
    same("post_ffw_norm_2", "post_feedforward_layernorm_2"),
];

/// One norm and one part a layer.
pub(super) const LAYER_NEMOTRON_H: &[Rule] = &[
    rule("attn_q", "mixer.q_proj", How::Turned),
    rule("attn_k", "mixer.k_proj", How::Turned),
    same("attn_v", "mixer.v_proj"),
    same("attn_output", "mixer.o_proj"),
    same("ffn_up", "mixer.up_proj"),
    same("ffn_down", "mixer.down_proj"),
    same("ffn_gate_inp", "mixer.gate"),
    rule("exp_probs_b.bias", "mixer.gate.e_score_correction_bias", How::Vector),
    rule("ffn_up_exps", "mixer.experts.{}.up_proj", How::Each),
    rule("ffn_down_exps", "mixer.experts.{}.down_proj", How::Each),
    same("ffn_latent_down", "mixer.fc1_latent_proj"),
    same("ffn_latent_up", "mixer.fc2_latent_proj"),
    same("ffn_up_shexp", "mixer.shared_experts.up_proj"),
    same("ffn_down_shexp", "mixer.shared_experts.down_proj"),
];
