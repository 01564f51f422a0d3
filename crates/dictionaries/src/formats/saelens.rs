//! SAELens: `cfg.json`, `sae_weights.safetensors`, and optionally `sparsity.safetensors`.
//!
//! Configurations of versions below 6 have other keys and defaults (`handle_pre_6_0_config` in
//! `loading/pretrained_sae_loaders.py`).

use easyroutine::Result;
use serde_json::{Value, json};

use super::draft::{Context, Draft, Reading};
use crate::activation::Activation;
use crate::norm::Norm;
use crate::place::Place;
use crate::settings::Settings;
use crate::tensors::{Axes, Matrix, Tensors};

/// Keys about training, data and authors.
const INERT: &[&str] = &[
    "act_store_device",
    "adam_beta1",
    "adam_beta2",
    "autocast",
    "autocast_lm",
    "aux_loss_coefficient",
    "b_dec_init_method",
    "cached_activations_path",
    "checkpoint_path",
    "compile_llm",
    "compile_sae",
    "context_size",
    "dataset",
    "dataset_path",
    "dataset_trust_remote_code",
    "dead_feature_estimation_method",
    "dead_feature_threshold",
    "dead_feature_window",
    "decoder_heuristic_init",
    "decoder_heuristic_init_norm",
    "decoder_init_norm",
    "decoder_orthogonal_init",
    "device",
    "disable_concat_sequences",
    "dtype",
    "eval_batch_size_prompts",
    "eval_every_n_wandb_logs",
    "exclude_special_tokens",
    "expansion_factor",
    "feature_reinit_scale",
    "feature_sampling_method",
    "feature_sampling_window",
    "finetuning_method",
    "finetuning_tokens",
    "from_pretrained_path",
    "ghost_grad_ratio",
    "hook_eval",
    "init_encoder_as_decoder_transpose",
    "is_dataset_tokenized",
    "is_training",
    "jumprelu_bandwidth",
    "jumprelu_init_threshold",
    "jumprelu_sparsity_loss_mode",
    "jumprelu_ste_to_input",
    "jumprelu_tanh_scale",
    "kwargs",
    "l0_coefficient",
    "l0_warm_up_steps",
    "l1_coefficient",
    "l1_warm_up_steps",
    "llm_batch_size",
    "llm_compilation_mode",
    "log_activations_store_to_wandb",
    "log_optimizer_state_to_wandb",
    "log_to_wandb",
    "logger",
    "lp_norm",
    "lr",
    "lr_decay_steps",
    "lr_end",
    "lr_scheduler_name",
    "lr_warm_up_steps",
    "matryoshka_widths",
    "model_batch_size",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "model_kwargs",
    "model_name",
    "mse_loss_normalization",
    "n_batches_in_buffer",
    "n_batches_in_store_buffer",
    "n_checkpoints",
    "n_eval_batches",
    "n_restart_cycles",
    "neuronpedia_id",
    "noise_scale",
    "normalize_sae_decoder",
    "num_layers",
    "pre_act_loss_coefficient",
    "prepend_bos",
    "release",
    "resample_batches",
    "resume",
    "run_name",
    "sae_compilation_mode",
    "sae_id",
    "sae_lens_training_version",
    "sae_lens_version",
    "sae_group",
    "scale_sparsity_penalty_by_decoder_norm",
    "seed",
    "sequence_separator_token",
    "seqpos_slice",
    "sparse_loss_coefficient",
    "store_batch_size",
    "store_batch_size_prompts",
    "streaming",
    "subset_fraction",
    "target_l0",
    "tokens_per_buffer",
    "topk_threshold_lr",
    "total_training_steps",
    "total_training_tokens",
    "train_batch_size",
    "train_batch_size_tokens",
    "training_tokens",
    "unique_id",
    "use_cached_activations",
    "use_ghost_grads",
    "use_matryoshka_aux_loss",
    "use_sparse_activations",
    "verbose",
    "wandb_entity",
    "wandb_id",
    "wandb_log_frequency",
    "wandb_project",
    "weight_decay",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Standard,
    Gated,
    JumpRelu,
    TopK,
}

