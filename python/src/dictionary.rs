//! Sparse autoencoders and transcoders.

use std::path::Path;
use std::sync::Arc;

use easyroutine::arch::Arch;
use easyroutine::load::LoadOptions;
use easyroutine::positions::{Context, Selection};
use easyroutine::source::{Environment, ResolveOptions};
use easyroutine::{Batch, Cpu, Stop};
use easyroutine_dictionaries::{
    Dictionaries, Dictionary as Engine, FeatureCapture, Features, Options, measure, text,
};
use easyroutine_kernels::Rows;
use pyo3::prelude::*;

use crate::dlpack::Numbers;
use crate::edits::{self, InterventionInput};
use crate::errors::Failure;
use crate::hooks::{HookInput, Hooks};
use crate::interrupt::{Signals, waiting};
use crate::model::{Model, RowInput, specifiers, views};
use crate::tensor::Tensor;

/// A dictionary with its weights mapped into memory.
#[pyclass(frozen, module = "easyroutine._core")]
pub(crate) struct Dictionary {
    pub(crate) dictionary: Arc<Engine>,
    /// Its name in keys and messages.
    name: String,
    cpu: Cpu,
}

/// Which features a run keeps, as Python writes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct FeatureSettings {
    /// Layers by their number in the dictionary.
    layers: Vec<usize>,
    /// As JSON.
    positions: String,
    interventions: Vec<InterventionInput>,
    hooks: Vec<HookInput>,
    seed: u64,
}

/// Indices `[n, 3]` (row, place among the selected positions, feature), values `[n]`, and shape.
type Sparse = (Tensor, Tensor, [i64; 3]);

#[pymethods]
impl Dictionary {
    /// Opens a folder, a file or a place on the hub.
    #[staticmethod]
    #[pyo3(signature = (path, *, place=None, norm_factor=None, threads=None, offline=false))]
    fn open(
        py: Python<'_>,
        path: String,
        place: Option<String>,
        norm_factor: Option<f64>,
        threads: Option<usize>,
        offline: bool,
    ) -> Result<Dictionary, Failure> {
        let options = Options { place, norm_factor };
        let stem = Path::new(path.trim_end_matches('/')).file_stem();
        let stem = stem.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let dictionary = Arc::new(waiting(py, move || {
            let finding = ResolveOptions { offline, ..ResolveOptions::default() };
            Engine::open_reference(&path, &options, &finding, &Environment::from_process())
        })?);
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String = stem.chars().take(60).map(plain).collect();
        let cpu = LoadOptions { threads, ..LoadOptions::default() }.cpu()?;
        Ok(Dictionary { dictionary, name, cpu })
    }

    /// Its certificate as JSON.
    fn certificate(&self) -> String {
        self.dictionary.certificate().to_json().to_string()
    }

    /// For each layer, the model layer it writes to and the layers of the set that it decodes.
    fn layers(&self) -> Vec<(Option<usize>, Vec<usize>)> {
        let layers = self.dictionary.layers().iter().enumerate();
        layers.map(|(at, layer)| (layer.writes().layer(), self.dictionary.sources(at).collect())).collect()
    }

    /// What is to be said if its publisher names another model.
    fn other_model(&self, model: &Model) -> Option<String> {
        self.dictionary.certificate().other_model(&model.files)
    }

    /// Where its layers read and write in `model`.
    fn fit(&self, model: &Model) -> Result<Vec<(String, String)>, Failure> {
        let fits = self.dictionary.fit(model.model.arch())?;
        Ok(fits.iter().map(|fit| (fit.reads.to_string(), fit.writes.to_string())).collect())
    }

