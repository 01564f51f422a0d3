//! Queries, keys and values from compressed vectors, as the DeepSeek classes describe and store them.

use super::parts::attention;
use super::rope::{RopeKeys, object_of, rope};
use super::sizes::{KvHeads, SizeKeys, Sizes};
use super::stored;
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

/// A decoder's sizes, attention and rotary table, and the names of its projections.
pub(super) struct LatentParts {
    pub(super) sizes: Sizes,
    pub(super) attention: Attention,
    pub(super) rope: Rope,
    pub(super) bias: Bias,
    names: LatentNames,
}

/// A class's widths of a head's own part of its key and of its value, and the rank of queries.
pub(super) struct LatentKeys {
    pub(super) own: usize,
    pub(super) value: usize,
    pub(super) queries: usize,
}

/// DeepSeek's.
pub(super) const DEEPSEEK: LatentKeys = LatentKeys { own: 128, value: 128, queries: 1536 };

impl LatentParts {
    /// Reads them. Both norms of compressed vectors have a fixed epsilon, whatever the config says of the other norms.
    pub(super) fn read(
        config: &Config,
        keys: &SizeKeys,
        widths: &LatentKeys,
        pairing: Pairing,
    ) -> Result<Self> {
        let usual = Sizes::read(config, &SizeKeys { n_kv_heads: KvHeads::AsQueries, ..*keys })?;
        if usual.n_kv_heads != usual.n_heads {
            return Err(
                config.wrong("num_key_value_heads", &format!("{}, a key for each query", usual.n_heads))
            );
        }
        let own = config.size_or("qk_nope_head_dim", widths.own)?;
        let shared = config.size_or("qk_rope_head_dim", 64)?;
        let d_value = config.size_or("v_head_dim", widths.value)?;
        let queries = match config.has("q_lora_rank") {
            true => config.optional_size("q_lora_rank")?,
            false => Some(widths.queries),
        };
        let keys_values = config.size_or("kv_lora_rank", 512)?;
        // The table covers the part that rotates.
        let turning = Sizes { d_head: shared, ..usual };
        let rope = rope(config, &turning, &RopeKeys::USUAL)?;
        let sizes = Sizes { d_head: own + shared, ..usual };
        let heads = Heads { n: sizes.n_heads, n_kv: sizes.n_heads, d_head: own + shared, d_value };
        let norm = Norm { kind: NormKind::Rms, eps: 1e-6 };
        let scale = sizes.scale() * magnitude(config, &rope)?;
        let attention = Attention {
            heads: Some(heads),
            latent: Some(Latent { queries, keys_values, shared, norm }),
            ..attention(scale, PositionMark::Rope(0))
        };
        let bias = Bias::when(config.flag_or("attention_bias", false)?);
        let plain = |name| Linear::new(name, Bias::Absent);
        let compress_queries = Linear::new("self_attn.q_a_proj", bias);
        let names = LatentNames {
            compress_queries: queries.map(|_| (compress_queries, "self_attn.q_a_layernorm")),
            queries: plain(if queries.is_some() { "self_attn.q_b_proj" } else { "self_attn.q_proj" }),
            compress_kv: Linear::new("self_attn.kv_a_proj_with_mqa", bias),
            kv_norm: "self_attn.kv_a_layernorm",
            keys_values: plain("self_attn.kv_b_proj"),
        };
        Ok(LatentParts { sizes, attention, rope: Rope { first: own, pairing, ..rope }, bias, names })
    }

    /// Names of a layer with this MLP.
    pub(super) fn layer(&self, mlp: MlpNames) -> LayerNames {
        LayerNames { qkv: QkvNames::Latent(self.names), ..stored::layer(self.bias, self.bias, mlp) }
    }
}

/// The factor on scores for a scaled rotary table (modeling_deepseek_v3.py, `yarn_apply_mscale`).
fn magnitude(config: &Config, rope: &Rope) -> Result<f32> {
    let object = object_of(config, &RopeKeys::USUAL)?;
    let weight = object.optional_number("mscale_all_dim")?.filter(|weight| *weight != 0.0);
    let (Some(weight), false) = (weight, rope.scaling == RopeScaling::None) else { return Ok(1.0) };
    let factor = object.optional_positive("factor")?.ok_or_else(|| object.missing("factor"))?;
    let magnitude = if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
    let squared = (magnitude * magnitude) as f32;
    if !squared.is_finite() || squared == 0.0 {
        return Err(object.wrong("mscale_all_dim", "a number that gives a factor above zero"));
    }
    Ok(squared)
}

/// Number of leading layers without experts.
pub(super) fn dense_layers(config: &Config, default: usize) -> Result<usize> {
    match config.raw("first_k_dense_replace").and_then(serde_json::Value::as_u64) {
        Some(0) => Ok(0),
        None if !config.has("first_k_dense_replace") => Ok(default),
        _ => config.size("first_k_dense_replace"),
    }
}

/// Names of experts with a shared expert next to them.
pub(super) fn experts(correction: Option<Correction>, shared_bias: Bias) -> MlpNames {
    let names =
        ["mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj", "mlp.shared_experts.down_proj"];
    stored::with_shared(
        stored::experts(Linear::new("mlp.gate", Bias::Absent), stored::EXPERTS),
        correction,
        Some(stored::shared(names, shared_bias, None)),
    )
}