pub(crate) fn read(context: &mut Context<'_>) -> Result<Option<Reading>> {
    let cfg = context.json("cfg.json")?;
    let mut tensors = context.tensors("sae_weights.safetensors")?;
    let metadata = cfg.object("metadata");
    let is_old = is_before_6(&cfg, metadata.as_ref());
    let Some(architecture) = cfg.text_or("architecture", "standard") else { return Ok(None) };
    let (mut kind, is_transcoder, has_skip) = match architecture.as_str() {
        "standard" => (Kind::Standard, false, false),
        "gated" => (Kind::Gated, false, false),
        "jumprelu" => (Kind::JumpRelu, false, false),
        "topk" => (Kind::TopK, false, false),
        // They are saved as jumprelu; one that is not still has its threshold.
        "batchtopk" | "matryoshka_batchtopk" => (Kind::JumpRelu, false, false),
        "transcoder" => (Kind::Standard, true, false),
        "skip_transcoder" => (Kind::Standard, true, true),
        "jumprelu_transcoder" => (Kind::JumpRelu, true, false),
        "jumprelu_skip_transcoder" => (Kind::JumpRelu, true, true),
        _ => {
            cfg.refuse(
                "architecture",
                "standard, gated, jumprelu, topk, batchtopk, (jumprelu_)(skip_)transcoder",
            );
            return Ok(None);
        }
    };
    let k = chosen(&cfg, &mut kind);
    let d_in = cfg.size("d_in").or_else(|| tensors.sizes("W_enc", Axes::WidthFirst).map(|(_, width)| width));
    let sizes =
        cfg.size("d_sae").or_else(|| tensors.sizes("W_enc", Axes::WidthFirst).map(|(features, _)| features));
    let (Some(d_in), Some(d_sae)) = (d_in, sizes) else { return Ok(None) };
    let d_out = cfg.size("d_out").unwrap_or(d_in);
    if !is_transcoder && d_out != d_in {
        cfg.refuse("d_out", "the same as `d_in` unless it is a transcoder");
    }
    let norm = norm(&cfg, context);
    if is_transcoder && matches!(norm, Norm::Scale { .. }) {
        cfg.refuse("normalize_activations", "none, layer_norm or constant_norm_rescale for a transcoder");
    }
    let apply = cfg.flag("apply_b_dec_to_input");
    if is_transcoder && apply == Some(true) {
        cfg.refuse("apply_b_dec_to_input", "false for a transcoder, whose `b_dec` is of its output");
    }
    let rescales = cfg.flag("rescale_acts_by_decoder_norm").unwrap_or(false);
    if rescales && kind != Kind::TopK && !architecture.contains("batchtopk") {
        cfg.refuse("rescale_acts_by_decoder_norm", "true for topk alone");
    }
    let (reads, writes) = places(&cfg, metadata.as_ref(), is_transcoder, context);
    let model = cfg.text("model_name").or_else(|| metadata.as_ref().and_then(|m| m.text("model_name")));
    scaling_factor(&cfg, &mut tensors, d_sae, context);
    cfg.finish(INERT);

    let encoder = tensors.matrix("W_enc", Axes::WidthFirst, d_sae, d_in);
    let decoder = tensors.matrix("W_dec", Axes::FeaturesFirst, d_sae, d_out);
    let decoder_bias = tensors.vector("b_dec", d_out, "coordinate");
    let encoder_bias = match kind {
        Kind::Gated => Some(Vec::new()),
        _ => tensors.vector("b_enc", d_sae, "feature"),
    };
    let activation = activation(kind, k, d_sae, &mut tensors);
    let skip: Option<Option<Matrix>> = if has_skip {
        tensors.matrix("W_skip", Axes::FeaturesFirst, d_out, d_in).map(Some)
    } else {
        Some(None)
    };
    tensors.finish();
    published_l0(context, d_sae)?;
    let (Some(encoder), Some(decoder), Some(decoder_bias), Some(encoder_bias), Some(activation), Some(skip)) =
        (encoder, decoder, decoder_bias, encoder_bias, activation, skip)
    else {
        return Ok(None);
    };
    let draft = Draft {
        subtracts_bias: apply.unwrap_or(true) && !is_transcoder,
        norm,
        undoes_norm: !is_transcoder,
        rescales,
        skip,
        ..Draft::new((encoder, encoder_bias), (decoder, decoder_bias), activation)
    };
    let architecture = if is_old { format!("{architecture} (before version 6)") } else { architecture };
    Ok(Some(Reading::one(architecture, model, draft.at(reads, writes))))
}

/// Whether a configuration predates version 6, whose keys it may lack.
fn is_before_6(cfg: &Settings, metadata: Option<&Settings>) -> bool {
    let version = cfg.text("sae_lens_version").or_else(|| metadata.and_then(|m| m.text("sae_lens_version")));
    version.is_none_or(|version| {
        version.split('.').next().and_then(|n| n.parse::<u32>().ok()).is_none_or(|n| n < 6)
    })
}

/// The k of topk, which old configurations give as an activation function.
fn chosen(cfg: &Settings, kind: &mut Kind) -> Option<usize> {
    let function = cfg.text("activation_fn_str").or_else(|| cfg.text("activation_fn"));
    let kwargs = cfg.object("activation_fn_kwargs");
    let k = cfg.size("k").or_else(|| kwargs.as_ref().and_then(|kwargs| kwargs.size("k")));
    match function.as_deref() {
        None | Some("relu") => {}
        Some("topk") => *kind = Kind::TopK,
        Some(_) => {
            let key = if cfg.has("activation_fn_str") { "activation_fn_str" } else { "activation_fn" };
            cfg.refuse(key, "relu, topk");
        }
    }
    let is_wrong = kwargs.as_ref().is_some_and(|kwargs| kwargs.has("k"));
    if let Some(kwargs) = kwargs {
        kwargs.finish(&[]);
    }
    if *kind == Kind::TopK && k.is_none() && !is_wrong {
        cfg.missing("k");
    }
    k
}

