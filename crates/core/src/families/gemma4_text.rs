//! Gemma 4: heads, rotary tables and windows by layer type, keys used as values or taken from an earlier layer,
//! additional inputs of layers, experts next to the MLP.

use super::gemma::embed_scale;
use super::gemma2::{four_norms, softcap};
use super::gemma4_layers::{Kind, kinds, ropes, switched};
use super::parts::{activation, attention, block, norm};
use super::rope::reach;
use super::sizes::{HeadWidth, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family =
    Family { model_type: "gemma4_text", read, inert: &[], only: &[("per_layer_config", Only::Anything)] };

const SIZES: SizeKeys = SizeKeys {
    vocabulary: 262_144,
    n_kv_heads: KvHeads::Default(4),
    d_head: HeadWidth::Default(256),
    tied: true,
    ..usual(2304, 30, 8, 131_072)
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let kinds = kinds(config, &sizes)?;
    let ropes = ropes(config, &sizes, &kinds)?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?;
    let act = activation(config, "hidden_activation", "gelu_pytorch_tanh")?;
    let d_mlp = config.size_or("intermediate_size", 9216)?;
    let experts = experts(config, act, norm)?;
    let doubles = config.flag_or("use_double_wide_mlp", false)?;
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let layer = |kind: &Kind| {
        let attention = Attention {
            heads: Some(kind.heads),
            qk_norm: QkNorm::PerHead(norm),
            v_norm: Some(Norm { kind: NormKind::RmsNoParams, ..norm }),
            values: kind.values,
            keys_of: kind.keys_of,
            window: kind.window,
            ..attention(1.0, PositionMark::Rope(kind.rope()))
        };
        let d_mlp = if doubles && kind.keys_of.is_some() { 2 * d_mlp } else { d_mlp };
        let mlp = match experts {
            Some(experts) => with_beside(experts, SharedExpert { d_mlp, act, weight: SharedWeight::One }),
            None => Mlp::Gated { d_mlp, act },
        };
        let layer = block(attention, mlp, four_norms(norm));
        (Layer { leaving_scale: Bias::Stored, ..layer }, names(kind, bias, experts.is_some()))
    };
    let (layers, names): (Vec<Layer>, Vec<LayerNames>) = kinds.iter().map(layer).unzip();
    let mut arch = sizes.arch(layers, norm);
    arch.context = ropes.iter().map(|rope| reach(rope, sizes.context)).max().unwrap_or(sizes.context);
    arch.ropes = ropes;
    arch.embed.scale = Some(embed_scale(&sizes));
    arch.unembed.softcap = softcap(config, "final_logit_softcapping", None)?;
    let rows = config.size_or("vocab_size_per_layer_input", 262_144)?;
    arch.per_layer = match switched(config, "hidden_size_per_layer_input", 256)? {
        Some(_) if rows < sizes.vocabulary => {
            return Err(config.wrong("vocab_size_per_layer_input", "a row for each id of the vocabulary"));
        }
        None if kinds.iter().any(|kind| kind.keys_of.is_some()) => {
            // Its forward pass slices the inputs before the layers that share, and fails without (transformers 5.24).
            return Err(config.wrong("num_kv_shared_layers", "0 where `hidden_size_per_layer_input` is 0"));
        }
        width => width.map(|width| PerLayerInputs { width, rows, act, norm }),
    };
    let per_layer = PerLayerTables {
        table: "embed_tokens_per_layer",
        project: "per_layer_model_projection",
        norm: "per_layer_projection_norm",
    };
    Ok((arch, Names { per_layer: Some(per_layer), ..stored::model(names) }))
}

/// Experts that read the stream next to the MLP, if the model has them.
fn experts(config: &Config, act: Activation, norm: Norm) -> Result<Option<Mlp>> {
    let [count, top_k, d_mlp] = ["num_experts", "top_k_experts", "moe_intermediate_size"]
        .map(|key| config.optional_size(key).map(|size| size.ok_or_else(|| config.missing(key))));
    let (count, top_k, d_mlp) = (count?, top_k?, d_mlp?);
    if !config.flag_or("enable_moe_block", false)? {
        return Ok(None);
    }
    let (count, top_k) = (count?, top_k?);
    if top_k > count {
        return Err(config.wrong("top_k_experts", &format!("at most {count}, the number of experts")));
    }
    let weights = ExpertWeights::Renormalised { least: 0.0 };
    let router = Router { factors: Bias::Stored, apart: Some(norm), ..Router::softmax(weights) };
    let gate = ExpertGate::Plain(act);
    Ok(Some(Mlp::Experts { count, top_k, d_mlp: d_mlp?, latent: None, gate, router, shared: None }))
}

fn with_beside(experts: Mlp, beside: SharedExpert) -> Mlp {
    match experts {
        Mlp::Experts { count, top_k, d_mlp, latent, gate, router, .. } => {
            Mlp::Experts { count, top_k, d_mlp, latent, gate, router, shared: Some(beside) }
        }
        other => other,
    }
}

fn names(kind: &Kind, bias: Bias, has_experts: bool) -> LayerNames {
    let mlp = if has_experts { super::gemma4_layers::experts() } else { stored::gated(Bias::Absent) };
    let layer = stored::with_post_norms(stored::layer(bias, bias, mlp));
    let layer = stored::with_qk_norm(layer, "self_attn.q_norm", "self_attn.k_norm");
    LayerNames { k_norm: layer.k_norm.filter(|_| kind.keys_of.is_none()), ..kind.named(layer, bias) }
}
