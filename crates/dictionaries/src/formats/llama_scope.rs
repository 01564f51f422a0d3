//! Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`.
//!
//! With s = √D / `dataset_average_activation_norm`: h = s·x W_encᵀ + b_enc, kept above `jump_relu_threshold`·s; what is
//! decoded is divided by s.

use easyroutine::Result;
use serde_json::json;

use super::draft::{Context, Draft, Reading};
use crate::activation::Activation;
use crate::norm::Norm;
use crate::place::Place;
use crate::settings::Settings;
use crate::tensors::{Axes, Matrix};

/// Training settings.
const INERT: &[&str] = &[
    "act_store_device",
    "decoder_bias_init_method",
    "decoder_exactly_fixed_norm",
    "device",
    "dtype",
    "encoder_exactly_fixed_norm",
    "expansion_factor",
    "init_decoder_norm",
    "init_encoder_norm",
    "init_search",
    "init_encoder_with_decoder_transpose",
    "k_schedule",
    "l1_coefficient",
    "l1_coefficient_warmup_steps",
    "lp",
    "sae_pretrained_name_or_path",
    "seed",
    "strict_loading",
    "use_batch_norm_mse",
    "use_ghost_grads",
];

pub(crate) fn read(context: &mut Context<'_>) -> Result<Option<Reading>> {
    let settings = context.json("hyperparams.json")?;
    let mut tensors = context.tensors("checkpoints/final.safetensors")?;
    settings.only("use_glu_encoder", &[json!(false)]);
    let (width, features) = (settings.size("d_model"), settings.size("d_sae"));
    let has_decoder_bias = settings.flag("use_decoder_bias").unwrap_or(true);
    let subtracts_bias = settings.flag("apply_decoder_bias_to_pre_encoder").unwrap_or(false);
    let Some(function) = settings.text_or("act_fn", "relu") else { return Ok(None) };
    let threshold = settings.number("jump_relu_threshold");
    let k = settings.size("top_k");
    let (Some(width), Some(features)) = (width, features) else {
        settings.missing("d_model` or `d_sae");
        return Ok(None);
    };
    let norm = norm(&settings, width);
    let scale = match norm {
        Norm::Scale { factor, .. } => factor,
        _ => 1.0,
    };
    let activation = match (function.as_str(), threshold, k) {
        ("jumprelu", Some(threshold), _) => {
            Some(Activation::JumpRelu { threshold: vec![(threshold * scale) as f32; features] })
        }
        ("jumprelu", None, _) => {
            settings.missing("jump_relu_threshold");
            None
        }
        ("topk", _, Some(k)) => Some(Activation::TopK { k }),
        ("relu", ..) => Some(Activation::Relu),
        _ => {
            settings.refuse("act_fn", "jumprelu, topk, relu");
            None
        }
    };
    let is_by_norm = settings.flag("sparsity_include_decoder_norm").unwrap_or(true);
    let hook = |key: &str| match settings.text(key) {
        Some(name) => context.place(Place::hook(&name, None)),
        None => {
            settings.missing(key);
            None
        }
    };
    let (reads, writes) = (hook("hook_point_in"), hook("hook_point_out"));
    settings.finish(INERT);
    let encoder = tensors.matrix("encoder.weight", Axes::FeaturesFirst, features, width);
    let encoder_bias = tensors.vector("encoder.bias", features, "feature");
    let decoder =
        tensors.matrix("decoder.weight", Axes::WidthFirst, features, width).map(Matrix::by_features);
    let decoder_bias = if has_decoder_bias {
        tensors.vector("decoder.bias", width, "coordinate")
    } else {
        Some(vec![0.0; width])
    };
    tensors.finish();
    let (Some(encoder), Some(encoder_bias), Some(decoder), Some(decoder_bias), Some(activation)) =
        (encoder, encoder_bias, decoder, decoder_bias, activation)
    else {
        return Ok(None);
    };
    if is_by_norm {
        check_lengths(context, &decoder, &activation)?;
    }
    let draft = Draft::new((encoder, encoder_bias), (decoder, decoder_bias), activation);
    let draft = Draft { subtracts_bias, norm, ..draft };
    Ok(Some(Reading::one(function, None, draft.at(reads, writes))))
}

/// With `sparsity_include_decoder_norm` its own code chooses by h·‖decoder row‖, which is h where rows have length 1.
fn check_lengths(context: &mut Context<'_>, decoder: &Matrix, activation: &Activation) -> Result<()> {
    let mut row = vec![0.0; decoder.width()];
    let (mut least, mut most) = (f64::INFINITY, 0f64);
    for feature in 0..decoder.features() {
        decoder.read(feature, 0..row.len(), &mut row)?;
        let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        (least, most) = (least.min(length), most.max(length));
    }
    if least > 0.99 && most < 1.01 {
        return Ok(());
    }
    let what = format!(
        "hyperparams.json: with `sparsity_include_decoder_norm` features are chosen by h times the length of their decoder \
         row, here {least:.2} to {most:.2}"
    );
    match activation {
        Activation::TopK { .. } => context.problems.add(format!("{what}; rows of length 1 are read")),
        Activation::JumpRelu { .. } => {
            context.warnings.push(format!("{what}; as in sae-lens, h alone is compared here"))
        }
        _ => {}
    }
    Ok(())
}

fn norm(settings: &Settings, width: usize) -> Norm {
    let root = (width as f64).sqrt();
    match settings.text("norm_activation").as_deref() {
        Some("dataset-wise") => {}
        Some("token-wise") => return Norm::ConstantNorm,
        _ => {
            settings.refuse("norm_activation", "dataset-wise, token-wise");
            return Norm::None;
        }
    }
    let Some(means) = settings.object("dataset_average_activation_norm") else {
        settings.missing("dataset_average_activation_norm");
        return Norm::None;
    };
    let read = |key: &str| {
        let mean = means.number(key).filter(|mean| *mean > 0.0);
        if mean.is_none() {
            means.refuse(key, "a number above 0");
        }
        mean.map_or(1.0, |mean| root / mean)
    };
    let norm = Norm::Scale { factor: read("in"), undo: read("out") };
    means.finish(&[]);
    norm
}
