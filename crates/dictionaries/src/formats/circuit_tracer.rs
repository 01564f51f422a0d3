//! circuit-tracer: `config.yaml` with one file per layer, or two for a cross-layer transcoder.

use std::path::{Component, Path};

use easyroutine::Result;
use serde_json::Value;

use super::draft::{Context, Draft, Reading};
use super::gemma_scope_2;
use crate::activation::Activation;
use crate::place::Place;
use crate::settings::Settings;
use crate::tensors::{Axes, Tensors};
use crate::yaml;

/// Limit on the layers of a set.
const MOST_LAYERS: usize = 1000;
/// How the names of a set's files begin where the configuration does not list them.
pub(super) const LAYER: &str = "layer_";

pub(crate) fn read(context: &mut Context<'_>) -> Result<Option<Reading>> {
    let bytes = context.small("config.yaml")?;
    let parsed =
        String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned()).and_then(|text| yaml::read(&text));
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(what) => {
            context.problems.add(format!("config.yaml {what}"));
            return Ok(None);
        }
    };
    let config = context.readable(Settings::new("config.yaml", parsed, &context.problems))?;
    let model = config.text("model_name");
    let hooks = [config.text("feature_input_hook"), config.text("feature_output_hook")];
    for (key, hook) in ["feature_input_hook", "feature_output_hook"].iter().zip(&hooks) {
        if hook.is_none() {
            config.missing(key);
        }
    }
    let kind = config.text("model_kind");
    let listed = config.value("transcoders").cloned();
    config.finish(&["scan"]);
    let [Some(reads), Some(writes)] = hooks else { return Ok(None) };
    let at = |context: &Context<'_>, draft: Draft, layer: usize| {
        let reads = context.place(Place::hook(&reads, Some(layer)));
        let writes = context.place(Place::hook(&writes, Some(layer)));
        draft.at(reads, writes)
    };
    let drafts = match kind.as_deref() {
        Some("transcoder_set") => per_layer(context, &config, listed, &at)?,
        Some("cross_layer_transcoder") => cross_layer(context, &at)?,
        _ => {
            config.refuse("model_kind", "transcoder_set, cross_layer_transcoder");
            return Ok(None);
        }
    };
    let is_cross_layer = kind.as_deref() == Some("cross_layer_transcoder");
    let architecture = kind.unwrap_or_default();
    Ok(Some(Reading { architecture, model, drafts, is_set: true, is_cross_layer }))
}

type At<'f> = dyn Fn(&Context<'_>, Draft, usize) -> Draft + 'f;

fn per_layer(
    context: &mut Context<'_>,
    config: &Settings,
    listed: Option<Value>,
    at: &At<'_>,
) -> Result<Vec<Draft>> {
    let entries: Vec<(Option<usize>, Value)> = match listed {
        Some(Value::Array(items)) => items.into_iter().enumerate().map(|(i, item)| (Some(i), item)).collect(),
        Some(Value::Object(map)) => map.into_iter().map(|(key, item)| (key.parse().ok(), item)).collect(),
        // Without a list the files are layer_0.safetensors and so on.
        None if counted(context, LAYER) > 0 => {
            let n = all_from_0(context, &[LAYER]).unwrap_or(0);
            (0..n).map(|i| (Some(i), Value::String(format!("{LAYER}{i}.safetensors")))).collect()
        }
        _ => {
            config.refuse("transcoders", "a list of files, one a layer");
            return Ok(Vec::new());
        }
    };
    if entries.len() > MOST_LAYERS {
        context.problems.add(format!("config.yaml: more than {MOST_LAYERS} transcoders"));
        return Ok(Vec::new());
    }
    let mut drafts = Vec::new();
    for (layer, item) in entries {
        let (Some(layer), Some(file)) = (layer.filter(|layer| *layer < MOST_LAYERS), item.as_str()) else {
            context
                .problems
                .add(format!("config.yaml: `transcoders` holds {item}, which is not a file of a layer"));
            continue;
        };
        let mut tensors = match context.elsewhere.get(file) {
            Some(path) => context.tensors_at(&path.clone(), file)?,
            None if file.starts_with("hf://") => {
                context.problems.add(format!(
                    "config.yaml: `{}` is a file on the hub; download it and name it by its path in this folder",
                    file.escape_debug()
                ));
                continue;
            }
            None if !is_inside(file) || !context.folder.join(file).is_file() => {
                context
                    .problems
                    .add(format!("config.yaml: no file `{}` in this folder", file.escape_debug()));
                continue;
            }
            None => context.tensors(file)?,
        };
        let draft = if file.split('?').next().is_some_and(|file| file.ends_with(".npz")) {
            gemma_scope(&mut tensors)
        } else if tensors.has("w_enc") {
            gemma_scope_2::transcoder(&mut tensors)
        } else {
            transcoder(&mut tensors)
        };
        tensors.finish();
        drafts.extend(draft.map(|draft| (layer, at(context, draft, layer))));
    }
    drafts.sort_by_key(|(layer, _)| *layer);
    // Each is independent: its number in the set is its only part.
    let numbered = drafts.into_iter().enumerate();
    Ok(numbered.map(|(i, (_, draft))| Draft { parts: i..i + 1, ..draft }).collect())
}