    /// The features of rows that a model runs, one entry per layer.
    fn features(
        &self,
        py: Python<'_>,
        model: &Model,
        rows: Vec<RowInput>,
        settings: FeatureSettings,
    ) -> Result<Vec<Sparse>, Failure> {
        let positions = specifiers(&settings.positions)?;
        let views = views(&rows, 0);
        let context = Context { special: model.special(), seed: settings.seed, ..Context::default() };
        let changes = edits::read(&settings.interventions, model.model.arch())?;
        let edits = changes.checked(py, &model.model, &views, context)?;
        let mut hooks = Hooks::new(&model.model, settings.hooks)?;
        let selected = Selection::of(&positions, &views, context)?;
        let selected = selected.rows.into_iter().map(|row| row.indices).collect();
        let mut dictionaries = Dictionaries::default();
        let number = added(&mut dictionaries, self, model.model.arch())?;
        let keys: Vec<String> =
            settings.layers.iter().map(|layer| dictionaries.key(number, *layer)).collect();
        let signals = Signals::new();
        let work = || {
            let batch = Batch::new(&rows.iter().map(|(ids, _)| ids.as_slice()).collect::<Vec<_>>())?;
            let mut capture = FeatureCapture::new(&keys, &dictionaries, model.model.cpu(), selected)?;
            let mut taps = (edits, (&mut hooks, &mut capture));
            let stop = Stop::When(&|| signals.is_stopped());
            model.model.forward_until(&batch, &mut taps, stop).map_err(|error| signals.failure(error))?;
            drop(taps);
            Ok::<_, Failure>(capture.finish())
        };
        let kept = py.detach(work).map_err(|failure| hooks.failure(failure))?;
        let sparse = |(_, kept): (String, easyroutine_dictionaries::SparseFeatures)| {
            let n = kept.values.len();
            let indices = kept.indices.iter().flatten().map(|x| i64::from(*x)).collect();
            let indices = Tensor::new(Numbers::I64(indices), vec![n, 3]);
            (indices, Tensor::f32(kept.values, vec![n]), kept.shape)
        };
        Ok(kept.into_iter().map(sparse).collect())
    }

    /// What the dictionary does to a model on rows, as JSON.
    fn measure(
        &self,
        py: Python<'_>,
        model: &Model,
        rows: Vec<RowInput>,
        positions: &str,
    ) -> Result<String, Failure> {
        let positions = specifiers(positions)?;
        let views = views(&rows, 0);
        let context = Context { special: model.special(), ..Context::default() };
        let mut dictionaries = Dictionaries::default();
        let number = added(&mut dictionaries, self, model.model.arch())?;
        let signals = Signals::new();
        let found = py.detach(|| {
            let stop = Stop::When(&|| signals.is_stopped());
            measure(&model.model, &dictionaries, number, &views, &positions, context, stop)
                .map_err(|error| signals.failure(error))
        })?;
        Ok(found.to_json().to_string())
    }

