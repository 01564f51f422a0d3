//! ERNIE 4.5 with experts in some layers, chosen by corrected probabilities, plus a shared one.

use super::parts::{activation, attention, block, norm, pre_norm};
use super::rope::rope;
use super::sizes::{KvHeads, SizeKeys, Sizes, usual};
use super::{Family, ernie4_5, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "ernie4_5_moe",
    read,
    inert: &["moe_capacity", "moe_gate", "moe_use_aux_free", "num_nextn_predict_layers"],
    only: &[],
};

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 103_424,
    n_kv_heads: KvHeads::DefaultOrAsQueries(4),
    tied: true,
    ..usual(2560, 28, 20, 131_072)
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = Rope { pairing: Pairing::Adjacent, ..rope(config, &sizes, &ernie4_5::ROPE)? };
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    let act = activation(config, "hidden_act", "silu")?;
    let attention = attention(sizes.scale(), PositionMark::Rope(0));
    let count = config.size_of_any(&["moe_num_experts", "num_experts"], 64)?;
    let top_k = config.size_of_any(&["moe_k", "num_experts_per_tok"], 6)?;
    if top_k > count {
        return Err(config.wrong("moe_k", &format!("at most {count}, the number of experts")));
    }
    let d_mlp = config.size_or("moe_intermediate_size", 1536)?;
    let shared = match config.raw("moe_num_shared_experts").and_then(serde_json::Value::as_u64) {
        Some(0) => None,
        _ => Some(config.size_or("moe_num_shared_experts", 2)?),
    };
    let least = config.number_or("moe_norm_min", 1e-12)? as f32;
    let routed = Mlp::Experts {
        count,
        top_k,
        d_mlp,
        latent: None,
        gate: ExpertGate::Plain(act),
        router: Router { correction: Bias::Stored, ..Router::softmax(ExpertWeights::Renormalised { least }) },
        shared: shared.map(|n| SharedExpert { d_mlp: n * d_mlp, act, weight: SharedWeight::One }),
    };
    let dense = Mlp::Gated { d_mlp: config.size_or("intermediate_size", 12_288)?, act };
    let bias = Bias::when(config.flag_or("use_bias", false)?);
    let (layers, names): (Vec<Layer>, Vec<LayerNames>) = sparse(config, sizes.n_layers)?
        .into_iter()
        .map(|sparse| {
            let mlp = if sparse { routed } else { dense };
            let names = if sparse { experts(bias, shared.is_some()) } else { stored::gated(bias) };
            (block(attention.clone(), mlp, pre_norm(norm)), stored::layer(bias, bias, names))
        })
        .unzip();
    let mut arch = sizes.rotary_arch(rope, layers, norm);
    arch.unembed.bias = bias;
    // Tensors that predict further tokens.
    Ok((arch, Names { left_out: &["model.mtp_", "mtp_"], ..stored::model(names) }))
}

/// Which layers have experts: every n-th from the first to the last.
fn sparse(config: &Config, n_layers: usize) -> Result<Vec<bool>> {
    let index = |key: &str, default: i64| match config.raw(key) {
        None => Ok(default),
        Some(value) => value.as_i64().ok_or_else(|| config.wrong(key, "the number of a layer")),
    };
    let first = index("moe_layer_start_index", 1)?;
    let last = match index("moe_layer_end_index", -1)? {
        -1 => n_layers as i64 - 1,
        last => last,
    };
    let every = config.size_or("moe_layer_interval", 1)?;
    Ok((0..n_layers).map(|l| (l + 1).is_multiple_of(every) && (first..=last).contains(&(l as i64))).collect())
}

fn experts(bias: Bias, shared: bool) -> MlpNames {
    let names =
        ["mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj", "mlp.shared_experts.down_proj"];
    stored::with_shared(
        stored::experts(Linear::new("mlp.gate", Bias::Absent), stored::EXPERTS),
        Some(Correction::Row("mlp.moe_statics.e_score_correction_bias")),
        shared.then(|| stored::shared(names, bias, None)),
    )
}
