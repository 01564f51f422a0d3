//! Tuned lenses in the files of the tuned-lens package, and the state from which training continues.

use std::io::Write;
use std::path::Path;

use easyroutine_files::torch::{self, Item, TorchTensor};
use easyroutine_files::{Encoding, HeaderEntry, ShardedSafeTensors, safetensors_head};
use serde_json::{Map, Value, json};

use super::{Optimiser, Tuning};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::summed::{Summed, check_origin};

/// `config.json` of a tuned lens (tuned-lens, `nn/lenses.py`: `TunedLensConfig`).
///
/// # Errors
/// If the model has no unembedding, or one of its files was written to before all its weights were packed.
pub fn tuned_lens_config(model: &Model, base_model: &str, revision: Option<&str>) -> Result<Value> {
    Ok(json!({
        "base_model_name_or_path": base_model,
        "d_model": model.arch().d_model,
        "num_hidden_layers": model.arch().layers.len(),
        "bias": true,
        "base_model_revision": revision,
        "unembed_hash": model.unembedding()?.tuned_lens_hash()?,
        "lens_type": "linear_tuned_lens",
    }))
}

/// `params.pt` of a tuned lens: `{"0.weight": [D, D], "0.bias": [D], …}`, as torch.save writes it.
///
/// # Errors
/// If it exceeds 4 GiB.
pub fn save_tuned_lens(tuning: &Tuning) -> Result<Vec<u8>> {
    let d = tuning.d_model;
    let tensor = |name: String, shape: Vec<usize>, values: &[f32]| {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        (Item::Text(name), Item::Tensor(TorchTensor { encoding: Encoding::F32, shape, bytes }))
    };
    let entries = (0..tuning.n_layers()).flat_map(|layer| {
        [
            tensor(format!("{layer}.weight"), vec![d, d], tuning.weight(layer)),
            tensor(format!("{layer}.bias"), vec![d], tuning.bias(layer)),
        ]
    });
    Ok(torch::write(&Item::Map(entries.collect()))?)
}

/// What a training depends on besides its optimiser and steps: [`Tuning::resume`] compares it. `model_digest` is the
/// model's [identity by content](crate::identity::Identity::digest); the rows of a step are drawn as in
/// [`shuffled`](super::shuffled).
pub fn tuning_settings(model_digest: &str, rows: &[Vec<u32>], rows_of_step: usize, seed: u64) -> Value {
    let mut all = Summed::of("prompts");
    rows.iter().for_each(|ids| all.add(&[ids], ""));
    let prompts = all.to_json();
    json!({
        "model_digest": model_digest,
        "rows_of_step": rows_of_step,
        "seed": seed,
        "prompts": prompts["prompts"],
        "content_of_prompts": prompts["digest"],
    })
}

impl Tuning {
    /// Continues a training from its state, which must have been begun in the same way.
    ///
    /// # Errors
    /// As [`Self::read_state`]; if it was begun with other settings, which are named.
    pub fn resume(
        model: &Model,
        file: &Path,
        optimiser: Optimiser,
        steps: usize,
        settings: &Value,
    ) -> Result<Self> {
        let (tuning, begun) = Self::read_state(model, file)?;
        let all = |optimiser: Optimiser, steps: usize, settings: &Value| {
            let mut all = settings.clone();
            all["optimiser"] = json!(optimiser.name());
            all["rate"] = json!(optimiser.base_rate());
            all["steps"] = json!(steps);
            all
        };
        let begun = match begun.is_object() {
            true => all(tuning.optimiser, tuning.steps, &begun),
            false => begun,
        };
        check_origin(&begun, &all(optimiser, steps, settings)).map_err(|e| e.at(file.display()))?;
        Ok(tuning)
    }

    /// Writes everything needed to continue training. `settings` is the caller's own data, compared by [`Self::resume`].
    ///
    /// # Errors
    /// The writer's errors.
    pub fn write_state(&self, settings: &Value, out: &mut impl Write) -> std::io::Result<()> {
        let mut arrays: Vec<(String, &[f32])> = Vec::new();
        for (layer, (parameters, moments)) in self.parameters.iter().zip(&self.moments).enumerate() {
            arrays.push((format!("parameters_{layer}"), parameters));
            for (number, values) in moments.values.iter().enumerate() {
                arrays.push((format!("moments_{layer}_{number}"), values));
            }
        }
        let shapes: Vec<[usize; 1]> = arrays.iter().map(|(_, values)| [values.len()]).collect();
        let entries = arrays.iter().zip(&shapes).map(|((name, values), shape)| HeaderEntry {
            name,
            dtype: "F32".to_owned(),
            shape,
            bytes: values.len() * 4,
        });
        let state = json!({
            "schema": "easyroutine.tuning/1",
            "optimiser": self.optimiser.name(),
            "rate": self.optimiser.base_rate(),
            "steps": self.steps,
            "done": self.done,
            "d_model": self.d_model,
            "n_layers": self.n_layers(),
            "told": settings,
        });
        let metadata = Map::from_iter([("easyroutine.tuning".to_owned(), json!(state.to_string()))]);
        out.write_all(&safetensors_head(metadata, entries, 8))?;
        for (_, values) in arrays {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            out.write_all(&bytes)?;
        }
        out.flush()
    }

    /// Reads such a state for a model, with the caller's data.
    ///
    /// # Errors
    /// If the file is missing, damaged or of another model.
    pub fn read_state(model: &Model, file: &Path) -> Result<(Self, Value)> {
        let place = |e: Error| e.at(file.display());
        let wrong = |what: &str| place(Error::new(ErrorKind::Format, what.to_owned()));
        let opened = ShardedSafeTensors::open(file)?;
        let state: Value = opened
            .metadata()
            .get("easyroutine.tuning")
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(|| wrong("is not a state of `easyroutine tune`"))?;
        let number = |key: &str| {
            state[key].as_u64().map(|n| n as usize).ok_or_else(|| wrong("its state is incomplete"))
        };
        let name = state["optimiser"].as_str().unwrap_or_default();
        let optimiser = Optimiser::from_name(name, state["rate"].as_f64()).map_err(place)?;
        let mut tuning = Tuning::new(model, optimiser, number("steps")?.max(1))?;
        if (number("d_model")?, number("n_layers")?) != (tuning.d_model, tuning.n_layers()) {
            return Err(place(Error::input("was begun with another model")));
        }
        tuning.done = number("done")?;
        for layer in 0..tuning.n_layers() {
            let size = tuning.parameters[layer].len();
            let read = |name: String| -> Result<Vec<f32>> {
                let tensor = opened.tensor(&name).filter(|tensor| tensor.shape() == [size]);
                Ok(tensor.ok_or_else(|| wrong("lacks a tensor"))?.read_all()?)
            };
            tuning.parameters[layer] = read(format!("parameters_{layer}"))?;
            for (n, values) in tuning.moments[layer].values.iter_mut().enumerate() {
                *values = read(format!("moments_{layer}_{n}"))?;
            }
        }
        Ok((tuning, state["told"].clone()))
    }
}
