//! Gradients: how a number that the model gives, or vectors anywhere in it, change with every activation.
//!
//! One run forward and one backward, whatever is asked for. Gradients of a row are those of the row alone, to the bit.

mod objective;
mod seed;

use easyroutine_sites::{Point, Site};

use crate::arch::Arch;
use crate::batch::Batch;
use crate::cache::{ActivationCache, Axis, Examples, Key, PatternAverage, RunningMean};
use crate::edit::Edits;
use crate::error::{Error, ErrorKind, Result};
pub use crate::model::Rule;
use crate::model::{Model, Reverse, Start};
use crate::patching::Metric;
use crate::positions::{Context, Row};
use crate::request::Request;
use crate::stop::Stop;
use objective::Measured;
pub use seed::Seed;
use seed::Seeds;

/// What is differentiated.
#[derive(Debug, Clone, Copy)]
pub enum Output<'a> {
    /// A number of each row; the sum over rows is differentiated, so that no row feels the others.
    Metric {
        /// One for all rows, or one a row.
        metrics: &'a [Metric],
        /// For [`Metric::Kl`] the distribution that it is measured from, as log-probabilities, V of them for each row.
        target: Option<&'a [Vec<f32>]>,
    },
    /// Σ vector · activation over vectors given at any places: a vector-Jacobian product.
    Vectors(&'a [Seed]),
}

/// Gradients of a batch.
#[derive(Debug, Clone)]
pub struct Gradients {
    /// For each key that was asked for `KEY_gradients`, in the shape of the activation.
    pub cache: ActivationCache,
    /// The metric of each row; none for vectors.
    pub values: Vec<f64>,
}

/// The gradients of an output with respect to the activations of a request, at its positions.
///
/// Under edits they are those of the changed run, with respect to what stands after the edit. Hidden cells of scores and
/// patterns have gradient 0. A grouped key or value sums over its query heads, which `head_keys` and `head_values` show
/// apart. Which experts a token goes through is constant.
///
/// # Shapes
/// As the activations: `[B, T, D]` and so on.
///
/// # Errors
/// An activation that has no gradient; means, which are for activations; a metric that has no gradient, tokens beyond the
/// vocabulary, a number of metrics that is neither one nor that of the rows; a model in bf16 or with a step that has no
/// backward rule; a run that was stopped; a gradient that is not finite, which is named; all of [`Request::points`], [`Request::tokens`] and
/// [`Model::forward`].
#[expect(clippy::too_many_arguments, reason = "each is asked for in another place")]
pub fn gradients(
    model: &Model,
    rows: &[Row<'_>],
    request: &Request,
    output: Output<'_>,
    rule: Rule,
    edits: &mut Edits,
    context: Context<'_>,
    stop: Stop<'_>,
) -> Result<Gradients> {
    let points = request.points(model.arch())?;
    if points.is_empty() {
        return Err(Error::input("no activation is asked for, so there is nothing to differentiate by"));
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
    let mut reverse = Reverse { start, edits, receiver: &mut capture, rule, stop };
    model.reverse(&batch, &mut reverse)?;
    let values = measured.values().to_vec();
    if let Some(row) = values.iter().position(|value| !value.is_finite()) {
        return Err(not_finite(format!("the metric of row {row} is {}", values[row])));
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
    Ok(Gradients { cache, values })
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

/// What comes after every vector has no gradient: asking for it is a mistake.
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
