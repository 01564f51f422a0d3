//! The steps of recurrences.

use std::ops::Range;

use easyroutine_kernels::{Activation, GatedDelta, RgLru, Rows, RowsMut, SelectiveScan, StateSpace};

use super::run::Run;
use super::weights::State;
use crate::arch;
use crate::error::Result;
use crate::pass::{At, Reg};

/// Added to the sum of squares of queries and keys (transformers, `l2norm`).
pub(super) const LENGTH_EPS: f32 = 1e-6;

/// Unlimited step sizes.
pub(super) const ANY: [f32; 2] = [f32::NEG_INFINITY, f32::INFINITY];

impl Run<'_> {
    /// The causal convolution of the first columns of `mixed`.
    pub(super) fn convolve(&mut self, at: At, to: Reg) -> Result<()> {
        let model = self.model;
        let convolution = &model.weights.recurrence(at)?.convolution;
        let (layer, channels) = (at.layer().unwrap_or(0), convolution.weight.len() / convolution.kernel);
        let size = (convolution.kernel - 1) * channels;
        let mut last = self.carried(layer, 0, size);
        let (mixed, out) = self.registers.pair(Reg::Mixed, to);
        let x = mixed.rows().columns(0..channels);
        let spans: Vec<Range<usize>> = self.batch.spans().collect();
        let before = Rows::dense(&last, spans.len(), size);
        model.cpu.convolve(convolution, x, &spans, before, out.resize(x.n_rows(), channels));
        // Inputs that the next tokens read.
        for piece in self.past.pieces(self.batch) {
            for (row, (tokens, _)) in piece.into_iter().enumerate() {
                let last = &mut last[row * size..(row + 1) * size];
                push_inputs(x, tokens.clone(), last);
                self.past.mark(tokens.end, 0, last);
            }
        }
        self.registers.states[0] = last;
        Ok(())
    }

    /// Each block of columns of `convolved` through its own matrices.
    pub(super) fn select_blocks(&mut self, at: At, blocks: usize) -> Result<()> {
        let model = self.model;
        let State::Unit { gates, .. } = &model.weights.recurrence(at)?.state else { return Ok(()) };
        let mut both = std::mem::take(&mut self.registers.work);
        let (convolved, selected) = self.registers.pair(Reg::Convolved, Reg::Selected);
        let (x, width) = (convolved.rows(), convolved.n_columns() / blocks);
        let mut out = selected.resize(x.n_rows(), 2 * convolved.n_columns());
        both.resize(x.n_rows(), 2 * width);
        for (block, gates) in gates.iter().enumerate() {
            let columns = block * width..(block + 1) * width;
            gates.apply(&model.cpu, x.columns(columns.clone()), both.rows_mut());
            for token in 0..x.n_rows() {
                let (input, forget) = out.row_mut(token).split_at_mut(x.n_columns());
                let both = both.rows().row(token);
                input[columns.clone()].copy_from_slice(&both[..width]);
                forget[columns.clone()].copy_from_slice(&both[width..]);
            }
        }
        self.registers.work = both;
        Ok(())
    }

    /// Carries a state through the tokens.
    pub(super) fn carry(&mut self, at: At, described: arch::State) -> Result<()> {
        let model = self.model;
        let (cpu, recurrence) = (&model.cpu, model.weights.recurrence(at)?);
        let Some(arch) = at.layer().and_then(|layer| model.arch.layers[layer].recurrence) else {
            return Ok(());
        };
        let ([_, size], layer) = (arch.carried(), at.layer().unwrap_or(0));
        let mut states = self.carried(layer, 1, size);
        let mut out = self.registers.take(Reg::MixerZ);
        let mut rates = std::mem::take(&mut self.registers.work);
        let (convolved, tokens) = (self.registers.get(Reg::Convolved).rows(), self.batch.n_tokens());
        let rest = arch.convolved() + arch.width()..arch.convolved() + arch.width() + arch.rest();
        match (&recurrence.state, described) {
            (State::Selective { steps, bias, .. }, arch::State::Selective { width, rank, .. }) => {
                let from = self.registers.get(Reg::Selected).rows().columns(0..rank);
                rates.resize(tokens, width);
                steps.apply(cpu, from, rates.rows_mut());
                cpu.softplus(rates.rows_mut(), bias, ANY);
            }
            (State::Heads { bias, .. }, _) => {
                // Steps come last, after any strengths.
                let mixed = self.registers.get(Reg::Mixed).rows();
                let from = mixed.columns(rest.end - bias.len()..rest.end);
                rates.resize(tokens, bias.len());
                let mut steps = rates.rows_mut();
                (0..tokens).for_each(|token| steps.row_mut(token).copy_from_slice(from.row(token)));
                let limits = match described {
                    arch::State::Space { steps, .. } => steps,
                    _ => ANY,
                };
                cpu.softplus(steps, bias, limits);
            }
            _ => {}
        }
        out.resize(tokens, arch.width());
        for piece in self.past.pieces(self.batch) {
            let rows: Vec<Range<usize>> = piece.iter().map(|(rows, _)| rows.clone()).collect();
            let states_mut = RowsMut::dense(&mut states, self.batch.n_rows(), size);
            let (registers, out) = (&self.registers, out.rows_mut());
            match (&recurrence.state, described) {
                (State::Selective { decay, skip, .. }, arch::State::Selective { size, rank, .. }) => {
                    let selected = registers.get(Reg::Selected).rows();
                    let weights =
                        [rank..rank + size, rank + size..rank + 2 * size].map(|c| selected.columns(c));
                    let scan = SelectiveScan { decay, skip };
                    cpu.selective_scan(scan, convolved, rates.rows(), weights, &rows, states_mut, out);
                }
                (
                    State::Heads { decay, skip, .. },
                    arch::State::Space { heads, d_head, groups, size: d_state, .. },
                ) => {
                    let (width, shared) = (heads * d_head, groups * d_state);
                    let columns = [width..width + shared, width + shared..width + 2 * shared];
                    let space = StateSpace { d_head, heads_per_group: heads / groups, d_state, decay, skip };
                    let (x, weights) = (convolved.columns(0..width), columns.map(|c| convolved.columns(c)));
                    cpu.state_space(space, x, rates.rows(), weights, &rows, states_mut, out);
                }
                (
                    State::Heads { decay, .. },
                    arch::State::Delta { key_heads, value_heads, d_key, d_value },
                ) => {
                    let keys = key_heads * d_key;
                    let columns = [0..keys, keys..2 * keys, 2 * keys..convolved.n_columns()];
                    let values_per_key = value_heads / key_heads;
                    let rule = GatedDelta { d_key, d_value, values_per_key, decay, eps: LENGTH_EPS };
                    let strengths =
                        registers.get(Reg::Mixed).rows().columns(rest.start..rest.start + value_heads);
                    let of = columns.map(|c| convolved.columns(c));
                    cpu.gated_delta(rule, of, [rates.rows(), strengths], &rows, states_mut, out);
                }
                (State::Unit { decay, .. }, arch::State::Unit { width, .. }) => {
                    let gates = registers.get(Reg::Selected).rows();
                    let of = [convolved, gates.columns(0..width), gates.columns(width..2 * width)];
                    cpu.rg_lru(RgLru { decay }, of, &piece, states_mut, out);
                }
                _ => {}
            }
            for (row, (piece, _)) in piece.iter().enumerate() {
                self.past.mark(piece.end, 1, &states[row * size..(row + 1) * size]);
            }
        }
        self.registers.put(Reg::MixerZ, out);
        self.registers.work = rates;
        self.registers.states[1] = states;
        Ok(())
    }

    /// Multiplies columns of a register by a gate, which may be in the same register.
    pub(super) fn gate(
        &mut self,
        (reg, columns): (Reg, Range<usize>),
        (from, by): (Reg, Range<usize>),
        act: Option<Activation>,
    ) {
        let cpu = &self.model.cpu;
        if reg != from {
            let (gate, to) = self.registers.pair(from, reg);
            return cpu.gate(act, gate.rows().columns(by), to.rows_mut().columns(columns));
        }
        let mut gate = std::mem::take(&mut self.registers.work);
        let from = self.registers.get(reg).rows().columns(by);
        gate.resize(from.n_rows(), from.n_columns());
        let mut copy = gate.rows_mut();
        (0..from.n_rows()).for_each(|token| copy.row_mut(token).copy_from_slice(from.row(token)));
        cpu.gate(act, gate.rows(), self.registers.get_mut(reg).rows_mut().columns(columns));
        self.registers.work = gate;
    }

    /// The state before each batch row's first token: rows by `size`.
    fn carried(&mut self, layer: usize, part: usize, size: usize) -> Vec<f32> {
        let mut all = std::mem::take(&mut self.registers.states[part]);
        all.clear();
        for row in 0..self.batch.n_rows() {
            match self.past.state(layer, self.batch, row, part) {
                Some(state) => all.extend_from_slice(state),
                None => all.resize(all.len() + size, 0.0),
            }
        }
        all
    }
}

/// Appends a row's inputs to its last ones and drops the oldest, keeping their number.
fn push_inputs(x: Rows<'_>, tokens: Range<usize>, last: &mut [f32]) {
    let width = x.n_columns();
    let fresh = tokens.end - tokens.len().min(last.len() / width)..tokens.end;
    let kept = last.len() - fresh.len() * width;
    last.copy_within(last.len() - kept.., 0);
    for (to, token) in last[kept..].chunks_exact_mut(width).zip(fresh) {
        to.copy_from_slice(x.row(token));
    }
}
