//! Backward rules of experts. The choice of experts is constant; their weights are differentiated.

use easyroutine_kernels::{Finish, Rows, RowsMut};

use super::state::{Saved, Walk, add_row};
use crate::arch::{ExpertGate, ExpertScores, ExpertWeights, Router};
use crate::error::Result;
use crate::model::buffer::Buffer;
use crate::model::experts::Expert;
use crate::model::router::{sigmoid, softmax, sparse_mixer};
use crate::pass::{At, Reg, Step};

impl Walk<'_> {
    /// The weighted sum of the outputs of a range of experts.
    pub(super) fn experts_back(&mut self, at: At, step: &Step) -> Result<()> {
        let Step::Experts { experts, from, to, gate, .. } = step else { return Ok(()) };
        let Some(g) = self.of_sum(experts.start, *to) else { return Ok(()) };
        let model = self.run.model;
        let some = model.weights.experts(at)?.get(experts.clone()).unwrap_or_default();
        let routes = self.run.routes(experts.clone());
        for ((number, expert), tokens) in experts.clone().zip(some).zip(&routes) {
            if tokens.is_empty() {
                continue;
            }
            let mut back = sized(tokens.len(), g.rows().n_columns());
            for (i, (token, weight)) in tokens.iter().enumerate() {
                let g = g.rows().row(*token);
                back.rows_mut().row_mut(i).iter_mut().zip(g).for_each(|(back, g)| *back = weight * g);
            }
            let given = self.expert_back(expert, *from, *gate, tokens, back);
            for (i, (token, _)) in tokens.iter().enumerate() {
                let along = model.cpu.dot(g.rows().row(*token), given.rows().row(i));
                self.add_to_weight(*token, number, along as f32);
            }
        }
        self.gradients.free(g);
        Ok(())
    }

    /// One expert's output for its tokens.
    pub(super) fn expert_out_back(
        &mut self,
        at: At,
        number: usize,
        from: Reg,
        gate: ExpertGate,
    ) -> Result<()> {
        let Some(g) = self.gradients.take(Reg::ExpertOut) else { return Ok(()) };
        let tokens = self.run.routes(number..number + 1).concat();
        if let Some(expert) = self.run.model.weights.experts(at)?.get(number).filter(|_| !tokens.is_empty()) {
            let mut back = sized(tokens.len(), g.rows().n_columns());
            for (i, (token, _)) in tokens.iter().enumerate() {
                back.rows_mut().row_mut(i).copy_from_slice(g.rows().row(*token));
            }
            self.expert_back(expert, from, gate, &tokens, back);
        }
        self.gradients.free(g);
        Ok(())
    }

    /// to += weight * expert_out
    pub(super) fn add_expert_back(&mut self, number: usize, to: Reg, saved: &Saved) {
        let (Some(g), Saved::Rows(given)) = (self.of_sum(number, to), saved) else { return };
        let (tokens, width) = (g.rows().n_rows(), g.rows().n_columns());
        let mut out = self.gradients.zeros(tokens, width);
        for (token, weight) in self.run.routes(number..number + 1).concat() {
            let g = g.rows().row(token);
            out.rows_mut().row_mut(token).iter_mut().zip(g).for_each(|(out, g)| *out = weight * g);
            let along = self.run.model.cpu.dot(g, given.rows().row(token));
            self.add_to_weight(token, number, along as f32);
        }
        self.gradients.free(g);
        self.add(Reg::ExpertOut, out);
    }

    /// The gradient of the sum of all experts. Its first expert, walked last, takes it.
    fn of_sum(&mut self, first: usize, to: Reg) -> Option<Buffer> {
        match first {
            0 => self.gradients.take(to),
            _ => self.gradients.get(to).map(super::copy),
        }
    }

    fn add_to_weight(&mut self, token: usize, expert: usize, g: f32) {
        let index = self.run.registers.get(Reg::RouterIndex).rows();
        let place = index.row(token).iter().position(|chosen| *chosen == expert as f32);
        let mut sum = self.gradients.sum(Reg::RouterWeights, index.n_rows(), index.n_columns());
        place.into_iter().for_each(|place| sum.row_mut(token)[place] += g);
    }

    /// Adds to the gradient of an expert's input that of its output, taken from `back`; returns that output.
    fn expert_back(
        &mut self,
        expert: &Expert,
        from: Reg,
        gate: ExpertGate,
        tokens: &[(usize, f32)],
        back: Buffer,
    ) -> Buffer {
        let cpu = &self.run.model.cpu;
        let read = self.run.registers.get(from).rows();
        let (n_tokens, width, neurons) = (read.n_rows(), read.n_columns(), expert.down.inputs());
        let mut x = sized(tokens.len(), width);
        for (i, (token, _)) in tokens.iter().enumerate() {
            x.rows_mut().row_mut(i).copy_from_slice(read.row(*token));
        }
        let mut both = Buffer::default();
        let mut given = sized(tokens.len(), back.rows().n_columns());
        let [mut hidden, mut of_hidden] = [(); 2].map(|()| sized(tokens.len(), neurons));
        let outputs = expert.gate_up.outputs();
        let [mut sums, mut of_sums] = [(); 2].map(|()| sized(tokens.len(), outputs));
        expert.gate_up.apply(cpu, x.rows(), sums.rows_mut());
        expert.hidden(cpu, x.rows(), gate, &mut both, hidden.rows_mut());
        expert.down.apply(cpu, hidden.rows(), given.rows_mut());
        expert.down.back(cpu, back.rows(), Finish::Store, of_hidden.rows_mut());
        match gate {
            ExpertGate::Plain(act) => {
                cpu.gate_back(act, self.rule.slope(), sums.rows(), of_hidden.rows(), of_sums.rows_mut());
            }
            ExpertGate::None(act) => {
                for token in 0..tokens.len() {
                    of_sums.rows_mut().row_mut(token).copy_from_slice(of_hidden.rows().row(token));
                }
                cpu.activate_back(act, self.rule.slope(), sums.rows(), of_sums.rows_mut());
            }
            ExpertGate::Clamped { alpha, limit } => {
                clamped_back(alpha, limit, sums.rows(), of_hidden.rows(), of_sums.rows_mut());
            }
        }
        let mut of_read = x;
        expert.gate_up.back(cpu, of_sums.rows(), Finish::Store, of_read.rows_mut());
        let mut sum = self.gradients.sum(from, n_tokens, width);
        for (i, (token, _)) in tokens.iter().enumerate() {
            add_row(of_read.rows().row(i), sum.row_mut(*token));
        }
        given
    }

    /// The weights of a token's experts, from the scores of all experts.
    pub(super) fn route_back(&mut self, router: &Router, factors: Option<&[f32]>) {
        let Some(g) = self.gradients.take(Reg::RouterWeights) else { return };
        let scores = self.run.registers.get(Reg::RouterScores).rows();
        let index = self.run.registers.get(Reg::RouterIndex).rows();
        let mut out = self.gradients.zeros(scores.n_rows(), scores.n_columns());
        for token in 0..scores.n_rows() {
            let chosen = index.row(token).iter().zip(g.rows().row(token));
            let chosen: Vec<(usize, f64)> = chosen
                .filter(|(expert, _)| **expert >= 0.0)
                .map(|(expert, g)| {
                    let factor = factors.map_or(1.0, |factors| factors[*expert as usize]);
                    (*expert as usize, f64::from(*g) * f64::from(factor))
                })
                .collect();
            of_scores(router, scores.row(token), &chosen, out.rows_mut().row_mut(token));
        }
        self.gradients.free(g);
        self.add(Reg::RouterScores, out);
    }

    /// shared_out *= sigmoid(w read)
    pub(super) fn weigh_shared_back(&mut self, at: At, saved: &Saved) -> Result<()> {
        let Saved::Rows(given) = saved else { return Ok(()) };
        let Some(mut g) = self.gradients.take(Reg::SharedOut) else { return Ok(()) };
        let model = self.run.model;
        let weights = model.weights.shared(at)?.weigh.as_deref().unwrap_or_default();
        let read = self.run.registers.get(Reg::Read).rows();
        let mut sum = self.gradients.sum(Reg::Read, read.n_rows(), read.n_columns());
        for token in 0..read.n_rows() {
            let factor = sigmoid(model.cpu.dot(read.row(token), weights) as f32);
            let along = model.cpu.dot(g.rows().row(token), given.rows().row(token)) as f32;
            let slope = along * factor * (1.0 - factor);
            sum.row_mut(token).iter_mut().zip(weights).for_each(|(sum, w)| *sum += slope * w);
            g.rows_mut().row_mut(token).iter_mut().for_each(|g| *g *= factor);
        }
        self.gradients.put(Reg::SharedOut, g);
        Ok(())
    }
}

