//! dictionary_learning: `ae.pt`, a pickle of tensors, and the training run's `config.json`.
//!
//! Its `AutoEncoder.from_pretrained` silently rescales features so that decoder rows have length 1. Here the numbers
//! are the file's.

use easyroutine::Result;
use easyroutine_sites::{Point, Site};

use super::draft::{Context, Draft, Reading};
use crate::activation::Activation;
use crate::place::Place;
use crate::settings::Settings;
use crate::tensors::{Axes, Tensors};

/// Training settings.
const INERT: &[&str] = &[
    "anneal_end",
    "anneal_start",
    "auxk_alpha",
    "bandwidth",
    "decay_start",
    "device",
    "dict_class",
    "dtype",
    "group_fractions",
    "group_sizes",
    "group_weights",
    "initial_sparsity_penalty",
    "k_anneal_steps",
    "l1_penalty",
    "layer",
    "lm_name",
    "lr",
    "n_sparsity_updates",
    "p_end",
    "p_start",
    "remove_bos",
    "resample_steps",
    "seed",
    "sparsity_function",
    "sparsity_penalty",
    "sparsity_queue_length",
    "sparsity_warmup_steps",
    "steps",
    "submodule_name",
    "target_l0",
    "threshold_beta",
    "threshold_start_step",
    "top_k_aux",
    "trainer_class",
    "wandb_name",
    "warmup_steps",
];

pub(crate) fn read(context: &mut Context<'_>) -> Result<Option<Reading>> {
    let config = context.json("config.json")?;
    let mut tensors = context.tensors("ae.pt")?;
    let Some(trainer) = config.object("trainer") else {
        config.missing("trainer");
        return Ok(None);
    };
    let buffer = config.object("buffer");
    config.finish(&[]);
    let Some(class) = trainer.text("dict_class") else {
        trainer.missing("dict_class");
        return Ok(None);
    };
    let model = trainer.text("lm_name");
    let k = trainer.size("k");
    let place = context.place(place(&trainer, buffer.as_ref()));
    let sizes = (trainer.size("activation_dim"), trainer.size("dict_size"));
    trainer.finish(INERT);
    let draft = draft(&class, k, &trainer, &mut tensors, context);
    tensors.finish();
    let Some(draft) = draft else { return Ok(None) };
    for (key, said, found) in
        [("activation_dim", sizes.0, draft.encoder.width()), ("dict_size", sizes.1, draft.encoder.features())]
    {
        if said.is_some_and(|said| said != found) {
            trainer.refuse(key, &format!("{found}, which the weights have"));
        }
    }
    Ok(Some(Reading::one(class, model, draft.at(place.clone(), place))))
}

