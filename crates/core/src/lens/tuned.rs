//! Translators of a tuned lens, which transform each layer's stream before the final norm.
//!
//! h + W h + b, where translator i reads `resid_in_i` (tuned-lens, `nn/lenses.py`: `TunedLens.transform_hidden`;
//! Belrose et al. 2023, <https://arxiv.org/abs/2303.08112>).

use std::path::Path;
use std::sync::Arc;

use easyroutine_files::torch::{self, Item};
use easyroutine_files::{MappedFile, StoredTensor};
use easyroutine_kernels::{Cpu, Dtype, PackedMatrix, Rows};
use easyroutine_sites::{Point, Site};

use super::{LogitLens, Through, copied};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Buffer, Model};
use crate::weights::Projection;

/// One translator per layer.
#[derive(Debug)]
pub(super) struct Translators {
    /// W and b for the stream that enters each layer.
    layers: Vec<Projection>,
    trained: TunedLens,
}

/// The identity of a tuned lens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunedLens {
    /// The name of its folder.
    pub name: String,
    /// The model that it claims to be trained on.
    pub base_model: Option<String>,
    /// The revision of that model.
    pub base_revision: Option<String>,
    /// The [hash](crate::Unembedding::tuned_lens_hash) of that model's unembedding.
    pub unembed_hash: Option<String>,
}

impl TunedLens {
    /// A warning if it was trained on another model than this one, by the unembedding's
    /// [hash](crate::Unembedding::tuned_lens_hash) or, in a lens without one, by name: where sizes agree, nothing else
    /// tells. A model without a name has an empty one.
    pub fn warning(&self, model: &str, unembed_hash: &str) -> Option<String> {
        let (name, base) = (&self.name, self.base_model.as_deref().filter(|base| !base.is_empty()));
        if let Some(hash) = &self.unembed_hash {
            let of = base.map(|base| format!("; it names {base}")).unwrap_or_default();
            return (hash != unembed_hash).then(|| {
                format!(
                    "{name} was trained with another unembedding: of another model, or of other weights of this one{of}"
                )
            });
        }
        match base {
            _ if model.is_empty() => None,
            Some(base) if is_name_of(model, base) => None,
            Some(base) => Some(format!(
                "{name} was trained on {base}, and this model is {model}: only the names tell, as its config.json has no \
                 `unembed_hash`"
            )),
            None => Some(format!("{name} does not say which model it was trained on")),
        }
    }
}

impl LogitLens {
    /// A lens that first translates layers, from a folder saved by the tuned-lens package (`params.pt` and
    /// `config.json`). Its pickle is read, never run.
    ///
    /// # Errors
    /// If a file is missing or wrong, or the lens is of another kind or does not fit the model's width or number of
    /// layers.
    pub fn from_tuned_lens(folder: impl AsRef<Path>, model: &Model) -> Result<Self> {
        let folder = folder.as_ref();
        let d_model = model.arch().d_model;
        let n_layers = model.arch().layers.len();
        let config = read_config(&folder.join("config.json"), d_model, n_layers)?;
        let text = |key: &str| config.get(key).and_then(|value| value.as_str()).map(str::to_owned);
        let trained = TunedLens {
            name: name(folder),
            base_model: text("base_model_name_or_path"),
            base_revision: text("base_model_revision"),
            unembed_hash: text("unembed_hash").filter(|hash| !hash.is_empty()),
        };
        let file = folder.join("params.pt");
        let map = MappedFile::open(&file)?;
        let place = |e: Error| e.at(file.display());
        let params = torch::read(map.bytes(), &[]).map_err(|e| place(e.into()))?;
        let lens = LogitLens::from_model(model)?;
        let layer = |number: usize| translator(&lens.cpu, &params, number, d_model).map_err(place);
        let layers = (0..n_layers).map(layer).collect::<Result<_>>()?;
        map.check_unchanged()?;
        Ok(LogitLens { through: Some(Arc::new(Through::Tuned(Translators { layers, trained }))), ..lens })
    }

    /// The tuned lens's identity, if this is one.
    pub fn tuned(&self) -> Option<&TunedLens> {
        match self.through.as_deref() {
            Some(Through::Tuned(translators)) => Some(&translators.trained),
            _ => None,
        }
    }
}

/// What the names of encodings begin with, before a digit.
const ENCODINGS: [&str; 7] = ["q", "iq", "tq", "f", "fp", "bf", "mxfp"];

/// Whether two names agree in their last part, whatever the case. A GGUF file's may end in its encoding: `-Q4_K_M`.
fn is_name_of(model: &str, base: &str) -> bool {
    let last = |name: &str| {
        let parts = name.split(['/', '\\']).rfind(|part| !part.is_empty());
        parts.unwrap_or_default().to_lowercase()
    };
    let (model, base) = (last(model), last(base));
    let Some(rest) = model.strip_prefix(&base) else { return false };
    let encoding =
        rest.strip_prefix(['.', '-', '_']).and_then(|rest| rest.split(|c: char| c.is_ascii_digit()).next());
    rest.is_empty() || encoding.is_some_and(|kind| ENCODINGS.contains(&kind))
}

