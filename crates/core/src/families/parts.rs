//! Config parts that several families share: norms, activations, windows.

use std::ops::Range;

use crate::arch::*;
use crate::config::Config;
use crate::error::Result;

/// A norm with its epsilon under `key`.
pub(super) fn norm(config: &Config, kind: NormKind, key: &str, default: f64) -> Result<Norm> {
    Ok(Norm { kind, eps: config.positive_or(key, default)? as f32 })
}

/// A gated MLP with the usual keys.
pub(super) fn gated(config: &Config, d_mlp: usize) -> Result<Mlp> {
    Ok(Mlp::Gated {
        d_mlp: config.size_or("intermediate_size", d_mlp)?,
        act: activation(config, "hidden_act", "silu")?,
    })
}

/// An MLP without a gate, with the usual keys.
pub(super) fn plain(config: &Config, d_mlp: usize, act: &str) -> Result<Mlp> {
    Ok(Mlp::Plain {
        d_mlp: config.size_or("intermediate_size", d_mlp)?,
        act: activation(config, "hidden_act", act)?,
    })
}

/// Norms on the outputs of attention and MLP: the wiring since OLMo 2.
pub(super) fn post_norm(norm: Norm) -> Wiring {
    let norms = Norms { pre: None, post: Some(norm) };
    Wiring::Sequential { attention: norms, mlp: norms }
}

/// Norms before attention and MLP in sequence: the usual wiring.
pub(super) fn pre_norm(norm: Norm) -> Wiring {
    let norms = Norms { pre: Some(norm), post: None };
    Wiring::Sequential { attention: norms, mlp: norms }
}

/// A block of the usual shape, without any extras.
pub(super) fn block(attention: Attention, mlp: Mlp, wiring: Wiring) -> Layer {
    Layer {
        attention: Some(attention),
        recurrence: None,
        mlp: Some(mlp),
        wiring,
        factors: Factors::default(),
        leaving_scale: Bias::Absent,
    }
}

/// Attention of the usual shape, over all earlier positions.
pub(super) fn attention(scale: f32, position: PositionMark) -> Attention {
    Attention {
        heads: None,
        latent: None,
        scale,
        softcap: None,
        qk_norm: QkNorm::None,
        qk_norm_at: QkNormAt::Projected,
        v_norm: None,
        values: ValuesFrom::Projection,
        keys_of: None,
        clip: None,
        query_growth: None,
        window: Window::Full,
        position,
        gate: AttentionGate::None,
        sinks: Bias::Absent,
    }
}

/// The activation under `key`, by its names in transformers (`activations.py`, `ACT2CLS`).
pub(super) fn activation(config: &Config, key: &str, default: &str) -> Result<Activation> {
    let name = match config.raw(key) {
        None => default,
        Some(value) => value.as_str().ok_or_else(|| config.wrong(key, "the name of an activation"))?,
    };
    match name {
        "relu" => Ok(Activation::Relu),
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_fast" | "gelu_accurate" | "gelu_pytorch_tanh" | "gelu_python_tanh" => {
            Ok(Activation::GeluTanh)
        }
        "silu" | "swish" => Ok(Activation::Silu),
        "quick_gelu" => Ok(Activation::QuickGelu),
        "relu2" => Ok(Activation::SquaredRelu),
        "tanh" => Ok(Activation::Tanh),
        "sigmoid" => Ok(Activation::Sigmoid),
        _ => Err(config.unsupported(
            key,
            "relu, gelu, gelu_new, gelu_fast, gelu_accurate, gelu_pytorch_tanh, silu, swish, quick_gelu, relu2, tanh, \
             sigmoid",
        )),
    }
}

/// A window under `sliding_window`: absent means the class's default, null means none.
pub(super) fn window(config: &Config, default: Option<usize>) -> Result<Window> {
    let size = if config.has("sliding_window") { config.optional_size("sliding_window")? } else { default };
    Ok(size.map_or(Window::Full, Window::Sliding))
}

/// The window of the Qwen classes, effective only with `use_sliding_window`.
pub(super) fn switched_window(config: &Config) -> Result<Window> {
    let on = config.flag_or("use_sliding_window", false)?;
    if !on && config.raw("sliding_window").is_some_and(|size| size == 0) {
        // Qwen2Moe's class writes zero for none.
        return Ok(Window::Full);
    }
    let window = window(config, Some(4096))?;
    Ok(if on { window } else { Window::Full })
}

/// The window of every layer: from `layer_types` if given, else from `pattern`, which maps a layer's number to whether
/// it slides.
pub(super) fn layer_windows(
    config: &Config,
    n_layers: usize,
    sliding: Window,
    pattern: impl Fn(usize) -> bool,
) -> Result<Vec<Window>> {
    let slides: Vec<bool> = match config.optional_texts("layer_types")? {
        None => (0..n_layers).map(pattern).collect(),
        Some(types) if types.len() != n_layers => {
            return Err(config.wrong("layer_types", &format!("one entry for each of {n_layers} layers")));
        }
        Some(types) => types
            .iter()
            .map(|kind| match *kind {
                "sliding_attention" => Ok(true),
                // `attention` is the older name (configuration_utils.py, `_LEGACY_LAYER_TYPE_REMAP`).
                "full_attention" | "attention" => Ok(false),
                _ => Err(config.unsupported("layer_types", "full_attention, sliding_attention")),
            })
            .collect::<Result<_>>()?,
    };
    if sliding == Window::Full && slides.contains(&true) {
        return Err(config.wrong("sliding_window", "a window, since there are layers of sliding attention"));
    }
    Ok(slides.into_iter().map(|slides| if slides { sliding } else { Window::Full }).collect())
}

/// `None` for a factor of one.
pub(super) fn factor(value: f64) -> Option<f32> {
    Some(value as f32).filter(|factor| *factor != 1.0)
}

/// A finite factor under `key`; one if it is absent.
pub(super) fn factor_or_one(config: &Config, key: &str) -> Result<Option<f32>> {
    let value = config.number_or(key, 1.0)?;
    if !(value as f32).is_finite() {
        return Err(config.wrong(key, "a number within the range of f32"));
    }
    Ok(factor(value))
}

/// A softmax router; its weights are divided by their sum if `key` says so.
pub(super) fn softmax_router(config: &Config, key: &str, default: bool) -> Result<Router> {
    let renormalised = config.flag_or(key, default)?;
    Ok(Router::softmax(if renormalised { RENORMALISED } else { ExpertWeights::AsTheyAre }))
}

/// Weights divided by their sum.
pub(super) const RENORMALISED: ExpertWeights = ExpertWeights::Renormalised { least: 0.0 };

/// Experts per token, at most all of them.
pub(super) fn top_k(config: &Config, default: usize, experts: usize) -> Result<usize> {
    let chosen = config.size_or("num_experts_per_tok", default)?;
    if chosen > experts {
        return Err(config.wrong("num_experts_per_tok", &format!("at most {experts}, the number of experts")));
    }
    Ok(chosen)
}

/// Layers behind the decoder's that predict further tokens, by the keys that count them.
pub(super) fn further_layers(config: &Config, n_layers: usize) -> Range<usize> {
    let count = |key| config.raw(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let [one, other] = ["num_nextn_predict_layers", "num_mtp_layers"].map(count);
    n_layers..n_layers + one.max(other).min(MOST_FURTHER) as usize
}

/// Most of them.
const MOST_FURTHER: u64 = 16;
