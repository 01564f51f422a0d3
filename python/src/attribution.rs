//! Attribution patching and integrated gradients.

use easyroutine::Stop;
use easyroutine::attribution::{self, Baseline, Check, Quadrature};
use easyroutine::positions::Context;
use easyroutine::request::Request;
use easyroutine::sites::Selector;
use pyo3::prelude::*;
use pyo3::types::PyDict;

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

/// Scores by activation as entries of a cache; `metric` and `base_metric` [B]; and `checks`, JSON for each row.
pub(crate) fn patching<'py>(
    py: Python<'py>,
    model: &Model,
    base: &[RowInput],
    target: &[RowInput],
    settings: &PatchingSettings,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let activations: Result<Vec<Selector>, _> = settings.keys.iter().map(|key| key.parse()).collect();
    let request = Request {
        activations: activations.map_err(|e| Failure::from(easyroutine::Error::from(e)))?,
        positions: specifiers(&settings.positions)?,
        ..Request::default()
    };
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

fn numbers(values: &[f64]) -> Tensor {
    Tensor::f32(values.iter().map(|x| *x as f32).collect(), vec![values.len()])
}
