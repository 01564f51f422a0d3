//! The logit lens over values of a cache.

use std::path::PathBuf;
use std::sync::Arc;

use easyroutine::cache::{ActivationCache, Axis};
use easyroutine::lens::{Direction, LensNorm, LensOptions, LogitLens, Metric};
use easyroutine::load::{self, LoadOptions};
use easyroutine::{FinalNorm, LogitRules, NormKind, Unembedding};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::cache;
use crate::errors::Failure;
use crate::interrupt::waiting;
use crate::model::{Model, dtype_of};
use crate::source;
use crate::tensor::Tensor;

/// Final norm and unembedding of a model.
#[pyclass(frozen, module = "easyroutine._core")]
pub(crate) struct Lens {
    lens: LogitLens,
}

/// Kind, eps, weight and bias of a norm.
type NormNumbers = (String, f32, Option<Py<Tensor>>, Option<Py<Tensor>>);

#[pymethods]
impl Lens {
    /// Shares a model's weights.
    #[staticmethod]
    fn of_model(model: &Model) -> Result<Lens, Failure> {
        Ok(Lens { lens: LogitLens::from_model(&model.model)? })
    }

    /// A model's lens behind the translators of a folder in the tuned-lens package's format, and a warning if they are
    /// another model's.
    #[staticmethod]
    fn of_tuned_lens(
        py: Python<'_>,
        folder: PathBuf,
        model: &Model,
    ) -> Result<(Lens, Option<String>), Failure> {
        let engine = Arc::clone(&model.model);
        let (lens, hash) = waiting(py, move || {
            let lens = LogitLens::from_tuned_lens(folder, &engine)?;
            let hash = lens.unembedding().tuned_lens_hash()?;
            Ok::<_, easyroutine::Error>((lens, hash))
        })?;
        let warning = lens.tuned().and_then(|trained| trained.warning(model.name(), &hash));
        Ok((Lens { lens }, warning))
    }

    /// A model's lens behind the mean Jacobians of a file, and a warning if that is another model's.
    #[staticmethod]
    fn of_jacobian(py: Python<'_>, file: PathBuf, model: &Model) -> Result<(Lens, Option<String>), Failure> {
        let engine = Arc::clone(&model.model);
        let lens = waiting(py, move || LogitLens::from_jacobian(file, &engine))?;
        let warning = match lens.jacobian().filter(|fitted| fitted.model_digest.is_some()) {
            Some(fitted) => fitted.warning(py.detach(|| model.identity.digest())?),
            None => None,
        };
        Ok((Lens { lens }, warning))
    }

    /// Reads only the final norm and the unembedding; returns the model's name too, and warnings about how its files
    /// are read.
    #[staticmethod]
    #[pyo3(signature = (
        reference, *, dtype="float32", revision=None, offline=false, allow_config_keys=Vec::new(), allow_tensors=Vec::new(),
        adapter=None, with_adapter=true, progress=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python function")]
    fn open(
        py: Python<'_>,
        reference: &str,
        dtype: &str,
        revision: Option<String>,
        offline: bool,
        allow_config_keys: Vec<String>,
        allow_tensors: Vec<String>,
        adapter: Option<String>,
        with_adapter: bool,
        progress: Option<Py<PyAny>>,
    ) -> Result<(Lens, String, Vec<String>), Failure> {
        let options = LoadOptions {
            dtype: dtype_of(dtype)?,
            allowed_keys: allow_config_keys,
            allowed_tensors: allow_tensors,
            ..LoadOptions::default()
        };
        let adapter = source::adapter(adapter, with_adapter);
        let files = source::find(py, reference, revision, offline, adapter, progress)?;
        let name = files.name.clone();
        let (lens, warnings) = waiting(py, move || {
            let opened = load::open(&files, &options)?;
            let warnings = opened.warnings.clone();
            Ok::<_, easyroutine::Error>((opened.lens(&options)?, warnings))
        })?;
        Ok((Lens { lens }, name, warnings))
    }

