//! MiniMax-M2: norms over the whole queries and keys, and experts chosen by corrected sigmoids.

use super::parts::{RENORMALISED, activation, attention, block, norm, pre_norm, top_k};
use super::rope::{Part, RopeKeys, rope};
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "minimax_m2",
    read,
    inert: &[
        "mtp_transformer_layers",
        "num_mtp_modules",
        "use_mtp",
        "attn_type_list",
        // Of a class with other layers too.
        "layernorm_full_attention_beta",
        "layernorm_linear_attention_beta",
        "layernorm_mlp_beta",
        "mlp_intermediate_size",
        "shared_moe_mode",
        "sliding_window",
    ],
    only: &[
        ("qk_norm_type", Only::Text("per_layer")),
        ("scoring_func", Only::Text("sigmoid")),
        ("use_qk_norm", Only::True),
        ("use_routing_bias", Only::True),
    ],
};

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 200_064,
    n_kv_heads: KvHeads::Default(8),
    d_head: HeadWidth::Default(128),
    ..usual(3072, 62, 48, 196_608)
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    // The releases give the number of rotary columns, transformers 5 their fraction; the latter decides.
    let columns = config.optional_size("rotary_dim")?;
    let fraction = columns.map_or(1.0, |columns| columns as f64 / sizes.d_head as f64);
    let keys = RopeKeys {
        default_theta: 5e6,
        part: Part::Fraction("partial_rotary_factor", fraction),
        ..RopeKeys::USUAL
    };
    let rope = rope(config, &sizes, &keys)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let attention =
        Attention { qk_norm: QkNorm::Whole(norm), ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let count = config.size_of_any(&["num_local_experts", "num_experts"], 256)?;
    if config.raw("shared_intermediate_size").is_some_and(|size| size != 0) {
        return Err(config.unsupported("shared_intermediate_size", "0"));
    }
    let mlp = Mlp::Experts {
        count,
        top_k: top_k(config, 8, count)?,
        d_mlp: config.size_or("intermediate_size", 1536)?,
        latent: None,
        gate: ExpertGate::Plain(activation(config, "hidden_act", "silu")?),
        router: Router {
            factors: Bias::Absent,
            apart: None,
            scores: ExpertScores::Sigmoid,
            correction: Bias::Stored,
            ..Router::softmax(RENORMALISED)
        },
        shared: None,
    };
    let layer = block(attention, mlp, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    let router = Linear::new("block_sparse_moe.gate", Bias::Absent);
    let correction = Correction::Vector("block_sparse_moe.e_score_correction_bias");
    let experts = stored::with_shared(stored::experts(router, stored::BLOCK_SPARSE), Some(correction), None);
    let names = stored::layer(Bias::Absent, Bias::Absent, experts);
    Ok((arch, stored::model(vec![stored::with_qk_norm(names, "self_attn.q_norm", "self_attn.k_norm")])))
}