fn draft(
    class: &str,
    k: Option<usize>,
    trainer: &Settings,
    tensors: &mut Tensors,
    context: &mut Context<'_>,
) -> Option<Draft> {
    // (names of encoder, decoder, decoder bias), their axes.
    let linear = (("encoder.weight", Axes::FeaturesFirst), ("decoder.weight", Axes::WidthFirst));
    let plain = (("W_enc", Axes::WidthFirst), ("W_dec", Axes::FeaturesFirst));
    let (((encoder, encoder_axes), (decoder, decoder_axes)), encoder_bias, decoder_bias, subtracts) =
        match class {
            "AutoEncoder" => (linear, Some("encoder.bias"), "bias", true),
            "AutoEncoderNew" => (linear, Some("encoder.bias"), "decoder.bias", false),
            "GatedAutoEncoder" => (linear, None, "decoder_bias", true),
            "AutoEncoderTopK" | "BatchTopKSAE" => (linear, Some("encoder.bias"), "b_dec", true),
            "JumpReluAutoEncoder" => (plain, Some("b_enc"), "b_dec", false),
            "MatryoshkaBatchTopKSAE" => (plain, Some("b_enc"), "b_dec", true),
            _ => {
                trainer.refuse(
                    "dict_class",
                    "AutoEncoder, AutoEncoderNew, GatedAutoEncoder, AutoEncoderTopK, BatchTopKSAE, \
                 MatryoshkaBatchTopKSAE, JumpReluAutoEncoder",
                );
                return None;
            }
        };
    let (features, width) = tensors.sizes(encoder, encoder_axes)?;
    let encoder = tensors.matrix(encoder, encoder_axes, features, width);
    let decoder = tensors.matrix(decoder, decoder_axes, features, width);
    let encoder_bias = match encoder_bias {
        Some(name) => tensors.vector(name, features, "feature"),
        None => Some(Vec::new()),
    };
    let decoder_bias = tensors.vector(decoder_bias, width, "coordinate");
    let activation = match class {
        "GatedAutoEncoder" => {
            let gate_bias = tensors.vector("gate_bias", features, "feature");
            let magnitude_bias = tensors.vector("mag_bias", features, "feature");
            let scale = tensors.exponentials("r_mag", features, "feature");
            Activation::Gated { gate_bias: gate_bias?, magnitude_bias: magnitude_bias?, scale: scale? }
        }
        "JumpReluAutoEncoder" => {
            Activation::JumpRelu { threshold: tensors.vector("threshold", features, "feature")? }
        }
        "AutoEncoderTopK" => {
            // Its separate threshold serves another purpose.
            tensors.ignore("threshold");
            Activation::TopK { k: written_k(k, trainer, tensors)? }
        }
        "BatchTopKSAE" | "MatryoshkaBatchTopKSAE" => {
            let _ = written_k(k, trainer, tensors)?;
            tensors.ignore("group_sizes");
            let threshold = tensors.scalar("threshold")?;
            if threshold < 0.0 {
                context.warnings.push(format!(
                    "the threshold is {threshold}, as before training: every feature above 0 counts"
                ));
            }
            Activation::JumpRelu { threshold: vec![threshold; features] }
        }
        _ => Activation::Relu,
    };
    let draft = Draft::new((encoder?, encoder_bias?), (decoder?, decoder_bias?), activation);
    Some(Draft { subtracts_bias: subtracts, ..draft })
}

/// k is in the weights and in the configuration, which must agree.
fn written_k(said: Option<usize>, trainer: &Settings, tensors: &mut Tensors) -> Option<usize> {
    let found =
        if tensors.has("k") { tensors.integer("k").and_then(|k| usize::try_from(k).ok()) } else { None };
    match (found, said) {
        (Some(found), Some(said)) if found != said => {
            trainer.refuse("k", &format!("{found}, which the weights have"));
            None
        }
        (Some(k), _) | (None, Some(k)) if k > 0 => Some(k),
        _ => {
            trainer.missing("k");
            None
        }
    }
}

/// `resid_post_layer_8`, `mlp_layer_3`, or a module of transformers' model.
fn place(trainer: &Settings, buffer: Option<&Settings>) -> Result<Place, String> {
    let layer = trainer.layer("layer");
    let name = trainer.text("submodule_name");
    let side = buffer.and_then(|buffer| buffer.text("io"));
    let side = match side.as_deref() {
        None | Some("out") => "output",
        Some("in") => "input",
        Some(other) => return Err(format!("config.json: `io` is `{}`", other.escape_debug())),
    };
    let Some(name) = name else {
        let layer = layer.ok_or("config.json: neither `submodule_name` nor `layer` says where it reads")?;
        let site = if side == "input" { Site::ResidIn } else { Site::ResidOut };
        return Ok(Place::of(Point::layer_of(site, layer)));
    };
    let (stem, number) = match name.rsplit_once("_layer_") {
        Some((stem, number)) => (stem, number.parse::<u32>().ok().map(|n| n as usize)),
        None => (name.as_str(), layer),
    };
    let place = match (stem, number, side) {
        ("resid_post" | "resid", Some(number), "output") => {
            Ok(Place::of(Point::layer_of(Site::ResidOut, number)))
        }
        ("resid_pre", Some(number), _) => Ok(Place::of(Point::layer_of(Site::ResidIn, number))),
        ("mlp" | "mlp_out", Some(number), side) => Place::module(&format!("layers.{number}.mlp"), Some(side)),
        ("attn" | "attention" | "attn_out", Some(number), side) => {
            Place::module(&format!("layers.{number}.self_attn"), Some(side))
        }
        _ => Place::module(&name, Some(side)),
    }?;
    match (place.layer(), layer) {
        (Some(found), Some(layer)) if found != layer => {
            Err(format!("config.json: `submodule_name` is of layer {found}, but `layer` is {layer}"))
        }
        _ => Ok(place),
    }
}
