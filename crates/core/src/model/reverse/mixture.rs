//! Backward rules of experts. Which experts a token goes through is constant; their weights are differentiated.

use easyroutine_kernels::{Activation, Finish};

use super::state::{Walk, add_row};
use crate::arch::ExpertWeights;
use crate::error::Result;
use crate::model::buffer::Buffer;
use crate::pass::{At, Reg};

impl Walk<'_> {
    /// The weighted sum of what a token's experts give.
    pub(super) fn experts_back(&mut self, at: At, act: Activation) -> Result<()> {
        let Some(g) = self.gradients.take(Reg::MlpOut) else { return Ok(()) };
        let model = self.run.model;
        let (cpu, experts) = (&model.cpu, model.weights.experts(at)?);
        let routes = std::mem::take(&mut self.run.registers.routes);
        self.routes = routes.iter().map(|tokens| vec![0.0; tokens.len()]).collect();
        let (n_tokens, d_model) = (g.rows().n_rows(), g.rows().n_columns());
        self.gradients.sum(Reg::Read, n_tokens, d_model);
        for (number, (expert, tokens)) in experts.iter().zip(&routes).enumerate() {
            if tokens.is_empty() {
                continue;
            }
            let neurons = expert.down.inputs();
            let sized = |columns: usize| {
                let mut buffer = Buffer::default();
                buffer.resize(tokens.len(), columns);
                buffer
            };
            let [mut x, mut result, mut back] = [(); 3].map(|()| sized(d_model));
            let [mut hidden, mut of_hidden] = [(); 2].map(|()| sized(neurons));
            let [mut sums, mut of_sums] = [(); 2].map(|()| sized(2 * neurons));
            let read = self.run.registers.get(Reg::Read).rows();
            for (i, (token, _)) in tokens.iter().enumerate() {
                x.rows_mut().row_mut(i).copy_from_slice(read.row(*token));
            }
            expert.gate_up.apply(cpu, x.rows(), sums.rows_mut());
            expert.gate_up.apply_gated(cpu, x.rows(), act, hidden.rows_mut());
            expert.down.apply(cpu, hidden.rows(), result.rows_mut());
            for (i, (token, weight)) in tokens.iter().enumerate() {
                let g = g.rows().row(*token);
                self.routes[number][i] = cpu.dot(g, result.rows().row(i)) as f32;
                back.rows_mut().row_mut(i).iter_mut().zip(g).for_each(|(back, g)| *back = weight * g);
            }
            expert.down.back(cpu, back.rows(), Finish::Store, of_hidden.rows_mut());
            cpu.gate_back(act, self.rule.slope(), sums.rows(), of_hidden.rows(), of_sums.rows_mut());
            expert.gate_up.back(cpu, of_sums.rows(), Finish::Store, back.rows_mut());
            let mut sum = self.gradients.sum(Reg::Read, n_tokens, d_model);
            for (i, (token, _)) in tokens.iter().enumerate() {
                add_row(back.rows().row(i), sum.row_mut(*token));
            }
        }
        self.run.registers.routes = routes;
        self.gradients.free(g);
        Ok(())
    }

    /// The weights of a token's experts, from the softmax of all scores.
    pub(super) fn route_back(&mut self, weights: ExpertWeights) {
        let routes = &self.run.registers.routes;
        let of_weights = std::mem::take(&mut self.routes);
        if of_weights.len() != routes.len() {
            return;
        }
        let scores = self.run.registers.get(Reg::RouterScores).rows();
        let (tokens, experts) = (scores.n_rows(), scores.n_columns());
        // For each token its experts, with weights and the gradients of these.
        let mut chosen: Vec<Vec<(usize, f32, f32)>> = vec![Vec::new(); tokens];
        for (expert, (tokens, gradients)) in routes.iter().zip(&of_weights).enumerate() {
            for ((token, weight), g) in tokens.iter().zip(gradients) {
                chosen[*token].push((expert, *weight, *g));
            }
        }
        let mut out = self.gradients.zeros(tokens, experts);
        for (token, chosen) in chosen.iter().enumerate() {
            let mut out = out.rows_mut();
            let out = out.row_mut(token);
            // Weights that are divided by their sum are a softmax of the chosen scores; others are part of that of all.
            let along: f32 = chosen.iter().map(|(_, weight, g)| weight * g).sum();
            if weights == ExpertWeights::AsTheyAre {
                let scores = scores.row(token);
                let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = scores.iter().map(|s| (s - most).exp()).sum();
                out.iter_mut().zip(scores).for_each(|(out, s)| *out = -(s - most).exp() / sum * along);
                chosen.iter().for_each(|(expert, weight, g)| out[*expert] += weight * g);
            } else {
                chosen.iter().for_each(|(expert, weight, g)| out[*expert] = weight * (g - along));
            }
        }
        self.add(Reg::RouterScores, out);
    }
}
