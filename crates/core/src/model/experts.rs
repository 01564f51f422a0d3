//! Which experts a token goes through, and what they give.

use easyroutine_kernels::{Cpu, Rows, RowsMut};

use super::buffer::Buffer;
use crate::arch::{ExpertGate, ExpertGroups, ExpertScores, ExpertWeights, GroupRank, Router};
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
    router: &Router,
    correction: Option<&[f32]>,
    routes: &mut Vec<Vec<(usize, f32)>>,
) {
    routes.iter_mut().for_each(Vec::clear);
    routes.resize_with(scores.n_columns(), Vec::new);
    for token in 0..scores.n_rows() {
        for (expert, weight) in chosen(scores.row(token), top_k, router, correction) {
            routes[expert].push((token, weight));
        }
    }
}

/// The chosen experts of one token with their weights: the `top_k` largest, ties to the lower index. A NaN counts as the
/// largest, so that it reaches the output instead of vanishing.
fn chosen(scores: &[f32], top_k: usize, router: &Router, correction: Option<&[f32]>) -> Vec<(usize, f32)> {
    let scores = match router.scores {
        ExpertScores::Softmax => softmax(scores),
        ExpertScores::Sigmoid => scores.iter().map(|score| sigmoid(*score)).collect(),
        ExpertScores::SparseMixer { jitter } => return sparse_mixer(scores, jitter),
    };
    let mut ranks: Vec<f32> = match correction {
        Some(correction) => scores.iter().zip(correction).map(|(score, c)| score + c).collect(),
        None => scores.clone(),
    };
    if let Some(groups) = router.groups {
        leave_out_groups(&mut ranks, groups);
    }
    let mut order = descending(&ranks);
    order.truncate(top_k);
    let divisor: f32 = match router.weights {
        ExpertWeights::Renormalised { least } => {
            let sum: f32 = order.iter().map(|e| scores[*e]).sum();
            if sum < least { least } else { sum }
        }
        ExpertWeights::AsTheyAre => 1.0,
    };
    order.into_iter().map(|e| (e, scores[e] / divisor * router.scale)).collect()
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut powers: Vec<f32> = scores.iter().map(|s| (s - most).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter_mut().for_each(|w| *w /= sum);
    powers
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Places of values, the largest first.
fn descending(values: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order
}

/// Ranks experts outside of the best groups below all others.
fn leave_out_groups(ranks: &mut [f32], groups: ExpertGroups) {
    let size = ranks.len() / groups.count;
    let of_group = |group: &[f32]| {
        let order = descending(group);
        let best = match groups.rank {
            GroupRank::Best => 1,
            GroupRank::TwoBest => 2,
        };
        order.iter().take(best).map(|e| group[*e]).sum::<f32>()
    };
    let of_groups: Vec<f32> = ranks.chunks_exact(size).map(of_group).collect();
    for group in descending(&of_groups).into_iter().skip(groups.kept) {
        ranks[group * size..(group + 1) * size].fill(f32::NEG_INFINITY);
    }
}

/// Two experts, each weighed by a softmax over those whose scores are near its own (modeling_phimoe.py, `sparsemixer`).
fn sparse_mixer(scores: &[f32], jitter: f32) -> Vec<(usize, f32)> {
    let mut left = scores.to_vec();
    let mut chosen = Vec::with_capacity(2);
    for _ in 0..2.min(scores.len()) {
        let best = descending(&left)[0];
        let most = left[best];
        let is_near = |score: f32| (most - score) / score.abs().max(most) <= 2.0 * jitter;
        let near: Vec<f32> = left
            .iter()
            .zip(scores)
            .map(|(left, score)| if is_near(*score) { *left } else { f32::NEG_INFINITY })
            .collect();
        chosen.push((best, softmax(&near)[best]));
        left[best] = f32::NEG_INFINITY;
    }
    chosen
}

/// Multiplies each row of `out` by the sigmoid of a product with what the shared expert reads.
pub(crate) fn weigh(weights: &[f32], read: Rows<'_>, mut out: RowsMut<'_>) {
    for token in 0..out.n_rows() {
        let product: f64 =
            read.row(token).iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
        let factor = sigmoid(product as f32);
        out.row_mut(token).iter_mut().for_each(|x| *x *= factor);
    }
}

/// Adds what each token's experts give, in ascending order of experts.
///
/// # Shapes
/// `x`, `out`: tokens by `d_model`.
pub(crate) fn mix(
    cpu: &Cpu,
    experts: &[Expert],
    routes: &[Vec<(usize, f32)>],
    gate: ExpertGate,
    x: Rows<'_>,
    mut out: RowsMut<'_>,
) {
    (0..out.n_rows()).for_each(|token| out.row_mut(token).fill(0.0));
    let (mut chosen, mut hidden, mut result) = (Buffer::default(), Buffer::default(), Buffer::default());
    let mut both = Buffer::default();
    for (expert, tokens) in experts.iter().zip(routes).filter(|(_, tokens)| !tokens.is_empty()) {
        chosen.resize(tokens.len(), x.n_columns());
        hidden.resize(tokens.len(), expert.down.inputs());
        result.resize(tokens.len(), x.n_columns());
        for (i, (token, _)) in tokens.iter().enumerate() {
            chosen.rows_mut().row_mut(i).copy_from_slice(x.row(*token));
        }
        match gate {
            ExpertGate::Plain(act) => expert.gate_up.apply_gated(cpu, chosen.rows(), act, hidden.rows_mut()),
            ExpertGate::Clamped { alpha, limit } => {
                both.resize(tokens.len(), expert.gate_up.outputs());
                expert.gate_up.apply(cpu, chosen.rows(), both.rows_mut());
                clamp_and_gate(both.rows(), alpha, limit, hidden.rows_mut());
            }
        }
        expert.down.apply(cpu, hidden.rows(), result.rows_mut());
        for (i, (token, weight)) in tokens.iter().enumerate() {
            for (sum, value) in out.row_mut(*token).iter_mut().zip(result.rows().row(i)) {
                *sum += value * weight;
            }
        }
    }
}

/// `(up + 1) * gate * sigmoid(alpha * gate)` of rows that hold the gates, then the neurons (modeling_gpt_oss.py,
/// `_apply_gate`).
fn clamp_and_gate(both: Rows<'_>, alpha: f32, limit: f32, mut out: RowsMut<'_>) {
    for token in 0..out.n_rows() {
        let (gates, ups) = both.row(token).split_at(out.n_columns());
        for ((out, gate), up) in out.row_mut(token).iter_mut().zip(gates).zip(ups) {
            // Comparisons, not `min` and `max`: a NaN stays one.
            let gate = if *gate > limit { limit } else { *gate };
            *out = (up.clamp(-limit, limit) + 1.0) * (gate * sigmoid(alpha * gate));
        }
    }
}
