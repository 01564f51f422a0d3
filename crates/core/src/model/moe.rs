//! A router and its experts.

use easyroutine_kernels::{Activation, Cpu, Rows, RowsMut};

use super::buffer::Buffer;
use crate::arch::ExpertWeights;
use crate::weights::Projection;

/// Experts with their weights.
#[derive(Debug)]
pub(crate) struct Experts {
    pub(crate) router: Projection,
    pub(crate) top_k: usize,
    pub(crate) weights: ExpertWeights,
    pub(crate) act: Activation,
    pub(crate) experts: Vec<Expert>,
}

/// One gated expert.
#[derive(Debug)]
pub(crate) struct Expert {
    pub(crate) gate_up: Projection,
    pub(crate) down: Projection,
}

impl Experts {
    /// Sends each token through its experts and adds what they give in ascending order of experts.
    ///
    /// # Shapes
    /// `x`, `out`: tokens by `d_model`.
    pub(crate) fn forward(&self, cpu: &Cpu, x: Rows<'_>, mut out: RowsMut<'_>) {
        let mut scores = Buffer::default();
        scores.resize(x.n_rows(), self.experts.len());
        self.router.apply(cpu, x, scores.rows_mut());
        let mut tokens_of: Vec<Vec<(usize, f32)>> = vec![Vec::new(); self.experts.len()];
        for token in 0..x.n_rows() {
            for (expert, weight) in self.route(scores.rows().row(token)) {
                tokens_of[expert].push((token, weight));
            }
            out.row_mut(token).fill(0.0);
        }
        let (mut chosen, mut hidden, mut result) = (Buffer::default(), Buffer::default(), Buffer::default());
        for (expert, tokens) in self.experts.iter().zip(&tokens_of).filter(|(_, tokens)| !tokens.is_empty()) {
            chosen.resize(tokens.len(), x.n_columns());
            hidden.resize(tokens.len(), expert.down.inputs());
            result.resize(tokens.len(), x.n_columns());
            for (i, (token, _)) in tokens.iter().enumerate() {
                chosen.rows_mut().row_mut(i).copy_from_slice(x.row(*token));
            }
            expert.gate_up.apply_gated(cpu, chosen.rows(), self.act, hidden.rows_mut());
            expert.down.apply(cpu, hidden.rows(), result.rows_mut());
            for (i, (token, weight)) in tokens.iter().enumerate() {
                for (sum, value) in out.row_mut(*token).iter_mut().zip(result.rows().row(i)) {
                    *sum += value * weight;
                }
            }
        }
    }

    /// The chosen experts of one token with their weights: softmax over all, the `top_k` largest, ties to the lower
    /// index. A NaN counts as the largest, so that it reaches the output instead of vanishing.
    fn route(&self, scores: &[f32]) -> Vec<(usize, f32)> {
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut weights: Vec<f32> = scores.iter().map(|s| (s - most).exp()).collect();
        let sum: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
        let mut order: Vec<usize> = (0..weights.len()).collect();
        order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
        order.truncate(self.top_k);
        let kept: f32 = match self.weights {
            ExpertWeights::Renormalised => order.iter().map(|e| weights[*e]).sum(),
            ExpertWeights::AsTheyAre => 1.0,
        };
        order.into_iter().map(|e| (e, weights[e] / kept)).collect()
    }
}
