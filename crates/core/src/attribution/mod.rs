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
mod summed;
mod sums;

use crate::logits::log_sum_exp;

pub use check::{Check, CheckedCell, correlation, rank_correlation};
pub use estimate::{Estimate, Estimating, estimate};
pub use integrated::{Baseline, Integrated, Quadrature, integrated_gradients};
pub use scores::{Attribution, Cell, attribution_patching, check_largest};
pub use summed::Summed;
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

/// Logits minus the logarithm of the sum of their exponentials.
fn log_probabilities(logits: &[f32]) -> Vec<f32> {
    let sum = log_sum_exp(logits);
    logits.iter().map(|x| (f64::from(*x) - sum) as f32).collect()
}