    /// The text that `measure` uses by default, one prompt per entry.
    #[staticmethod]
    fn text() -> Vec<&'static str> {
        text().collect()
    }

    /// Each active feature's first-order effect on a number, for tokens `[T, D_in]` and the number's gradients `[T,
    /// D_out]` where `target` writes: token and feature `[n, 2]`, and effects `[n]`. `own` is what `target` reads.
    fn attribution(
        &self,
        py: Python<'_>,
        layer: usize,
        target: usize,
        x: &Tensor,
        own: &Tensor,
        gradients: &Tensor,
    ) -> Result<(Tensor, Tensor), Failure> {
        let [x, own, gradients] = [x, own, gradients].map(vectors);
        let ((x, shape), (own, own_shape), (gradients, gradient_shape)) = (x?, own?, gradients?);
        let (dictionary, cpu) = (Arc::clone(&self.dictionary), self.cpu.clone());
        let (places, values) = waiting(py, move || {
            let rows = |values: &[f32], shape: &[usize]| {
                let width = shape.last().copied().unwrap_or(1);
                (values.len() / width, width)
            };
            let ((n, width), (n_own, own_width)) = (rows(&x, &shape), rows(&own, &own_shape));
            let (n_gradients, gradient_width) = rows(&gradients, &gradient_shape);
            let features = dictionary.layer(layer)?.encode(&cpu, Rows::dense(&x, n, width))?;
            let own = Rows::dense(&own, n_own, own_width);
            let gradients = Rows::dense(&gradients, n_gradients, gradient_width);
            let values = dictionary.attribution((layer, target), &features, own, gradients)?;
            dictionary.check_unchanged()?;
            let of_token = |token: usize| {
                features.token(token).0.iter().flat_map(move |number| [token as i64, i64::from(*number)])
            };
            Ok(((0..features.len()).flat_map(of_token).collect::<Vec<i64>>(), values))
        })?;
        let n = values.len();
        Ok((Tensor::new(Numbers::I64(places), vec![n, 2]), Tensor::f32(values, vec![n])))
    }

    /// Reads every weight once.
    fn check(&self, py: Python<'_>) -> Result<(), Failure> {
        let dictionary = Arc::clone(&self.dictionary);
        waiting(py, move || dictionary.check_numbers())
    }

    /// Features `[..., F']` of vectors `[..., D_in]`.
    fn encode(&self, py: Python<'_>, layer: usize, x: &Tensor) -> Result<Tensor, Failure> {
        let (values, mut shape) = vectors(x)?;
        let width = shape.pop().unwrap_or(1);
        let (dictionary, cpu) = (Arc::clone(&self.dictionary), self.cpu.clone());
        let (dense, n_features) = waiting(py, move || {
            let coder = dictionary.layer(layer)?;
            let features = coder.encode(&cpu, Rows::dense(&values, values.len() / width.max(1), width))?;
            dictionary.check_unchanged()?;
            Ok::<_, easyroutine::Error>((features.dense(), coder.n_features()))
        })?;
        shape.push(n_features);
        Ok(Tensor::f32(dense, shape))
    }

    /// Decodes features `[..., F']` of the layers that write to `layer`, giving `[..., D_out]`.
    fn decode(
        &self,
        py: Python<'_>,
        layer: usize,
        features: Vec<PyRef<'_, Tensor>>,
        x: &Tensor,
    ) -> Result<Tensor, Failure> {
        let (values, mut shape) = vectors(x)?;
        let width = shape.pop().unwrap_or(1);
        let given: Vec<(Vec<f32>, usize)> = features
            .iter()
            .map(|features| vectors(features).map(|(all, shape)| (all, shape.last().copied().unwrap_or(1))))
            .collect::<Result<_, _>>()?;
        let (dictionary, cpu) = (Arc::clone(&self.dictionary), self.cpu.clone());
        let (decoded, d_out) = waiting(py, move || {
            let sources = dictionary.sources(layer);
            let mut sparse = Vec::new();
            for (source, (all, n)) in sources.zip(&given) {
                let expected = dictionary.layer(source)?.n_features();
                if *n != expected {
                    let what = format!("features have {expected} numbers a token, not {n}");
                    return Err(easyroutine::Error::input(what));
                }
                let mut features = Features::new(expected);
                for token in all.chunks_exact(expected) {
                    let numbered = token.iter().enumerate();
                    features.push(numbered.map(|(number, value)| (number as u32, *value)));
                }
                sparse.push(features);
            }
            let sparse: Vec<&Features> = sparse.iter().collect();
            let rows = Rows::dense(&values, values.len() / width.max(1), width);
            let decoded = dictionary.decode(&cpu, layer, &sparse, rows)?;
            dictionary.check_unchanged()?;
            Ok((decoded, dictionary.layer(layer)?.d_out()))
        })?;
        shape.push(d_out);
        Ok(Tensor::f32(decoded, shape))
    }

    /// The vector `[D_out]` that a feature of value 1 adds where layer `target` writes.
    fn direction(&self, feature: usize, layer: usize, target: usize) -> Result<Tensor, Failure> {
        let row = self.dictionary.layer(layer)?.direction(feature, target)?;
        let n = row.len();
        Ok(Tensor::f32(row, vec![n]))
    }
}

/// Adds a dictionary to those used in a model, unless it is already there; returns its index.
pub(crate) fn added(
    dictionaries: &mut Dictionaries,
    one: &Dictionary,
    arch: &Arch,
) -> Result<usize, Failure> {
    let is_same = |named: &easyroutine_dictionaries::Named| Arc::ptr_eq(&named.dictionary, &one.dictionary);
    if let Some(number) = dictionaries.all().iter().position(is_same) {
        return Ok(number);
    }
    let number = dictionaries.all().len();
    // Two folders may have one name.
    let name = if number == 0 { one.name.clone() } else { format!("{}-{number}", one.name) };
    dictionaries.add(&name, Arc::clone(&one.dictionary), arch)?;
    Ok(number)
}

/// The vectors' numbers and shape.
fn vectors(x: &Tensor) -> Result<(Vec<f32>, Vec<usize>), Failure> {
    match x.shape.last() {
        Some(width) if *width > 0 => Ok((x.floats(), x.shape.clone())),
        _ => Err(Failure::input(format!("vectors are expected, and the shape is {:?}", x.shape))),
    }
}
