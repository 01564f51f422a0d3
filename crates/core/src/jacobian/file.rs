//! Files of Jacobian lenses: ours, the published ones, and checkpoints of other programs.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use easyroutine_files::torch::{self, Item, TorchTensor};
use easyroutine_files::{
    Encoding, HeaderEntry, MappedFile, ShardedSafeTensors, StoredTensor, safetensors_head,
};
use serde_json::{Map, Value, json};

use super::{FitOptions, JacobianSums, UNIT};
use crate::error::{Error, ErrorKind, Result};

/// The mean matrices in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct JacobianFile {
    /// Number of prompts in the mean.
    pub n_prompts: usize,
    /// The identity by content of the model that it was fitted on, if the file says it.
    pub model_digest: Option<String>,
    /// By layer, D by D: a row per coordinate of the last stream, a column per coordinate of `resid_out`.
    pub matrices: BTreeMap<usize, Vec<f32>>,
}

impl JacobianFile {
    /// Reads our `.safetensors`, or the published torch.save file `{J, n_prompts, source_layers, d_model}`, without
    /// running anything in it.
    ///
    /// # Errors
    /// If the file is missing, damaged, or holds something else.
    pub fn read(file: &Path) -> Result<Self> {
        if is_safetensors(file) {
            let opened = ShardedSafeTensors::open(file)?;
            let description = description(&opened, file)?;
            let mut matrices = BTreeMap::new();
            for name in opened.names().map(str::to_owned).collect::<Vec<_>>() {
                let Some(layer) = name.strip_prefix("J_").and_then(|layer| layer.parse().ok()) else {
                    continue;
                };
                let Some(tensor) = opened.tensor(&name) else { continue };
                matrices.insert(
                    layer,
                    square(tensor.shape(), &tensor.read_all()?).map_err(|e| e.at(file.display()))?,
                );
            }
            let digest = description["model_digest"].as_str().map(str::to_owned);
            let found = found(description["n_prompts"].as_u64(), matrices, file)?;
            return Ok(JacobianFile { model_digest: digest, ..found });
        }
        let map = MappedFile::open(file)?;
        let place = |e: Error| e.at(file.display());
        let item = torch::read(map.bytes(), &[]).map_err(|e| place(e.into()))?;
        let matrices = match item.get("J") {
            Some(matrices) => by_layer(matrices).map_err(place)?,
            None if item.get("jacobian_sum").is_some() => {
                return Err(place(Error::input("is the checkpoint of a fit, not a finished lens"))
                    .hint("continue from it: easyroutine jacobian fit --from FILE"));
            }
            None => {
                return Err(place(Error::new(
                    ErrorKind::Format,
                    "holds no `J`, the matrices of a Jacobian lens",
                )));
            }
        };
        let n_prompts = match item.get("n_prompts") {
            Some(Item::Int(n)) => u64::try_from(*n).ok(),
            _ => None,
        };
        map.check_unchanged()?;
        found(n_prompts, matrices, file)
    }
}

fn found(n_prompts: Option<u64>, matrices: BTreeMap<usize, Vec<f32>>, file: &Path) -> Result<JacobianFile> {
    if matrices.is_empty() {
        return Err(Error::new(
            ErrorKind::Format,
            format!("{}: holds no matrices of a Jacobian lens", file.display()),
        ));
    }
    Ok(JacobianFile { n_prompts: n_prompts.unwrap_or(0) as usize, model_digest: None, matrices })
}

fn is_safetensors(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending == "safetensors")
}

/// Matrices by layer, from a dictionary with integer keys.
fn by_layer(item: &Item) -> Result<BTreeMap<usize, Vec<f32>>> {
    let wrong = |what: &str| Error::new(ErrorKind::Format, what.to_owned());
    let Item::Map(entries) = item else { return Err(wrong("its matrices are not a dictionary by layer")) };
    let mut matrices = BTreeMap::new();
    for (key, value) in entries {
        let layer = match key {
            Item::Int(layer) => usize::try_from(*layer).ok(),
            Item::Text(text) => text.parse().ok(),
            _ => None,
        };
        let (Some(layer), Item::Tensor(tensor)) = (layer, value) else {
            return Err(wrong("its dictionary of matrices holds something else"));
        };
        let stored = StoredTensor::new("J", tensor.shape.clone(), tensor.encoding, &tensor.bytes)?;
        matrices.insert(layer, square(&tensor.shape, &stored.read_all()?)?);
    }
    Ok(matrices)
}