/// The layer whose translator reads a point; the number of layers for the last stream.
pub(super) fn entered(point: Point) -> Result<usize> {
    match (point.site().canonical(), point.layer()) {
        (Site::InputEmbeddings, _) => Ok(0),
        (Site::ResidIn, Some(layer)) => Ok(layer),
        // The stream that leaves a layer enters the next.
        (Site::ResidOut, Some(layer)) => Ok(layer + 1),
        _ => Err(Error::input(format!("a tuned lens has no translator for `{point}`"))
            .hint("it reads `input_embeddings`, `resid_in_{layer}` and `resid_out_{layer}`")),
    }
}

/// The last name of a folder as given, or what `.` and `..` resolve to.
pub(super) fn name(folder: &Path) -> String {
    let whole = || folder.canonicalize().ok().and_then(|whole| Some(whole.file_name()?.to_owned()));
    let name = folder.file_name().map(ToOwned::to_owned).or_else(whole);
    name.map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned())
}

impl Translators {
    pub(super) fn translate(&self, cpu: &Cpu, point: Point, vectors: Rows<'_>) -> Result<Buffer> {
        let mut out = copied(vectors);
        // The final norm reads the last stream directly.
        let Some(translator) = self.layers.get(entered(point)?) else { return Ok(out) };
        let mut added = Buffer::default();
        added.resize(vectors.n_rows(), vectors.n_columns());
        translator.apply(cpu, vectors, added.rows_mut());
        let mut rows = out.rows_mut();
        for i in 0..rows.n_rows() {
            rows.row_mut(i).iter_mut().zip(added.rows().row(i)).for_each(|(x, more)| *x += more);
        }
        Ok(out)
    }
}

/// `config.json` of a tuned lens, checked against the model.
fn read_config(file: &Path, d_model: usize, n_layers: usize) -> Result<serde_json::Value> {
    let place = |e: Error| e.at(file.display());
    let text = std::fs::read(file).map_err(|e| {
        let kind = if e.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
        place(Error::new(kind, e.to_string()))
    })?;
    let config: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| place(Error::new(ErrorKind::Format, e.to_string())))?;
    let wrong = |what: String| Err(place(Error::input(what)));
    match config.get("lens_type").and_then(|kind| kind.as_str()) {
        None | Some("linear_tuned_lens") => {}
        Some(other) => return wrong(format!("`lens_type` is {other}; linear_tuned_lens is what is read")),
    }
    for (key, ours) in [("d_model", d_model), ("num_hidden_layers", n_layers)] {
        let theirs = config.get(key).and_then(serde_json::Value::as_u64);
        if theirs != Some(ours as u64) {
            let shown = theirs.map_or("missing".to_owned(), |n| n.to_string());
            return wrong(format!("`{key}` is {shown}, but the model's is {ours}: a lens fits one model"));
        }
    }
    Ok(config)
}

/// W and b of one layer.
fn translator(cpu: &Cpu, params: &Item, layer: usize, d_model: usize) -> Result<Projection> {
    let named = |part: &str| {
        let names = [format!("{layer}.{part}"), format!("layer_translators.{layer}.{part}")];
        names.iter().find_map(|name| params.get(name).map(|item| (name.clone(), item)))
    };
    let read = |part: &str, shape: &[usize]| -> Result<Option<Vec<f32>>> {
        let Some((name, item)) = named(part) else { return Ok(None) };
        match item {
            Item::Tensor(tensor) if tensor.shape == shape => {
                let stored = StoredTensor::new(&name, tensor.shape.clone(), tensor.encoding, &tensor.bytes)?;
                Ok(Some(stored.read_all()?))
            }
            Item::Tensor(tensor) => {
                Err(Error::new(ErrorKind::Weights, format!("`{name}` is {:?}, not {shape:?}", tensor.shape)))
            }
            _ => Err(Error::new(ErrorKind::Weights, format!("`{name}` is not a tensor"))),
        }
    };
    let weight = read("weight", &[d_model, d_model])?
        .ok_or_else(|| Error::new(ErrorKind::Weights, format!("has no translator of layer {layer}")))?;
    let bias = read("bias", &[d_model])?;
    let matrix =
        PackedMatrix::pack(cpu, Dtype::F32, d_model, d_model, |output, row: &mut [f32]| -> Result<()> {
            row.copy_from_slice(&weight[output * d_model..(output + 1) * d_model]);
            Ok(())
        })?;
    Ok(Projection::new(matrix, bias))
}
