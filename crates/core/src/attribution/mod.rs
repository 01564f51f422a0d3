//! Attribution: which activations carry a number computed by the model, at the cost of a gradient.
//!
//! [`estimate`] fills a grid of patching from one gradient; [`attribution_patching`] scores any activations, including
//! single neurons and entries of patterns. On request, both run their largest cells exactly, so that an estimate comes
//! with its quality. [`integrated_gradients`] distributes a metric over the tokens of a prompt.

mod check;
pub mod edges;
mod estimate;
mod integrated;
mod scores;
mod sums;

use crate::batch::Batch;
use crate::cache::{ActivationCache, RunningMean};
use crate::error::Result;
use crate::logits::{LastLogits, log_sum_exp};
use crate::model::Model;
use crate::positions::Row;
use crate::request::{Request, Tokens};
use crate::stop::Stop;

pub use crate::summed::Summed;
pub use check::{Check, CheckedCell, correlation, rank_correlation};
pub use estimate::{Estimate, Estimating, estimate};
pub use integrated::{Baseline, Integrated, Quadrature, integrated_gradients};
pub use scores::{Attribution, Cell, attribution_patching, check_largest};
pub use sums::AttributionSums;

/// The indices of the largest absolute values, largest first, ties to the lower index.
pub(crate) fn largest(values: &[f64], most: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()).then(a.cmp(b)));
    order.truncate(most);
    order
}

/// Σ (put - present) · slope. Values with zero slope are hidden, and may be infinite.
fn difference(put: impl Iterator<Item = f32>, present: &[f32], slope: &[f32]) -> f64 {
    let terms = put.zip(present).zip(slope).filter(|(_, slope)| **slope != 0.0);
    terms.map(|((put, present), slope)| (f64::from(put) - f64::from(*present)) * f64::from(*slope)).sum()
}

/// One run: the values of a request at some tokens, and the logits of each row's last token.
fn values_and_logits(
    model: &Model,
    rows: &[Row<'_>],
    request: &Request,
    tokens: Tokens,
    stop: Stop<'_>,
) -> Result<(ActivationCache, Vec<Vec<f32>>)> {
    let batch = Batch::new(&rows.iter().map(|row| row.ids).collect::<Vec<_>>())?;
    let capture = request.capture(model.arch(), tokens, RunningMean::default())?;
    let mut taps = (capture, LastLogits::of(0..rows.len()));
    model.forward_until(&batch, &mut taps, stop)?;
    let (capture, last) = taps;
    Ok((capture.finish(&batch), last.logits.into_iter().flatten().collect()))
}

/// Logits minus the logarithm of the sum of their exponentials.
fn log_probabilities(logits: &[f32]) -> Vec<f32> {
    let sum = log_sum_exp(logits);
    logits.iter().map(|x| (f64::from(*x) - sum) as f32).collect()
}