fn square(shape: &[usize], values: &[f32]) -> Result<Vec<f32>> {
    match shape {
        [a, b] if a == b && values.len() == a * b => Ok(values.to_vec()),
        _ => Err(Error::new(ErrorKind::Weights, format!("a matrix is of shape {shape:?}, not D by D"))),
    }
}

/// The metadata in a fit's file.
fn description(opened: &ShardedSafeTensors, file: &Path) -> Result<Value> {
    let text = opened.metadata().get("easyroutine.jacobian");
    text.and_then(|text| serde_json::from_str(text).ok()).ok_or_else(|| {
        Error::new(
            ErrorKind::Format,
            format!("{}: is not a file of `easyroutine jacobian fit`", file.display()),
        )
    })
}

impl JacobianSums {
    /// Reads the sums of a fit, and the file's metadata: from a file of ours, or from another program's checkpoint
    /// `{jacobian_sum, n_done, next_idx, source_layers, target_layer, skip_first}`.
    ///
    /// # Errors
    /// If the file is missing, damaged, or holds something else.
    pub fn read(file: &Path) -> Result<(Self, Value)> {
        if !is_safetensors(file) {
            return checkpoint(file);
        }
        let opened = ShardedSafeTensors::open(file)?;
        let description = description(&opened, file)?;
        let number = |key: &str| {
            description[key].as_u64().map(|n| n as usize).ok_or_else(|| {
                Error::new(ErrorKind::Format, format!("{}: `{key}` is not a number", file.display()))
            })
        };
        let (d_model, n_layers) = (number("d_model")?, number("n_layers")?);
        let mut sums = Vec::new();
        for layer in 0..n_layers {
            let name = format!("sum_{layer}");
            let tensor = opened
                .tensor(&name)
                .filter(|tensor| tensor.encoding() == Encoding::I64 && tensor.shape() == [d_model, d_model]);
            let tensor = tensor.ok_or_else(|| {
                Error::new(ErrorKind::Weights, format!("{}: has no sums of layer {layer}", file.display()))
            })?;
            let whole = |b: &[u8]| b.try_into().map_or(0, i64::from_le_bytes);
            sums.push(tensor.bytes().chunks_exact(8).map(whole).collect());
        }
        let squares: Option<Vec<i64>> = description["squares"]
            .as_array()
            .map(|squares| squares.iter().filter_map(Value::as_i64).collect());
        let is_one_a_layer =
            squares.as_ref().map_or(description["squares"].is_null(), |s| s.len() == n_layers);
        if !is_one_a_layer {
            return Err(Error::new(
                ErrorKind::Format,
                format!("{}: its `squares` are not one a layer", file.display()),
            ));
        }
        let options = FitOptions { skip_first: number("skip_first")?, skip_last: number("skip_last")? };
        let (n_prompts, n_short) = (number("n_prompts")?, number("n_short")?);
        Ok((JacobianSums { options, d_model, sums, squares, n_prompts, n_short }, description))
    }

    /// The metadata of these sums; a caller adds what it knows of the prompts.
    pub fn description(&self) -> Value {
        json!({
            "schema": "easyroutine.jacobian/1",
            "n_prompts": self.n_prompts,
            "n_short": self.n_short,
            "d_model": self.d_model,
            "n_layers": self.sums.len(),
            "source_layers": (0..self.sums.len()).collect::<Vec<_>>(),
            "target_layer": self.sums.len(),
            "skip_first": self.options.skip_first,
            "skip_last": self.options.skip_last,
            "squares": self.squares,
            "uncertainty": self.uncertainty(),
        })
    }

