//! Gradients with respect to any activation, of a number computed by the model or of vectors given anywhere in it.
//!
//! One forward and one backward run, whatever is requested. A row's gradients are those of the row alone, to the bit.

mod objective;
mod seed;

use easyroutine_sites::{Point, Site};

use crate::arch::Arch;
use crate::batch::Batch;
use crate::cache::{ActivationCache, Axis, Examples, Key, PatternAverage, RunningMean};
use crate::error::{Error, ErrorKind, Result};
pub use crate::model::Rule;
use crate::model::{Model, Reverse, Start};
use crate::patching::Metric;
use crate::positions::{Context, Row};
use crate::request::Request;
use crate::stop::Stop;
use crate::tap::{Reversible, Tap};
use objective::Measured;
pub use seed::Seed;
use seed::Seeds;

/// What to differentiate.
#[derive(Debug, Clone, Copy)]
pub enum Output<'a> {
    /// One number per row. The sum over rows is differentiated, so that rows do not affect each other.
    Metric {
        /// One for all rows, or one per row.
        metrics: &'a [Metric],
        /// For [`Metric::Kl`], the reference distribution as log-probabilities, V per row.
        target: Option<&'a [Vec<f32>]>,
    },
    /// Σ vector · activation, over vectors at any places: a vector-Jacobian product.
    Vectors(&'a [Seed]),
}

/// Gradients of a batch.
#[derive(Debug, Clone)]
pub struct Gradients {
    /// For each requested key `KEY_gradients`, in the shape of the activation.
    pub cache: ActivationCache,
    /// Each row's metric; empty for vectors.
    pub values: Vec<f64>,
}