fn norm(cfg: &Settings, context: &mut Context<'_>) -> Norm {
    match cfg.value("normalize_activations") {
        None | Some(Value::Bool(false)) => return Norm::None,
        Some(Value::Bool(true)) => {
            return context.given_norm("it was trained on activations that were scaled by their mean norm");
        }
        Some(Value::String(name)) => match name.as_str() {
            "none" => return Norm::None,
            "expected_average_only_in" => {
                return context
                    .given_norm("cfg.json: `normalize_activations` is \"expected_average_only_in\"");
            }
            "constant_norm_rescale" => return Norm::ConstantNorm,
            "layer_norm" => return Norm::LayerNorm,
            _ => {}
        },
        Some(_) => {}
    }
    cfg.refuse(
        "normalize_activations",
        "none, layer_norm, constant_norm_rescale, and expected_average_only_in with its factor",
    );
    Norm::None
}

fn places(
    cfg: &Settings,
    metadata: Option<&Settings>,
    is_transcoder: bool,
    context: &Context<'_>,
) -> (Option<Place>, Option<Place>) {
    let of = |key: &str| cfg.text(key).or_else(|| metadata.and_then(|metadata| metadata.text(key)));
    for settings in [Some(cfg), metadata].into_iter().flatten() {
        for key in ["hook_head_index", "hook_point_head_index", "hook_head_index_out"] {
            if settings.value(key).is_some() {
                settings.refuse(key, "null: all heads together");
            }
        }
    }
    let layer = cfg.layer("hook_layer").or_else(|| cfg.layer("hook_point_layer"));
    let hook = of("hook_name").or_else(|| cfg.text("hook_point"));
    let out = of("hook_name_out");
    cfg.only("reshape_activations", &[json!("none"), json!("hook_z")]);
    let named = |name: String| {
        let name = layer.map_or_else(|| name.clone(), |layer| name.replace("{layer}", &layer.to_string()));
        let place = context.place(Place::hook(&name, None))?;
        if let (Some(said), Some(layer)) = (place.layer(), layer)
            && said != layer
        {
            context.problems.add(format!("cfg.json: the hook is of layer {said}, but the layer is {layer}"));
        }
        Some(place)
    };
    let reads = hook.and_then(named);
    let writes = match (is_transcoder, out) {
        (true, Some(out)) => named(out),
        (true, None) => {
            if context.options.place.is_none() {
                context
                    .problems
                    .add("cfg.json: `hook_name_out` is missing: a transcoder writes elsewhere than it reads");
            }
            None
        }
        (false, _) => reads.clone(),
    };
    (reads, writes)
}

fn activation(kind: Kind, k: Option<usize>, d_sae: usize, tensors: &mut Tensors) -> Option<Activation> {
    Some(match kind {
        Kind::Standard => Activation::Relu,
        Kind::TopK => Activation::TopK { k: k? },
        Kind::JumpRelu if tensors.has("log_threshold") => {
            Activation::JumpRelu { threshold: tensors.exponentials("log_threshold", d_sae, "feature")? }
        }
        Kind::JumpRelu => Activation::JumpRelu { threshold: tensors.vector("threshold", d_sae, "feature")? },
        Kind::Gated => {
            let gate_bias = tensors.vector("b_gate", d_sae, "feature");
            let magnitude_bias = tensors.vector("b_mag", d_sae, "feature");
            let scale = tensors.exponentials("r_mag", d_sae, "feature");
            Activation::Gated { gate_bias: gate_bias?, magnitude_bias: magnitude_bias?, scale: scale? }
        }
    })
}

/// A factor trained after the rest. Files of some versions contain it, all ones, even if untrained.
fn scaling_factor(cfg: &Settings, tensors: &mut Tensors, d_sae: usize, context: &Context<'_>) {
    let is_meant = cfg.flag("finetuning_scaling_factor").unwrap_or(false);
    let has = tensors.has("scaling_factor");
    let factor = if has { tensors.vector("scaling_factor", d_sae, "feature") } else { None };
    if factor.is_some_and(|factor| factor.iter().any(|x| (x - 1.0).abs() > 1e-5)) {
        context.problems.add("sae_weights.safetensors: a `scaling_factor` other than 1 is not read");
    } else if is_meant && !has {
        cfg.refuse("finetuning_scaling_factor", "false, where the weights have no `scaling_factor`");
    }
}

/// L0 from the publisher's frequencies, which are stored as logarithms.
fn published_l0(context: &mut Context<'_>, d_sae: usize) -> Result<()> {
    if !context.folder.join("sparsity.safetensors").is_file() {
        return Ok(());
    }
    let mut tensors = context.tensors("sparsity.safetensors")?;
    if let Some(logs) = tensors.vector("sparsity", d_sae, "feature") {
        let l0 = logs.iter().map(|log| 10f64.powf(f64::from(*log))).sum();
        context.figures.push(("l0".to_owned(), l0));
    }
    tensors.finish();
    Ok(())
}
