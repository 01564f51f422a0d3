//! sparsify: `cfg.json` and `sae.safetensors` in a folder named after a module of transformers' model.

use easyroutine::Result;
use serde_json::{Value, json};

use super::draft::{Context, Draft, Reading};
use crate::activation::Activation;
use crate::place::Place;
use crate::tensors::Axes;

pub(crate) fn read(context: &mut Context<'_>) -> Result<Option<Reading>> {
    let cfg = context.json("cfg.json")?;
    let mut tensors = context.tensors("sae.safetensors")?;
    let Some(function) = cfg.text_or("activation", "topk") else { return Ok(None) };
    let k = cfg.size("k");
    let has_skip = cfg.flag("skip_connection").unwrap_or(false);
    let run = run(context);
    let said = cfg.flag("transcode");
    let is_transcoder = match said {
        Some(said) => said,
        None => was_transcoder(context, run.as_ref(), has_skip),
    };
    // Absolute values were an option of early versions.
    cfg.only("signed", &[json!(false)]);
    let d_in = cfg.size("d_in");
    let written = match cfg.value("num_latents").and_then(|value| value.as_u64()) {
        Some(0) | None => None,
        _ => cfg.size("num_latents"),
    };
    let factor = cfg.size("expansion_factor");
    cfg.finish(&["normalize_decoder", "multi_topk"]);
    if k.is_none() {
        cfg.missing("k");
    }
    if d_in.is_none() {
        cfg.missing("d_in");
    }
    let (Some(k), Some(d_in)) = (k, d_in) else { return Ok(None) };
    let Some(features) = written.or_else(|| d_in.checked_mul(factor?)) else {
        cfg.missing("num_latents");
        return Ok(None);
    };
    let activation = match function.as_str() {
        "topk" => Activation::TopK { k },
        "groupmax" if features.is_multiple_of(k) => Activation::GroupMax { k },
        "groupmax" => {
            context.problems.add(format!("cfg.json: {features} features are not {k} groups of one size"));
            return Ok(None);
        }
        _ => {
            cfg.refuse("activation", "topk, groupmax");
            return Ok(None);
        }
    };
    let d_out = tensors.sizes("W_dec", Axes::FeaturesFirst).map_or(d_in, |(_, width)| width);
    if !is_transcoder && d_out != d_in {
        context
            .problems
            .add(format!("sae.safetensors: `W_dec` writes vectors of {d_out}, but `d_in` is {d_in}"));
    }
    let encoder = tensors.matrix("encoder.weight", Axes::FeaturesFirst, features, d_in);
    let encoder_bias = tensors.vector("encoder.bias", features, "feature");
    let decoder = tensors.matrix("W_dec", Axes::FeaturesFirst, features, d_out);
    let decoder_bias = tensors.vector("b_dec", d_out, "coordinate");
    let skip = has_skip.then(|| tensors.matrix("W_skip", Axes::FeaturesFirst, d_out, d_in));
    tensors.finish();
    let name = module(context);
    let writes = context.place(Place::module(&name, Some("output")));
    let reads =
        if is_transcoder { context.place(Place::module(&name, Some("input"))) } else { writes.clone() };
    let (Some(encoder), Some(encoder_bias), Some(decoder), Some(decoder_bias)) =
        (encoder, encoder_bias, decoder, decoder_bias)
    else {
        return Ok(None);
    };
    let draft = Draft {
        // Versions that did not write `transcode` here subtracted it in transcoders too.
        subtracts_bias: !is_transcoder || said.is_none(),
        skip: skip.flatten(),
        ..Draft::new((encoder, encoder_bias), (decoder, decoder_bias), activation)
    };
    let architecture = if is_transcoder { format!("{function} transcoder") } else { function };
    let model = run.as_ref().and_then(|run| run.get("model")?.as_str()).map(str::to_owned);
    Ok(Some(Reading::one(architecture, model, draft.at(reads, writes))))
}

/// Whether it is a transcoder, of a version that said so in the run's configuration alone.
fn was_transcoder(context: &Context<'_>, run: Option<&Value>, has_skip: bool) -> bool {
    let said = run.and_then(|run| run.get("transcode")?.as_bool());
    let places = context.options.place.as_deref().map(|place| place.contains(','));
    if has_skip && said.is_none() && places.is_none() {
        context.problems.add(
            "cfg.json has a `skip_connection` but no `transcode`, as early versions, which wrote that into the config.json \
             above the folder: place that there, or name what it reads and writes, as in --place mlp_in_5,mlp_out_5",
        );
    }
    said.or(places).unwrap_or(false)
}

/// The folder's own name.
fn module(context: &Context<'_>) -> String {
    let whole = std::path::absolute(&context.folder).unwrap_or_else(|_| context.folder.clone());
    whole.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// The run's configuration, one folder up.
fn run(context: &Context<'_>) -> Option<Value> {
    let above = std::path::absolute(&context.folder).ok()?.parent()?.join("config.json");
    let found = std::fs::metadata(&above).ok()?;
    if found.len() > 1 << 20 {
        return None;
    }
    serde_json::from_slice(&std::fs::read(above).ok()?).ok()
}