    /// A lens from given numbers: `matrix` is `[V, D]`; `norm` is its kind (`layer`, `rms`), eps, weight and bias.
    #[staticmethod]
    #[pyo3(signature = (matrix, *, norm=None, bias=None, divisor=None, softcap=None))]
    fn of_numbers(
        py: Python<'_>,
        matrix: &Bound<'_, Tensor>,
        norm: Option<NormNumbers>,
        bias: Option<Py<Tensor>>,
        divisor: Option<f32>,
        softcap: Option<f32>,
    ) -> Result<Lens, Failure> {
        let matrix = matrix.get();
        let &[_, d_model] = matrix.shape.as_slice() else {
            return Err(Failure::input(format!(
                "an unembedding matrix is [V, D]; this is {:?}",
                matrix.shape
            )));
        };
        let floats = |tensor: Option<Py<Tensor>>| tensor.map(|t| t.get().floats());
        let norm = match norm {
            None => None,
            Some((kind, eps, weight, bias)) => {
                let kind = if kind == "layer" { NormKind::Layer } else { NormKind::Rms };
                Some(FinalNorm { kind, eps, weight: floats(weight), bias: floats(bias) })
            }
        };
        let rules = LogitRules { bias: floats(bias), divisor, softcap };
        let values = matrix.floats();
        let lens = py.detach(|| {
            let cpu = LoadOptions::default().cpu()?;
            let unembedding = Unembedding::from_rows(&cpu, &values, d_model, norm, rules)?;
            Ok::<_, Failure>(LogitLens::from_unembedding(unembedding, cpu))
        })?;
        Ok(Lens { lens })
    }

    /// The unembedding matrix `[V, D]` in float32, a copy.
    fn matrix(&self, py: Python<'_>) -> Result<Tensor, Failure> {
        let unembedding = self.lens.unembedding();
        let values = py.detach(|| unembedding.rows())?;
        Ok(Tensor::f32(values, vec![unembedding.vocabulary(), unembedding.d_model()]))
    }

    /// Bias of the logits, divisor, softcap.
    fn rules(&self) -> (Option<Tensor>, Option<f32>, Option<f32>) {
        let LogitRules { bias, divisor, softcap } = self.lens.unembedding().rules();
        (bias.map(vector), divisor, softcap)
    }

    /// The final norm: its kind, eps, weight and bias.
    fn final_norm(&self) -> Option<(&'static str, f32, Option<Tensor>, Option<Tensor>)> {
        let FinalNorm { kind, eps, weight, bias } = self.lens.unembedding().final_norm()?;
        let kind = if kind == NormKind::Layer { "layer" } else { "rms" };
        Some((kind, eps, weight.map(vector), bias.map(vector)))
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.lens.vocabulary()
    }

    #[getter]
    fn d_model(&self) -> usize {
        self.lens.unembedding().d_model()
    }

    /// The lens of every key that matches the pattern.
    #[pyo3(signature = (entries, target_key, *, averaged, directions, norm, softmax, metric))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python function")]
    fn compute<'py>(
        &self,
        py: Python<'py>,
        entries: Vec<(String, Bound<'py, PyAny>)>,
        target_key: &str,
        averaged: bool,
        directions: Option<Vec<(u32, Option<u32>)>>,
        norm: &str,
        softmax: bool,
        metric: &str,
    ) -> PyResult<Bound<'py, PyDict>> {
        let mut cache = ActivationCache::default();
        cache.axis = if averaged { Axis::Groups } else { Axis::Tokens };
        for (key, value) in &entries {
            cache.insert(key.as_str(), cache::kept(key, value)?);
        }
        let direction = |(a, b): (u32, Option<u32>)| b.map_or(Direction::Token(a), |b| Direction::Pair(a, b));
        let options = LensOptions {
            directions: directions.map(|list| list.into_iter().map(direction).collect()),
            norm: norm_of(norm)?,
            softmax,
            metric: match metric {
                "logit_diff" => Metric::LogitDiff,
                "accuracy" => Metric::Accuracy,
                _ => {
                    return Err(
                        Failure::input(format!("metric is logit_diff or accuracy, not {metric}")).into()
                    );
                }
            },
        };
        let values = py
            .detach(|| self.lens.compute(&cache, target_key, &options))
            .map_err(|error| PyErr::from(Failure::Engine(error)))?;
        let results = PyDict::new(py);
        for (key, kept) in values {
            results.set_item(key, cache::value(py, kept)?)?;
        }
        Ok(results)
    }
}

/// Which statistics the final norm uses.
pub(crate) fn norm_of(name: &str) -> Result<LensNorm, Failure> {
    match name {
        "own" => Ok(LensNorm::Own),
        "cached" => Ok(LensNorm::Cached),
        "none" => Ok(LensNorm::None),
        _ => Err(Failure::input(format!("norm is own, cached or none, not {name}"))),
    }
}

fn vector(values: Vec<f32>) -> Tensor {
    let length = values.len();
    Tensor::f32(values, vec![length])
}
