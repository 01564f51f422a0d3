//! Attribution patching and integrated gradients.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use easyroutine::Stop;
use easyroutine::attribution::{self, Baseline, Check, Quadrature};
use easyroutine::positions::Context;
use easyroutine::request::Request;
use easyroutine::sites::Selector;
use easyroutine_app::record;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::Value;

use crate::cache;
use crate::errors::Failure;
use crate::gradients::metric;
use crate::interrupt::Signals;
use crate::model::{Model, RowInput, specifiers, views};
use crate::patching::{Told, rule};
use crate::tensor::Tensor;

/// Name, answer, against.
type MetricInput = (String, Option<u32>, Option<u32>);

/// What is scored, as Python writes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct PatchingSettings {
    keys: Vec<String>,
    /// As JSON.
    positions: String,
    metrics: Vec<MetricInput>,
    rule: String,
    /// Cells of each row that are also run, as a check.
    check: Option<usize>,
    seed: u64,
}

impl PatchingSettings {
    fn request(&self) -> Result<Request, Failure> {
        let activations: Result<Vec<Selector>, _> = self.keys.iter().map(|key| key.parse()).collect();
        Ok(Request {
            activations: activations.map_err(|e| Failure::from(easyroutine::Error::from(e)))?,
            positions: specifiers(&self.positions)?,
            ..Request::default()
        })
    }
}

/// Scores by activation as entries of a cache; `metric` and `base_metric` [B]; and `checks`, JSON for each row.
pub(crate) fn patching<'py>(
    py: Python<'py>,
    model: &Model,
    base: &[RowInput],
    target: &[RowInput],
    settings: &PatchingSettings,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let request = settings.request()?;
    let metrics = settings.metrics.iter().map(metric).collect::<Result<Vec<_>, _>>()?;
    let rule = rule(&settings.rule)?;
    let (base, target) = (views(base, 0), views(target, 0));
    let context = Context { special: model.special(), seed: settings.seed, ..Context::default() };
    let signals = Signals::new();
    let mut told = Told::new(progress);
    let found = py.detach(|| -> easyroutine::Result<_> {
        let stop = Stop::When(&|| signals.is_stopped());
        let engine = &model.model;
        let found = attribution::attribution_patching(
            engine, &base, &target, &request, &metrics, rule, context, stop,
        )?;
        let mut checks: Vec<Check> = Vec::new();
        if let Some(most) = settings.check {
            for (number, row) in target.iter().enumerate() {
                let tell = |done, of| told.tell(number * of + done, of * target.len());
                checks.push(attribution::check_largest(engine, row, &found, number, most, tell)?);
            }
        }
        Ok((found, checks))
    });
    let (found, checks) = found.map_err(|error| told.failure(&signals, error))?;
    let result = PyDict::new(py);
    result.set_item("selection", cache::selection(&found.selection))?;
    let mut entries = Vec::new();
    for (point, kept) in found.scores {
        entries.push((point.to_string(), cache::value(py, kept)?));
    }
    result.set_item("entries", entries)?;
    result.set_item("metric", numbers(&found.target))?;
    result.set_item("base_metric", numbers(&found.base))?;
    let checks: Vec<String> = checks.iter().map(|check| check.to_json().to_string()).collect();
    result.set_item("checks", checks)?;
    Ok(result)
}

/// What is integrated, as Python writes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct IntegralSettings {
    metrics: Vec<MetricInput>,
    /// `left`, `right`, `midpoint`, `gausslegendre`.
    points: String,
    steps: usize,
}

/// `attributions` [B, T, D]; `metric`, `baseline_metric` and `missing` [B], one value per row; and `warnings` as text.
pub(crate) fn integrated<'py>(
    py: Python<'py>,
    model: &Model,
    rows: &[RowInput],
    baseline: Option<&[RowInput]>,
    settings: &IntegralSettings,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let metrics = settings.metrics.iter().map(metric).collect::<Result<Vec<_>, _>>()?;
    let quadrature = Quadrature::from_name(&settings.points).map_err(Failure::from)?;
    let views_of_rows = views(rows, 0);
    let others = baseline.map(|rows| views(rows, 0));
    let start = others.as_deref().map_or(Baseline::Zero, Baseline::Rows);
    let signals = Signals::new();
    let mut told = Told::new(progress);
    let found = py.detach(|| {
        let stop = Stop::When(&|| signals.is_stopped());
        attribution::integrated_gradients(
            &model.model,
            &views_of_rows,
            start,
            &metrics,
            None,
            quadrature,
            settings.steps,
            stop,
            |done, of| told.tell(done, of),
        )
    });
    let found = found.map_err(|error| told.failure(&signals, error))?;
    let result = PyDict::new(py);
    result.set_item("warnings", found.warnings())?;
    result.set_item("metric", numbers(&found.values))?;
    result.set_item("baseline_metric", numbers(&found.baselines))?;
    result.set_item("missing", numbers(&found.missing))?;
    result.set_item("attributions", cache::value(py, found.attributions)?)?;
    Ok(result)
}