fn sized(rows: usize, columns: usize) -> Buffer {
    let mut buffer = Buffer::default();
    buffer.resize(rows, columns);
    buffer
}

/// From the gradients of the chosen experts' weights, in order of choice, to those of all scores.
fn of_scores(router: &Router, scores: &[f32], chosen: &[(usize, f64)], out: &mut [f32]) {
    let shares = match router.scores {
        ExpertScores::Softmax => softmax(scores),
        ExpertScores::Sigmoid => scores.iter().map(|score| sigmoid(*score)).collect(),
        ExpertScores::SparseMixer { jitter } => {
            for ((expert, shares), (_, g)) in sparse_mixer(scores, jitter).into_iter().zip(chosen) {
                let along = g * f64::from(shares[expert]);
                out.iter_mut().zip(shares).for_each(|(out, share)| *out -= (along * f64::from(share)) as f32);
                out[expert] += along as f32;
            }
            return;
        }
    };
    let share = |expert: usize| f64::from(shares[expert]);
    // weight = scale * share / divisor
    let sum: f64 = chosen.iter().map(|(expert, _)| share(*expert)).sum();
    let (divisor, moves) = match router.weights {
        ExpertWeights::Renormalised { least } if sum < f64::from(least) => (f64::from(least), false),
        ExpertWeights::Renormalised { .. } => (sum, true),
        ExpertWeights::AsTheyAre => (1.0, false),
    };
    let along: f64 = chosen.iter().map(|(expert, g)| g * share(*expert)).sum();
    let of_divisor = if moves { along / (divisor * divisor) } else { 0.0 };
    let mut of_shares = vec![0.0; scores.len()];
    for (expert, g) in chosen {
        of_shares[*expert] = f64::from(router.scale) * (g / divisor - of_divisor);
    }
    let of_softmax: f64 = of_shares.iter().zip(&shares).map(|(g, share)| g * f64::from(*share)).sum();
    for (out, (g, share)) in out.iter_mut().zip(of_shares.iter().zip(&shares)) {
        let share = f64::from(*share);
        *out = match router.scores {
            ExpertScores::Sigmoid => g * share * (1.0 - share),
            _ => share * (g - of_softmax),
        } as f32;
    }
}

/// `(up + 1) * gate * sigmoid(alpha * gate)`; clamped values have no gradient.
fn clamped_back(alpha: f32, limit: f32, both: Rows<'_>, g: Rows<'_>, mut out: RowsMut<'_>) {
    for token in 0..both.n_rows() {
        let (gates, ups) = both.row(token).split_at(g.n_columns());
        let (of_gates, of_ups) = out.row_mut(token).split_at_mut(g.n_columns());
        let cells = of_gates.iter_mut().zip(of_ups).zip(gates.iter().zip(ups)).zip(g.row(token));
        for (((of_gate, of_up), (gate, up)), g) in cells {
            let (low, within) = (gate.min(limit), up.clamp(-limit, limit));
            let share = sigmoid(alpha * low);
            let slope = share + alpha * low * share * (1.0 - share);
            *of_gate = if *gate > limit { 0.0 } else { g * (within + 1.0) * slope };
            *of_up = if up.abs() > limit { 0.0 } else { g * low * share };
        }
    }
}