    /// Writes the lens as safetensors: `J_{layer}` f32, D by D, and the exact sums `sum_{layer}` from which a fit can
    /// continue. The same sums give the same bytes.
    ///
    /// # Errors
    /// The writer's errors.
    pub fn write(&self, description: &Value, out: &mut impl Write) -> std::io::Result<()> {
        let shape = [self.d_model, self.d_model];
        let size = self.d_model * self.d_model;
        let names: Vec<(String, &str, usize)> = (0..self.sums.len())
            .map(|layer| (format!("sum_{layer}"), "I64", 8))
            .chain((0..self.sums.len()).map(|layer| (format!("J_{layer}"), "F32", 4)))
            .collect();
        let entries = names.iter().map(|(name, dtype, width)| HeaderEntry {
            name,
            dtype: (*dtype).to_owned(),
            shape: &shape,
            bytes: size * width,
        });
        let metadata = Map::from_iter([("easyroutine.jacobian".to_owned(), json!(description.to_string()))]);
        out.write_all(&safetensors_head(metadata, entries, 8))?;
        for sums in &self.sums {
            let bytes: Vec<u8> = sums.iter().flat_map(|x| x.to_le_bytes()).collect();
            out.write_all(&bytes)?;
        }
        for layer in 0..self.sums.len() {
            let bytes: Vec<u8> = self.matrix(layer).iter().flat_map(|x| x.to_le_bytes()).collect();
            out.write_all(&bytes)?;
        }
        out.flush()
    }

    /// Writes the lens in the published form: `{J: {layer: f32 [D, D]}, n_prompts, source_layers, d_model}`, as
    /// torch.save does.
    ///
    /// # Errors
    /// If the matrices are too large for such an archive.
    pub fn to_torch(&self) -> Result<Vec<u8>> {
        let whole = |n: usize| Item::Int(n as i64);
        let text = |text: &str| Item::Text(text.to_owned());
        let matrix = |layer: usize| {
            let bytes = self.matrix(layer).iter().flat_map(|x| x.to_le_bytes()).collect();
            let shape = vec![self.d_model, self.d_model];
            (whole(layer), Item::Tensor(TorchTensor { encoding: Encoding::F32, shape, bytes }))
        };
        let layers = 0..self.sums.len();
        let item = Item::Map(vec![
            (text("J"), Item::Map(layers.clone().map(matrix).collect())),
            (text("n_prompts"), whole(self.n_prompts)),
            (text("source_layers"), Item::List(layers.map(whole).collect())),
            (text("d_model"), whole(self.d_model)),
        ]);
        Ok(torch::write(&item)?)
    }
}

/// Another program's checkpoint: sums in f32.
fn checkpoint(file: &Path) -> Result<(JacobianSums, Value)> {
    let map = MappedFile::open(file)?;
    let place = |e: Error| e.at(file.display());
    let wrong = |what: String| place(Error::new(ErrorKind::Format, what));
    let item = torch::read(map.bytes(), &[]).map_err(|e| place(e.into()))?;
    let number = |key: &str| match item.get(key) {
        Some(Item::Int(n)) if *n >= 0 => Ok(*n as usize),
        _ => Err(wrong(format!("holds no number `{key}`: it is not a checkpoint of a fit"))),
    };
    let sums = item.get("jacobian_sum").ok_or_else(|| wrong("holds no `jacobian_sum`".to_owned()))?;
    let sums = by_layer(sums).map_err(place)?;
    let target = number("target_layer")?;
    if sums.keys().copied().collect::<Vec<_>>() != (0..target).collect::<Vec<_>>() {
        return Err(wrong(format!(
            "its layers are not all before layer {target}, which is what is fitted here"
        )));
    }
    let d_model = sums.values().next().map_or(0, |values| values.len().isqrt());
    let exact = |values: Vec<f32>| -> Result<Vec<i64>> {
        let unit = |x: &f32| {
            let units = f64::from(*x) / UNIT;
            if units.abs() < (1u64 << 62) as f64 {
                Ok(units.round() as i64)
            } else {
                Err(place(super::too_large()))
            }
        };
        values.iter().map(unit).collect()
    };
    let n_prompts = number("n_done")?;
    let description = json!({"next": number("next_idx")?});
    let sums = sums.into_values().map(exact).collect::<Result<Vec<_>>>()?;
    let options = FitOptions { skip_first: number("skip_first")?, skip_last: 1 };
    map.check_unchanged()?;
    // Such a checkpoint does not say how much its prompts vary.
    Ok((JacobianSums { options, d_model, sums, squares: None, n_prompts, n_short: 0 }, description))
}