/// The number of pairs; the mean metric of the corrupted and of the clean prompts; and for each activation its name, its mean
/// scores and whether there is one a part.
type MeanScores = (usize, [f64; 2], Vec<(String, Vec<f64>, bool)>);

/// Sums of attribution patching over many pairs, kept in a file.
#[pyclass(frozen, module = "easyroutine._core")]
pub(crate) struct AttributionSums {
    sums: Mutex<attribution::AttributionSums>,
    file: Option<PathBuf>,
    told: Value,
    settings: PatchingSettings,
}

#[pymethods]
impl AttributionSums {
    /// Sums to add to; those of a file, if it is there.
    #[new]
    fn new(
        py: Python<'_>,
        model: &Model,
        file: Option<PathBuf>,
        settings: PatchingSettings,
    ) -> Result<AttributionSums, Failure> {
        py.detach(|| {
            let told = match &file {
                Some(_) => {
                    let (arch, digest) = (model.model.arch(), model.identity.digest()?);
                    let (request, rule) = (settings.request()?, rule(&settings.rule)?);
                    let name = settings.metrics.first().map(|(name, ..)| name.clone()).unwrap_or_default();
                    let of_name = metric(&(name, Some(0), Some(0)))?.to_json();
                    let name = of_name["name"].as_str().unwrap_or_default();
                    record::mean_attribution(arch, digest, &request, settings.seed, rule, name)?
                }
                None => Value::Null,
            };
            let sums = match &file {
                Some(file) if file.exists() => attribution::AttributionSums::read(file, &told)?,
                _ => attribution::AttributionSums::default(),
            };
            Ok(AttributionSums { sums: Mutex::new(sums), file, told, settings })
        })
    }

    /// Adds the scores of the next pair, unless it is among the sums already.
    fn add(
        &self,
        py: Python<'_>,
        model: &Model,
        clean: RowInput,
        corrupted: RowInput,
        metric: MetricInput,
    ) -> Result<(), Failure> {
        let metric = crate::gradients::metric(&metric)?;
        let (request, rule) = (self.settings.request()?, rule(&self.settings.rule)?);
        let context = Context { special: model.special(), seed: self.settings.seed, ..Context::default() };
        let signals = Signals::new();
        py.detach(|| {
            let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
            let ids = [&clean.0[..], &corrupted.0[..]];
            if sums.has(ids, metric)? {
                return Ok(());
            }
            let stop = Stop::When(&|| signals.is_stopped());
            let (base, target) = ([clean.clone()], [corrupted.clone()]);
            let (base, target) = (views(&base, 0), views(&target, 0));
            let (engine, metrics) = (&model.model, [metric]);
            let found = attribution::attribution_patching(
                engine, &base, &target, &request, &metrics, rule, context, stop,
            )
            .map_err(|error| signals.failure(error))?;
            sums.add(ids, metric, &found);
            Ok(())
        })
    }

    /// Writes the sums into their file, if they have one.
    fn write(&self, py: Python<'_>) -> Result<(), Failure> {
        let Some(file) = &self.file else { return Ok(()) };
        py.detach(|| {
            let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
            easyroutine_app::files::replace(file, |at| {
                sums.write(&self.told, &mut BufWriter::new(File::create(at)?))
            })
        })?;
        Ok(())
    }

    /// The means. An error if the data set has fewer pairs than were summed.
    fn finish(&self) -> Result<MeanScores, Failure> {
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        sums.summed().finish()?;
        let mut found: Vec<(String, Vec<f64>, bool)> = Vec::new();
        for ((point, part), score) in sums.means() {
            let name = point.to_string();
            match found.last_mut() {
                Some((last, scores, _)) if *last == name => scores.push(score),
                _ => found.push((name, vec![score], part.is_some())),
            }
        }
        Ok((sums.summed().n(), sums.metrics(), found))
    }
}

fn numbers(values: &[f64]) -> Tensor {
    Tensor::f32(values.iter().map(|x| *x as f32).collect(), vec![values.len()])
}
