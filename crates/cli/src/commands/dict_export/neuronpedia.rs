//! Writes batches of features for Neuronpedia, in SAEDashboard's format (`neuronpedia_dashboard.py`).

use std::path::Path;

use serde_json::{Value, json};

use super::{Feature, each_feature};
use crate::args::DictExport;
use crate::failure::Failure;
use crate::output;

/// Features per file.
const BATCH: usize = 256;

/// Writes `batch-0.json`, `batch-1.json`, … into a folder.
pub(super) fn write(export: &DictExport, folder: &Path) -> Result<(), Failure> {
    let about = about(export)?;
    std::fs::create_dir_all(folder).map_err(|e| Failure::failed(format!("{}: {e}", folder.display())))?;
    let (mut batch, mut written) = (Vec::new(), 0);
    let mut save = |batch: &mut Vec<Value>| -> Result<(), Failure> {
        let json = json!({
            "model_id": about.model,
            "layer": about.layer,
            "sae_set": about.set,
            "features": std::mem::take(batch),
        });
        let file = folder.join(format!("batch-{written}.json"));
        written += 1;
        output::replace(&file, |at| std::fs::write(at, json.to_string()))
    };
    each_feature(&export.file, |feature| {
        batch.push(one(feature, about.prompts)?);
        if batch.len() == BATCH { save(&mut batch) } else { Ok(()) }
    })?;
    if !batch.is_empty() {
        save(&mut batch)?;
    }
    output::note("wrote", &format!("{written} batches to {}", folder.display()));
    Ok(())
}

/// Facts shared by all features.
struct About {
    model: String,
    layer: u64,
    set: String,
    prompts: u64,
}

fn about(export: &DictExport) -> Result<About, Failure> {
    let beside = export.file.with_extension("json");
    let text = std::fs::read(&beside).map_err(|e| {
        Failure::failed(format!("{}: {e}", beside.display()))
            .hint("it is written beside the .jsonl file, and says what the features are of")
    })?;
    let json: Value =
        serde_json::from_slice(&text).map_err(|e| Failure::failed(format!("{}: {e}", beside.display())))?;
    let of_place = |key: &str| {
        let place = json["dictionary"]["layers"][0][key].as_str()?;
        place.rsplit_once('_')?.1.trim_start_matches('L').parse().ok()
    };
    // For a set, the key ends with the layer.
    let of_key = || {
        let is_set = json["dictionary"]["is_set"] == true;
        json["key"].as_str().filter(|_| is_set)?.rsplit_once('_')?.1.parse().ok()
    };
    let stated: Option<u64> = of_key().or_else(|| of_place("writes_activation"));
    let layer = match (export.layer.map(u64::from), stated) {
        (Some(given), Some(stated)) if given != stated => {
            return Err(Failure::usage(format!(
                "--layer {given}: {} says that its features are of layer {stated}",
                beside.display()
            ))
            .hint("leave --layer out: it is for dictionaries that do not say their layer"));
        }
        (given, stated) => stated.or(given),
    };
    Ok(About {
        model: json["model"]["name"].as_str().unwrap_or_default().to_owned(),
        layer: layer.ok_or_else(|| {
            Failure::usage("which layer the features are of is not known").hint("say it: --layer 12")
        })?,
        set: match &export.set {
            Some(set) => set.clone(),
            None => json["key"].as_str().unwrap_or_default().trim_start_matches("features_").to_owned(),
        },
        prompts: json["prompts"].as_u64().unwrap_or(0),
    })
}

/// A feature. Its strongest tokens form the group of top activations, whose `bin_min` and `bin_contains` are -1; random
/// ones form one interval that holds all.
fn one(feature: &Feature, prompts: u64) -> Result<Value, Failure> {
    let max = feature.number("max")?;
    let group = |key: &str, bin: [f64; 3]| -> Vec<Value> {
        let sequence = |kept: &Value| {
            json!({"bin_min": bin[0], "bin_max": bin[1], "bin_contains": bin[2],
                "tokens": kept["tokens"], "values": kept["values"]})
        };
        feature.list(key).iter().map(sequence).collect()
    };
    let mut activations = group("top", [-1.0, max, -1.0]);
    activations.extend(group("drawn", [0.0, max, 1.0]));
    let bins = feature.list("histogram");
    let middle = |bin: &Value| (bin[0].as_f64().unwrap_or(0.0) + bin[1].as_f64().unwrap_or(0.0)) / 2.0;
    let none: [Value; 0] = [];
    Ok(json!({
        "feature_index": feature.value["feature"],
        "neuron_alignment_indices": none,
        "neuron_alignment_values": none,
        "neuron_alignment_l1": none,
        "correlated_neurons_indices": none,
        "correlated_neurons_l1": none,
        "correlated_neurons_pearson": none,
        "correlated_features_indices": none,
        "correlated_features_l1": none,
        "correlated_features_pearson": none,
        "neg_str": feature.each("bottom_logits", "token"),
        "neg_values": feature.each("bottom_logits", "value"),
        "pos_str": feature.each("top_logits", "token"),
        "pos_values": feature.each("top_logits", "value"),
        "frac_nonzero": feature.number("frequency")?,
        "freq_hist_data_bar_values": bins.iter().map(middle).collect::<Vec<_>>(),
        "freq_hist_data_bar_heights": bins.iter().map(|bin| bin[2].clone()).collect::<Vec<_>>(),
        "logits_hist_data_bar_heights": none,
        "logits_hist_data_bar_values": none,
        "n_prompts_total": prompts,
        "n_tokens_in_prompt": 0,
        "dataset": "",
        "decoder_weights_dist": none,
        "activations": activations,
    }))
}
