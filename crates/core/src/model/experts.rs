//! The steps of experts, each for the tokens routed to it.

use std::ops::Range;

use easyroutine_kernels::{Cpu, Rows, RowsMut};

use super::buffer::Buffer;
use super::router::sigmoid;
use super::run::Run;
use crate::arch::ExpertGate;
use crate::error::Result;
use crate::pass::{At, Reg};
use crate::weights::Projection;

/// One gated expert.
#[derive(Debug)]
pub(crate) struct Expert {
    pub(crate) gate_up: Projection,
    pub(crate) down: Projection,
}

impl Run<'_> {
    /// The tokens of a range of experts, with their weights.
    pub(super) fn routes(&self, experts: Range<usize>) -> Vec<Vec<(usize, f32)>> {
        let weights = self.registers.get(Reg::RouterWeights).rows();
        tokens_of(experts, self.registers.get(Reg::RouterIndex).rows(), Some(weights))
    }

    /// The first expert allocates room for the sum of all, which is as wide as this register.
    fn room_for_experts(&mut self, first: usize, as_wide_as: Reg, to: Reg) {
        if first == 0 {
            let given = self.registers.get(as_wide_as).rows();
            let (tokens, width) = (given.n_rows(), given.n_columns());
            let mut out = self.registers.get_mut(to).resize(tokens, width);
            (0..tokens).for_each(|token| out.row_mut(token).fill(0.0));
        }
    }

    /// Adds the outputs of a range of experts for their tokens, experts ascending.
    pub(super) fn experts(
        &mut self,
        at: At,
        experts: Range<usize>,
        [from, to]: [Reg; 2],
        gate: ExpertGate,
    ) -> Result<()> {
        let model = self.model;
        let routes = self.routes(experts.clone());
        self.room_for_experts(experts.start, from, to);
        let (read, out) = self.registers.pair(from, to);
        let (mut out, mut room) = (out.rows_mut(), Room::default());
        let some = model.weights.experts(at)?.get(experts).unwrap_or_default();
        for (expert, tokens) in some.iter().zip(&routes).filter(|(_, tokens)| !tokens.is_empty()) {
            let given = expert.apply(&model.cpu, tokens, gate, read.rows(), &mut room);
            for (i, (token, weight)) in tokens.iter().enumerate() {
                add_weighted(given.row(i), *weight, out.row_mut(*token));
            }
        }
        Ok(())
    }

    /// One expert's output for its tokens; zeros for all others.
    pub(super) fn expert_out(&mut self, at: At, number: usize, from: Reg, gate: ExpertGate) -> Result<()> {
        let model = self.model;
        let index = self.registers.get(Reg::RouterIndex).rows();
        let tokens = tokens_of(number..number + 1, index, None).concat();
        let (read, out) = self.registers.pair(from, Reg::ExpertOut);
        let read = read.rows();
        let mut out = out.resize(read.n_rows(), read.n_columns());
        (0..read.n_rows()).for_each(|token| out.row_mut(token).fill(0.0));
        if let Some(expert) = model.weights.experts(at)?.get(number).filter(|_| !tokens.is_empty()) {
            let mut room = Room::default();
            let given = expert.apply(&model.cpu, &tokens, gate, read, &mut room);
            tokens.iter().enumerate().for_each(|(i, (token, _))| {
                out.row_mut(*token).copy_from_slice(given.row(i));
            });
        }
        Ok(())
    }

    /// Adds one expert's output.
    pub(super) fn add_expert(&mut self, expert: usize, to: Reg) {
        let tokens = self.routes(expert..expert + 1).concat();
        self.room_for_experts(expert, Reg::ExpertOut, to);
        let (given, out) = self.registers.pair(Reg::ExpertOut, to);
        let mut out = out.rows_mut();
        for (token, weight) in tokens {
            add_weighted(given.rows().row(token), weight, out.row_mut(token));
        }
    }

    /// Multiplies the shared experts' output by the sigmoid of a product with their input.
    pub(super) fn weigh_shared(&mut self, at: At) -> Result<()> {
        let weights = self.model.weights.shared(at)?.weigh.as_deref().unwrap_or_default();
        let (read, out) = self.registers.pair(Reg::Read, Reg::SharedOut);
        let (read, mut out) = (read.rows(), out.rows_mut());
        for token in 0..out.n_rows() {
            let product: f64 =
                read.row(token).iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            let factor = sigmoid(product as f32);
            out.row_mut(token).iter_mut().for_each(|x| *x *= factor);
        }
        Ok(())
    }
}

/// The tokens of each expert in a range, ascending, with their weights.
///
/// # Shapes
/// `index`, `weights`: tokens by k.
pub(crate) fn tokens_of(
    experts: Range<usize>,
    index: Rows<'_>,
    weights: Option<Rows<'_>>,
) -> Vec<Vec<(usize, f32)>> {
    let mut tokens = vec![Vec::new(); experts.len()];
    for token in 0..index.n_rows() {
        for (place, expert) in index.row(token).iter().enumerate().filter(|(_, expert)| **expert >= 0.0) {
            let expert = *expert as usize;
            if experts.contains(&expert) {
                let weight = weights.map_or(1.0, |weights| weights.row(token)[place]);
                tokens[expert - experts.start].push((token, weight));
            }
        }
    }
    tokens
}

/// sum += weight * values
pub(crate) fn add_weighted(values: &[f32], weight: f32, sum: &mut [f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value * weight);
}

/// Scratch for one expert.
#[derive(Debug, Default)]
pub(crate) struct Room {
    chosen: Buffer,
    both: Buffer,
    hidden: Buffer,
    given: Buffer,
}

impl Expert {
    /// The expert's output for a list of tokens, in their order.
    pub(crate) fn apply<'r>(
        &self,
        cpu: &Cpu,
        tokens: &[(usize, f32)],
        gate: ExpertGate,
        x: Rows<'_>,
        room: &'r mut Room,
    ) -> Rows<'r> {
        let Room { chosen, both, hidden, given } = room;
        chosen.resize(tokens.len(), x.n_columns());
        hidden.resize(tokens.len(), self.down.inputs());
        given.resize(tokens.len(), self.down.outputs());
        for (i, (token, _)) in tokens.iter().enumerate() {
            chosen.rows_mut().row_mut(i).copy_from_slice(x.row(*token));
        }
        self.hidden(cpu, chosen.rows(), gate, both, hidden.rows_mut());
        self.down.apply(cpu, hidden.rows(), given.rows_mut());
        given.rows()
    }

    /// Its neurons, after the gate. `both` is scratch.
    pub(crate) fn hidden(
        &self,
        cpu: &Cpu,
        x: Rows<'_>,
        gate: ExpertGate,
        both: &mut Buffer,
        out: RowsMut<'_>,
    ) {
        match gate {
            ExpertGate::Plain(act) => self.gate_up.apply_gated(cpu, x, act, out),
            ExpertGate::None(act) => self.gate_up.apply_activated(cpu, x, act, out),
            ExpertGate::Clamped { alpha, limit } => {
                both.resize(x.n_rows(), self.gate_up.outputs());
                self.gate_up.apply(cpu, x, both.rows_mut());
                clamp_and_gate(both.rows(), alpha, limit, out);
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
