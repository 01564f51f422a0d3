//! Gradients of metrics and of vectors.

use easyroutine::Stop;
use easyroutine::edit::Tensor as Values;
use easyroutine::gradients::{self, Output, Rule, Seed};
use easyroutine::patching::Metric;
use easyroutine::positions::Context;
use easyroutine::request::Request;
use easyroutine::sites::Selector;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::cache;
use crate::edits::{self, InterventionInput};
use crate::errors::Failure;
use crate::interrupt::Signals;
use crate::model::{Model, RowInput, specifiers, views};
use crate::patching::rule;
use crate::tensor::Tensor;

/// Vectors at a place: key, positions as JSON, values.
type VectorInput = (String, String, Py<Tensor>);

/// What is differentiated, as Python writes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct GradientSettings {
    /// Keys, or patterns of keys.
    keys: Vec<String>,
    /// As JSON.
    positions: String,
    /// Name, answer, against: one for all rows, or one per row; none where vectors are given.
    metrics: Vec<(String, Option<u32>, Option<u32>)>,
    /// Log-probabilities, [B, V].
    target: Option<Py<Tensor>>,
    vectors: Vec<VectorInput>,
    /// `gradient` or `relp`.
    rule: String,
    interventions: Vec<InterventionInput>,
    pivots: Vec<i64>,
    seed: u64,
    first_row: usize,
}

/// Gradients by key in the form of `cache::to_python`, and under `metric` each row's metric, [B].
pub(crate) fn run<'py>(
    py: Python<'py>,
    model: &Model,
    rows: &[RowInput],
    settings: &GradientSettings,
) -> PyResult<Bound<'py, PyDict>> {
    let activations: Result<Vec<Selector>, _> = settings.keys.iter().map(|key| key.parse()).collect();
    let request = Request {
        activations: activations.map_err(|e| Failure::from(easyroutine::Error::from(e)))?,
        positions: specifiers(&settings.positions)?,
        ..Request::default()
    };
    let metrics = settings.metrics.iter().map(metric).collect::<Result<Vec<_>, _>>()?;
    let seeds = settings.vectors.iter().map(vector).collect::<Result<Vec<_>, _>>()?;
    let target: Option<Vec<Vec<f32>>> = settings.target.as_ref().map(|tensor| {
        let tensor = tensor.get();
        let width = tensor.shape.last().copied().unwrap_or(1).max(1);
        tensor.floats().chunks(width).map(<[f32]>::to_vec).collect()
    });
    let rule = rule(&settings.rule)?;
    let views = views(rows, settings.first_row);
    let context = Context { special: model.special(), pivots: &settings.pivots, seed: settings.seed };
    let changes = edits::read(&settings.interventions, model.model.arch())?;
    let mut edits = changes.checked(py, &model.model, &views, context)?;
    if rule != Rule::Gradient && !edits.1.is_empty() {
        return Err(Failure::input(
            "RelP says nothing of features that are changed; plain gradients pass through them",
        )
        .into());
    }
    let output = match seeds.is_empty() {
        true => Output::Metric { metrics: &metrics, target: target.as_deref() },
        false => Output::Vectors(&seeds),
    };
    let signals = Signals::new();
    let work = || {
        let stop = Stop::When(&|| signals.is_stopped());
        gradients::gradients(&model.model, &views, &request, output, rule, &mut edits, context, stop)
            .map_err(|error| signals.failure(error))
    };
    let found = py.detach(work)?;
    let result = cache::to_python(py, found.cache)?;
    let values: Vec<f32> = found.values.iter().map(|value| *value as f32).collect();
    let shape = vec![values.len()];
    result.set_item("metric", Tensor::f32(values, shape))?;
    Ok(result)
}

/// A metric by name, with its tokens.
pub(crate) fn metric(
    (name, answer, against): &(String, Option<u32>, Option<u32>),
) -> Result<Metric, Failure> {
    let lacks = |what: &str| Failure::input(format!("metric `{name}` needs {what}"));
    let answer = || answer.ok_or_else(|| lacks("answer, a token"));
    Ok(match name.as_str() {
        "logit_diff" => Metric::LogitDiff {
            answer: answer()?,
            against: against.ok_or_else(|| lacks("against, the token that it is measured against"))?,
        },
        "logit" => Metric::Logit { token: answer()? },
        "logprob" => Metric::LogProbability { token: answer()? },
        "p" | "probability" => Metric::Probability { token: answer()? },
        "kl" => Metric::Kl,
        "ce" => Metric::CrossEntropy,
        // These have no gradient; the engine reports it.
        "rank" => Metric::Rank { token: answer()? },
        other => {
            return Err(Failure::input(format!(
                "no metric `{other}`; they are logit_diff, logit, logprob, p, kl, ce"
            )));
        }
    })
}

fn vector((key, positions, values): &VectorInput) -> Result<Seed, Failure> {
    let values = values.get();
    Ok(Seed {
        point: key.parse().map_err(easyroutine::Error::from)?,
        positions: specifiers(positions)?,
        values: Values::new(format!("vectors at {key}"), &values.shape, values.floats())?,
    })
}