fn is_inside(file: &str) -> bool {
    Path::new(file).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

fn transcoder(tensors: &mut Tensors) -> Option<Draft> {
    let (features, d_in) = tensors.sizes("W_enc", Axes::FeaturesFirst)?;
    let (_, d_out) = tensors.sizes("W_dec", Axes::FeaturesFirst)?;
    let encoder = tensors.matrix("W_enc", Axes::FeaturesFirst, features, d_in);
    let decoder = tensors.matrix("W_dec", Axes::FeaturesFirst, features, d_out);
    let encoder_bias = tensors.vector("b_enc", features, "feature");
    let decoder_bias = tensors.vector("b_dec", d_out, "coordinate");
    let activation = match tensors.has("activation_function.threshold") {
        true => jump_relu(tensors, "activation_function.threshold", features)?,
        false => Activation::Relu,
    };
    let skip = tensors.has("W_skip").then(|| tensors.matrix("W_skip", Axes::FeaturesFirst, d_out, d_in));
    let draft = Draft::new((encoder?, encoder_bias?), (decoder?, decoder_bias?), activation);
    Some(Draft { skip: skip.flatten(), ..draft })
}

/// A transcoder of Gemma Scope in a set (circuit-tracer, `single_layer_transcoder.py`, `load_gemma_scope_transcoder`).
fn gemma_scope(tensors: &mut Tensors) -> Option<Draft> {
    let (features, d_in) = tensors.sizes("W_enc", Axes::WidthFirst)?;
    let (_, d_out) = tensors.sizes("W_dec", Axes::FeaturesFirst)?;
    let encoder = tensors.matrix("W_enc", Axes::WidthFirst, features, d_in);
    let decoder = tensors.matrix("W_dec", Axes::FeaturesFirst, features, d_out);
    let encoder_bias = tensors.vector("b_enc", features, "feature");
    let decoder_bias = tensors.vector("b_dec", d_out, "coordinate");
    let activation = jump_relu(tensors, "threshold", features)?;
    Some(Draft::new((encoder?, encoder_bias?), (decoder?, decoder_bias?), activation))
}

/// h above its threshold. circuit-tracer takes no relu of it, so that a threshold below 0 would give features below 0.
fn jump_relu(tensors: &mut Tensors, name: &str, features: usize) -> Option<Activation> {
    let threshold = tensors.vector(name, features, "feature")?;
    if let Some(at) = threshold.iter().position(|threshold| *threshold < 0.0) {
        let what = format!("holds {} at {at}, which lets features below 0 through", threshold[at]);
        return tensors.wrong(name, &what);
    }
    Some(Activation::JumpRelu { threshold })
}

/// Files of a folder whose names begin in a way.
fn counted(context: &Context<'_>, start: &str) -> usize {
    let entries = std::fs::read_dir(&context.folder).into_iter().flatten().flatten().take(100_000);
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(start) && name.ends_with(".safetensors")).count()
}

/// The number of layers, where every kind of file is there for each of them. At a gap later layers would be dropped
/// silently, so that is a problem.
fn all_from_0(context: &Context<'_>, starts: &[&str]) -> Option<usize> {
    let n = counted(context, starts.first()?);
    let has = |start: &str, i: usize| context.folder.join(format!("{start}{i}.safetensors")).is_file();
    let is_whole = starts.iter().all(|start| counted(context, start) == n && (0..n).all(|i| has(start, i)));
    if n > 0 && n <= MOST_LAYERS && is_whole {
        return Some(n);
    }
    let files: Vec<String> = starts.iter().map(|start| format!("{start}N.safetensors")).collect();
    context.problems.add(format!("{} are expected for every layer from 0 on", files.join(" and ")));
    None
}

fn cross_layer(context: &mut Context<'_>, at: &At<'_>) -> Result<Vec<Draft>> {
    let Some(n) = all_from_0(context, &["W_enc_", "W_dec_"]) else { return Ok(Vec::new()) };
    let mut drafts = Vec::new();
    for layer in 0..n {
        let mut encoder_file = context.tensors(&format!("W_enc_{layer}.safetensors"))?;
        let mut decoder_file = context.tensors(&format!("W_dec_{layer}.safetensors"))?;
        let named = |part: &str| format!("{part}_{layer}");
        let Some((features, d_in)) = encoder_file.sizes(&named("W_enc"), Axes::FeaturesFirst) else {
            continue;
        };
        let shape = decoder_file.shape(&named("W_dec")).unwrap_or_default();
        let d_out = shape.last().copied().unwrap_or(0);
        let encoder = encoder_file.matrix(&named("W_enc"), Axes::FeaturesFirst, features, d_in);
        let decoder = decoder_file.layered(&named("W_dec"), features, n - layer, d_out);
        let encoder_bias = encoder_file.vector(&named("b_enc"), features, "feature");
        let decoder_bias = encoder_file.vector(&named("b_dec"), d_out, "coordinate");
        let threshold = named("threshold");
        let activation = match encoder_file.has(&threshold) {
            true => jump_relu(&mut encoder_file, &threshold, features),
            false => Some(Activation::Relu),
        };
        encoder_file.finish();
        decoder_file.finish();
        if let (Some(encoder), Some(encoder_bias), Some(decoder), Some(decoder_bias), Some(activation)) =
            (encoder, encoder_bias, decoder, decoder_bias, activation)
        {
            let draft = Draft::new((encoder, encoder_bias), (decoder, decoder_bias), activation);
            drafts.push(Draft { parts: layer..n, ..at(context, draft, layer) });
        }
    }
    Ok(drafts)
}
