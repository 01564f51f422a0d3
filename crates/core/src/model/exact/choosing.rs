//! Experts: which a token goes through, and what they give.

use std::ops::Range;

use super::Exact;
use super::formulas::{activation, sigmoid, softmax};
use super::matrix::{Matrix, dot, product};
use crate::arch::{ExpertGate, ExpertScores, ExpertWeights, GroupRank, Router};
use crate::error::Result;
use crate::model::experts::Expert;
use crate::pass::{At, Reg};

impl Exact<'_> {
    /// The best experts of each token, with weights; the number of one that is missing is -1.
    pub(super) fn route(&mut self, at: At, top_k: usize, router: &Router) -> Result<()> {
        let [correction, factors] = self.model.weights.of_router(at)?;
        let scores = self.reg(Reg::RouterScores);
        let mut index = Matrix::zeros(scores.n_rows(), top_k);
        let mut weights = Matrix::zeros(scores.n_rows(), top_k);
        for token in 0..scores.n_rows() {
            index.row_mut(token).fill(-1.0);
            let chosen = chosen(scores.row(token), top_k, router, correction);
            for (place, (expert, weight)) in chosen.into_iter().enumerate() {
                let factor = factors.map_or(1.0, |factors| f64::from(factors[expert]));
                index.row_mut(token)[place] = expert as f64;
                weights.row_mut(token)[place] = weight * factor;
            }
        }
        *self.reg_mut(Reg::RouterIndex) = index;
        *self.reg_mut(Reg::RouterWeights) = weights;
        Ok(())
    }

    /// to += the weighted sum of what those of a token's experts give that are among these.
    pub(super) fn experts(
        &mut self,
        at: At,
        experts: Range<usize>,
        [from, to]: [Reg; 2],
        gate: ExpertGate,
    ) -> Result<()> {
        for expert in experts {
            self.expert_out(at, expert, from, gate)?;
            self.add_expert(expert, to);
        }
        Ok(())
    }

    /// What one expert gives for its tokens; zeros for all others.
    pub(super) fn expert_out(&mut self, at: At, number: usize, from: Reg, gate: ExpertGate) -> Result<()> {
        let model = self.model;
        let (index, read) = (self.reg(Reg::RouterIndex), self.reg(from));
        let goes = |token: &usize| index.row(*token).contains(&(number as f64));
        let tokens: Vec<usize> = (0..index.n_rows()).filter(goes).collect();
        let mut out = Matrix::zeros(index.n_rows(), read.n_columns());
        if let Some(expert) = model.weights.experts(at)?.get(number).filter(|_| !tokens.is_empty()) {
            let mut x = Matrix::zeros(tokens.len(), read.n_columns());
            tokens.iter().enumerate().for_each(|(i, token)| x.row_mut(i).copy_from_slice(read.row(*token)));
            let hidden = hidden(&model.cpu, expert, gate, &x);
            let given = product(&model.cpu, &hidden, &expert.down);
            tokens
                .iter()
                .enumerate()
                .for_each(|(i, token)| out.row_mut(*token).copy_from_slice(given.row(i)));
        }
        *self.reg_mut(Reg::ExpertOut) = out;
        Ok(())
    }

    /// to += weight * expert_out. The first expert makes room.
    pub(super) fn add_expert(&mut self, number: usize, to: Reg) {
        let mut sum = std::mem::take(self.reg_mut(to));
        let (index, weights) = (self.reg(Reg::RouterIndex), self.reg(Reg::RouterWeights));
        let given = self.reg(Reg::ExpertOut);
        if number == 0 {
            sum = Matrix::zeros(given.n_rows(), given.n_columns());
        }
        for token in 0..index.n_rows() {
            for (expert, weight) in index.row(token).iter().zip(weights.row(token)) {
                if *expert == number as f64 {
                    let sum = sum.row_mut(token).iter_mut();
                    sum.zip(given.row(token)).for_each(|(sum, x)| *sum += weight * x);
                }
            }
        }
        *self.reg_mut(to) = sum;
    }

    /// shared_out *= sigmoid(w read)
    pub(super) fn weigh_shared(&mut self, at: At) -> Result<()> {
        let weights = self.model.weights.shared(at)?.weigh.as_deref().unwrap_or_default();
        let weights: Vec<f64> = weights.iter().map(|w| f64::from(*w)).collect();
        let mut out = std::mem::take(self.reg_mut(Reg::SharedOut));
        for token in 0..out.n_rows() {
            let factor = sigmoid(dot(self.reg(Reg::Read).row(token), &weights));
            out.row_mut(token).iter_mut().for_each(|x| *x *= factor);
        }
        *self.reg_mut(Reg::SharedOut) = out;
        Ok(())
    }
}