/// The gradients of an output with respect to the activations of a request, at its positions.
///
/// Under edits, they are gradients of the edited run with respect to the edited values. Hidden cells of scores and
/// patterns have gradient 0. The gradient of a grouped key or value is the sum over its query heads; `head_keys` and
/// `head_values` separate them. The choice of experts is constant.
///
/// # Shapes
/// As the activations: `[B, T, D]` and so on.
///
/// # Errors
/// As [`Request::points`], [`Request::tokens`] and [`Model::forward`]. Also if an activation or a metric has no
/// gradient, the request asks for means, a token is beyond the vocabulary, the number of metrics is neither one nor
/// that of the rows, the model is in bf16 or has a step without a backward rule, the run was stopped, or a gradient is
/// not finite (it is named).
#[expect(clippy::too_many_arguments, reason = "each is asked for in another place")]
pub fn gradients(
    model: &Model,
    rows: &[Row<'_>],
    request: &Request,
    output: Output<'_>,
    rule: Rule,
    edits: &mut dyn Reversible,
    context: Context<'_>,
    stop: Stop<'_>,
) -> Result<Gradients> {
    run(model, rows, request, None, output, rule, edits, context, stop).map(|run| run.gradients)
}

/// Gradients, and what their forward run computed on its way.
pub(crate) struct GradientRun {
    pub(crate) gradients: Gradients,
    /// Values of a second request, under the edits.
    pub(crate) values: ActivationCache,
    /// Logits of the last token of each row; `None` if the output does not read them.
    pub(crate) last_logits: Vec<Option<Vec<f32>>>,
}

/// [`gradients`], with the values that the forward run has at the places and positions of `values`.
#[expect(clippy::too_many_arguments, reason = "each is asked for in another place")]
pub(crate) fn run(
    model: &Model,
    rows: &[Row<'_>],
    request: &Request,
    values: Option<&Request>,
    output: Output<'_>,
    rule: Rule,
    edits: &mut dyn Reversible,
    context: Context<'_>,
    stop: Stop<'_>,
) -> Result<GradientRun> {
    let points = request.points(model.arch())?;
    if points.is_empty() {
        return Err(Error::input("no activation is requested, so there is nothing to differentiate by"));
    }
    if let Some((point, reason)) = points.iter().find_map(|p| Some((p, no_gradient(*p)?))) {
        return Err(Error::input(format!("`{point}` has no gradient: {reason}")));
    }
    let reduction = &request.reduction;
    if reduction.positions != Axis::Tokens
        || reduction.pattern != PatternAverage::None
        || reduction.examples != Examples::Each
    {
        return Err(Error::input("means are taken of activations, and gradients are kept token by token"));
    }
    let batch = Batch::new(&rows.iter().map(|row| row.ids).collect::<Vec<_>>())?;
    let tokens = request.tokens(rows, context)?;
    let mut capture = request.capture(model.arch(), tokens, RunningMean::default())?;
    // What stands behind the blocks is computed for some tokens alone, and some of them at a time.
    let is_beyond = |values: &&Request| -> Result<bool> {
        let points = values.points(model.arch())?;
        Ok(points.iter().any(|point| {
            point.layer().is_none() && !matches!(point.site(), Site::InputIds | Site::InputEmbeddings)
        }))
    };
    let is_beyond = values.as_ref().map_or(Ok(false), is_beyond)?;
    let mut of_values = values
        .filter(|_| !is_beyond)
        .map(|values| values.capture(model.arch(), values.tokens(rows, context)?, RunningMean::default()))
        .transpose()?;
    let mut measured;
    let mut seeds;
    let start = match output {
        Output::Metric { metrics, target } => {
            measured = Measured::new(model, &batch, metrics, target)?;
            Start::Logits(&mut measured)
        }
        Output::Vectors(vectors) => {
            measured = Measured::default();
            seeds = Seeds::new(model.arch(), vectors, rows, context)?;
            check_order(model.arch(), vectors, points.iter().copied())?;
            Start::Vectors(&mut seeds)
        }
    };
    let tap = of_values.as_mut().map(|values| values as &mut dyn Tap);
    let mut reverse = Reverse { start, edits, values: tap, receiver: &mut capture, rule, stop };
    model.reverse(&batch, &mut reverse)?;
    let (metrics, last_logits) = measured.finish();
    if let Some(row) = metrics.iter().position(|value| !value.is_finite()) {
        return Err(not_finite(format!("the metric of row {row} is {}", metrics[row])));
    }
    let mut cache = capture.finish(&batch);
    let points: Vec<Point> = cache.keys().filter_map(Key::point).collect();
    for point in points {
        let Some(entry) = cache.remove(point) else { continue };
        cache.insert_with_info(Key::Gradient(point), entry.content, entry.info.unwrap_or_default());
    }
    if let Some((key, _)) = cache.iter().find(|(_, kept)| kept.values().iter().any(|x| !x.is_finite())) {
        return Err(not_finite(format!("`{key}` is not finite")));
    }
    let values = match (of_values, values) {
        (Some(kept), _) => kept.finish(&batch),
        (None, Some(values)) => values.run_until(model, &batch, rows, context, edits, stop)?,
        (None, None) => ActivationCache::default(),
    };
    Ok(GradientRun { gradients: Gradients { cache, values: metrics }, values, last_logits })
}

/// Why a place has no gradient.
fn no_gradient(point: Point) -> Option<&'static str> {
    match point.site() {
        Site::InputIds => Some("token ids are choices, not numbers; `input_embeddings` is what they become"),
        Site::RouterIndex => Some("experts are chosen, not computed; `router_weights` have one"),
        Site::LastLayernorm => {
            Some("these are statistics beside the pass; the last `resid_out` is what is normed")
        }
        Site::ProjectedValue | Site::ProjectedKey | Site::ProjectedQuery => {
            Some("the pass computes nothing from it; `values`, `keys` and `queries` have one")
        }
        Site::Score => Some("the metrics are read off logits, and this model has none"),
        _ => None,
    }
}

/// A place after every vector has no gradient: requesting it is a mistake.
fn check_order(arch: &Arch, seeds: &[Seed], points: impl Iterator<Item = Point>) -> Result<()> {
    let place = |point: Point| {
        let block = match point.site() {
            Site::InputIds | Site::InputEmbeddings => 0,
            _ => point.layer().map_or(arch.layers.len() + 1, |layer| layer + 1),
        };
        (block, point.site())
    };
    let Some(last) = seeds.iter().map(|seed| seed.point).max_by_key(|point| place(*point)) else {
        return Err(Error::input("no vector is given, so there is nothing to differentiate"));
    };
    match points.into_iter().find(|point| place(*point) > place(last)) {
        Some(point) => {
            Err(Error::input(format!("`{point}` comes after `{last}`, which does not depend on it")))
        }
        None => Ok(()),
    }
}

fn not_finite(what: String) -> Error {
    Error::new(ErrorKind::Input, what).hint("weights, an edit or the prompt overflow f32 in this run")
}
