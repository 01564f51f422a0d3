//! Qwen3.5 with experts: routed ones, whose weights are divided by their sum, and a shared one with a gate.

use super::delta::{layers, names};
use super::parts::{RENORMALISED, activation, norm, top_k};
use super::qwen3_5_text::{self, INPUT, ROPE};
use super::rope::rope;
use super::sizes::{Key, KvHeads, SizeKeys, Sizes};
use super::{Family, Only, qwen2_moe};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family =
    Family { model_type: "qwen3_5_moe_text", read, inert: qwen3_5_text::INERT, only: ONLY };

/// As Qwen3.5's; the weights of a token's experts are always divided by their sum.
const ONLY: &[(&str, Only)] = &[qwen3_5_text::ONLY[0], qwen3_5_text::ONLY[1], ("norm_topk_prob", Only::True)];

const SIZES: SizeKeys = SizeKeys {
    d_model: Key(&["hidden_size"], 2048),
    n_layers: Key(&["num_hidden_layers"], 40),
    n_kv_heads: KvHeads::Default(2),
    ..qwen3_5_text::SIZES
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &ROPE)?;
    let norm = norm(config, NormKind::RmsOffset, "rms_norm_eps", 1e-6)?;
    let act = activation(config, "hidden_act", "silu")?;
    let count = config.size_or("num_experts", 256)?;
    let routed = Mlp::Experts {
        count,
        top_k: top_k(config, 8, count)?,
        d_mlp: config.size_or("moe_intermediate_size", 512)?,
        latent: None,
        gate: ExpertGate::Plain(act),
        router: Router::softmax(RENORMALISED),
        shared: Some(SharedExpert {
            d_mlp: config.size_or("shared_expert_intermediate_size", 512)?,
            act,
            weight: SharedWeight::Sigmoid,
        }),
    };
    let layers = layers(config, &sizes, norm, |_| routed)?;
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let names = qwen3_5_text::model(names(bias, INPUT, qwen2_moe::experts()));
    Ok((sizes.rotary_arch(rope, layers, norm), names))
}