/// An expert's neurons, after the gate.
fn hidden(cpu: &easyroutine_kernels::Cpu, expert: &Expert, gate: ExpertGate, x: &Matrix) -> Matrix {
    let sums = product(cpu, x, &expert.gate_up);
    let neurons = expert.down.inputs();
    let mut out = Matrix::zeros(x.n_rows(), neurons);
    for token in 0..x.n_rows() {
        let sums = sums.row(token);
        for (i, out) in out.row_mut(token).iter_mut().enumerate() {
            *out = match gate {
                ExpertGate::Plain(act) => activation(act, sums[i]) * sums[neurons + i],
                ExpertGate::None(act) => activation(act, sums[i]),
                ExpertGate::Clamped { alpha, limit } => {
                    let limit = f64::from(limit);
                    let gate = if sums[i] > limit { limit } else { sums[i] };
                    let up = sums[neurons + i].clamp(-limit, limit);
                    (up + 1.0) * gate * sigmoid(f64::from(alpha) * gate)
                }
            };
        }
    }
    out
}

/// The chosen experts of one token with their weights, the first choice first; ties go to the lower number.
fn chosen(logits: &[f64], top_k: usize, router: &Router, correction: Option<&[f32]>) -> Vec<(usize, f64)> {
    let mut scores = logits.to_vec();
    match router.scores {
        ExpertScores::Softmax => softmax(&mut scores, None),
        ExpertScores::Sigmoid => scores.iter_mut().for_each(|x| *x = sigmoid(*x)),
        ExpertScores::SparseMixer { jitter } => return sparse_mixer(logits, f64::from(jitter)),
    }
    let mut ranks = scores.clone();
    let corrections = correction.unwrap_or_default();
    ranks.iter_mut().zip(corrections).for_each(|(rank, by)| *rank += f64::from(*by));
    if let Some(groups) = router.groups {
        let size = ranks.len() / groups.count;
        let of_group = |group: &[f64]| {
            let best = if groups.rank == GroupRank::Best { 1 } else { 2 };
            descending(group).into_iter().take(best).map(|e| group[e]).sum::<f64>()
        };
        let of_groups: Vec<f64> = ranks.chunks_exact(size).map(of_group).collect();
        for group in descending(&of_groups).into_iter().skip(groups.kept) {
            ranks[group * size..(group + 1) * size].fill(f64::NEG_INFINITY);
        }
    }
    let mut order = descending(&ranks);
    order.truncate(top_k);
    order.retain(|e| ranks[*e] != f64::NEG_INFINITY);
    let sum: f64 = order.iter().map(|e| scores[*e]).sum();
    let divisor = match router.weights {
        ExpertWeights::Renormalised { least } if sum < f64::from(least) => f64::from(least),
        ExpertWeights::Renormalised { .. } => sum,
        ExpertWeights::AsTheyAre => 1.0,
    };
    order.into_iter().map(|e| (e, scores[e] / divisor * f64::from(router.scale))).collect()
}

/// Places of values, the largest first.
fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order
}

/// Two experts one after the other, each weighed by a softmax over those whose scores are near its own (modeling_phimoe.py,
/// `sparsemixer`).
fn sparse_mixer(scores: &[f64], jitter: f64) -> Vec<(usize, f64)> {
    let mut left = scores.to_vec();
    let mut chosen = Vec::with_capacity(2);
    for _ in 0..2.min(scores.len()) {
        let best = descending(&left)[0];
        let most = left[best];
        let is_far = |score: f64| (most - score) / score.abs().max(most) > 2.0 * jitter;
        let near = left.iter().zip(scores);
        let mut near: Vec<f64> =
            near.map(|(left, score)| if is_far(*score) { f64::NEG_INFINITY } else { *left }).collect();
        softmax(&mut near, None);
        chosen.push((best, near[best]));
        left[best] = f64::NEG_INFINITY;
    }
    chosen
}
