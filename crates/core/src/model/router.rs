//! Routes tokens to experts, and weighs the experts.

use easyroutine_kernels::{Rows, RowsMut};

use crate::arch::{ExpertGroups, ExpertScores, ExpertWeights, GroupRank, Router};

/// Chooses the experts of each token, first choice first, and weighs them; a missing choice has index -1.
///
/// # Shapes
/// `scores`: tokens by experts; `index`, `weights`: tokens by k.
pub(crate) fn route(
    scores: Rows<'_>,
    router: &Router,
    [correction, factors]: [Option<&[f32]>; 2],
    mut index: RowsMut<'_>,
    mut weights: RowsMut<'_>,
) {
    for token in 0..scores.n_rows() {
        let (index, weights) = (index.row_mut(token), weights.row_mut(token));
        index.fill(-1.0);
        weights.fill(0.0);
        let chosen = chosen(scores.row(token), index.len(), router, correction);
        for ((index, weight), (expert, of_expert)) in index.iter_mut().zip(weights).zip(chosen) {
            let factor = factors.map_or(1.0, |factors| factors[expert]);
            (*index, *weight) = (expert as f32, of_expert * factor);
        }
    }
}

/// The chosen experts of one token with their weights: the `top_k` largest, ties to the lower index. A NaN counts as
/// the largest, so that it reaches the output instead of vanishing. Whatever corrections and groups say, an expert with
/// an infinite score is chosen, and one with a score of minus infinity is not.
fn chosen(scores: &[f32], top_k: usize, router: &Router, correction: Option<&[f32]>) -> Vec<(usize, f32)> {
    let logits = scores;
    let scores = match router.scores {
        ExpertScores::Softmax => softmax(scores),
        ExpertScores::Sigmoid => scores.iter().map(|score| sigmoid(*score)).collect(),
        ExpertScores::SparseMixer { jitter } => {
            let chosen = sparse_mixer(scores, jitter);
            return chosen.into_iter().map(|(expert, shares)| (expert, shares[expert])).collect();
        }
    };
    let mut ranks: Vec<f32> = match correction {
        Some(correction) => scores.iter().zip(correction).map(|(score, c)| score + c).collect(),
        None => scores.clone(),
    };
    let settle = |ranks: &mut [f32], infinite: f32| {
        let settled = ranks.iter_mut().zip(logits).filter(|(_, logit)| **logit == infinite);
        settled.for_each(|(rank, _)| *rank = infinite);
    };
    settle(&mut ranks, f32::INFINITY);
    if let Some(groups) = router.groups {
        leave_out_groups(&mut ranks, groups);
    }
    settle(&mut ranks, f32::NEG_INFINITY);
    let mut order = descending(&ranks);
    order.truncate(top_k);
    order.retain(|e| ranks[*e] != f32::NEG_INFINITY);
    let divisor: f32 = match router.weights {
        ExpertWeights::Renormalised { least } => {
            let sum: f32 = order.iter().map(|e| scores[*e]).sum();
            if sum < least { least } else { sum }
        }
        ExpertWeights::AsTheyAre => 1.0,
    };
    order.into_iter().map(|e| (e, scores[e] / divisor * router.scale)).collect()
}

/// Infinite scores share all the weight; if no score exceeds minus infinity, all weights are zero.
pub(crate) fn softmax(scores: &[f32]) -> Vec<f32> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if most.is_infinite() {
        let one = |score: f32| if score.is_nan() { score } else { f32::from(score == f32::INFINITY) };
        let ones: Vec<f32> = scores.iter().map(|score| one(*score)).collect();
        let count = ones.iter().sum::<f32>().max(1.0);
        return ones.into_iter().map(|one| one / count).collect();
    }
    let mut powers: Vec<f32> = scores.iter().map(|s| (s - most).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter_mut().for_each(|w| *w /= sum);
    powers
}

pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Indices of values, largest first.
fn descending(values: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order
}

/// Ranks experts outside the best groups below all others.
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

/// Two experts, each weighed by a softmax over the experts whose scores are near its own (modeling_phimoe.py,
/// `sparsemixer`); returns each with that softmax.
pub(crate) fn sparse_mixer(scores: &[f32], jitter: f32) -> Vec<(usize, Vec<f32>)> {
    let mut left = scores.to_vec();
    let mut chosen = Vec::with_capacity(2);
    for _ in 0..2.min(scores.len()) {
        let best = descending(&left)[0];
        let most = left[best];
        if most == f32::NEG_INFINITY {
            break;
        }
        // A NaN distance, as between infinities, does not count as far.
        let is_far = |score: f32| (most - score) / score.abs().max(most) > 2.0 * jitter;
        let near: Vec<f32> = left
            .iter()
            .zip(scores)
            .map(|(left, score)| if is_far(*score) { f32::NEG_INFINITY } else { *left })
            .collect();
        chosen.push((best, softmax(&near)));
        left[best] = f32::NEG_INFINITY;
    }
    chosen
}
