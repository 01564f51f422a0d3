//! Which experts a token goes through, and what they give.

use easyroutine_kernels::{Activation, Cpu, Rows, RowsMut};

use super::buffer::Buffer;
use crate::arch::ExpertWeights;
use crate::weights::Projection;

/// One gated expert.
#[derive(Debug)]
pub(crate) struct Expert {
    pub(crate) gate_up: Projection,
    pub(crate) down: Projection,
}

/// Sends each token to its experts: for each expert its tokens, ascending, with weights.
///
/// # Shapes
/// `scores`: tokens by experts.
pub(crate) fn route(
    scores: Rows<'_>,
    top_k: usize,
    weights: ExpertWeights,
    routes: &mut Vec<Vec<(usize, f32)>>,
) {
    routes.iter_mut().for_each(Vec::clear);
    routes.resize_with(scores.n_columns(), Vec::new);
    for token in 0..scores.n_rows() {
        for (expert, weight) in chosen(scores.row(token), top_k, weights) {
            routes[expert].push((token, weight));
        }
    }
}

/// The chosen experts of one token with their weights: softmax over all, the `top_k` largest, ties to the lower
/// index. A NaN counts as the largest, so that it reaches the output instead of vanishing.
fn chosen(scores: &[f32], top_k: usize, weights: ExpertWeights) -> Vec<(usize, f32)> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut probabilities: Vec<f32> = scores.iter().map(|s| (s - most).exp()).collect();
    let sum: f32 = probabilities.iter().sum();
    probabilities.iter_mut().for_each(|w| *w /= sum);
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
    order.truncate(top_k);
    let kept: f32 = match weights {
        ExpertWeights::Renormalised => order.iter().map(|e| probabilities[*e]).sum(),
        ExpertWeights::AsTheyAre => 1.0,
    };
    order.into_iter().map(|e| (e, probabilities[e] / kept)).collect()
}

/// Adds what each token's experts give, in ascending order of experts.
///
/// # Shapes
/// `x`, `out`: tokens by `d_model`.
pub(crate) fn mix(
    cpu: &Cpu,
    experts: &[Expert],
    routes: &[Vec<(usize, f32)>],
    act: Activation,
    x: Rows<'_>,
    mut out: RowsMut<'_>,
) {
    (0..out.n_rows()).for_each(|token| out.row_mut(token).fill(0.0));
    let (mut chosen, mut hidden, mut result) = (Buffer::default(), Buffer::default(), Buffer::default());
    for (expert, tokens) in experts.iter().zip(routes).filter(|(_, tokens)| !tokens.is_empty()) {
        chosen.resize(tokens.len(), x.n_columns());
        hidden.resize(tokens.len(), expert.down.inputs());
        result.resize(tokens.len(), x.n_columns());
        for (i, (token, _)) in tokens.iter().enumerate() {
            chosen.rows_mut().row_mut(i).copy_from_slice(x.row(*token));
        }
        expert.gate_up.apply_gated(cpu, chosen.rows(), act, hidden.rows_mut());
        expert.down.apply(cpu, hidden.rows(), result.rows_mut());
        for (i, (token, weight)) in tokens.iter().enumerate() {
            for (sum, value) in out.row_mut(*token).iter_mut().zip(result.rows().row(i)) {
                *sum += value * weight;
            }
        }
    }
}
