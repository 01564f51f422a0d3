//! Backward rules of recurrences, of gates, and of further inputs of layers.

use std::ops::Range;

use easyroutine_kernels::{
    Activation, Convolution, Finish, GatedDelta, RgLru, Rows, SelectiveScan, StateSpace,
};

use super::state::{Saved, Walk, add_columns, put_columns};
use crate::arch;
use crate::error::Result;
use crate::model::buffer::Buffer;
use crate::model::recurrence::{ANY, LENGTH_EPS};
use crate::model::weights::State;
use crate::pass::{At, Reg};

impl Walk<'_> {
    /// to = act(the causal convolution of the first columns of mixed)
    pub(super) fn convolve_back(&mut self, at: At, to: Reg, act: Option<Activation>) -> Result<()> {
        let Some(mut g) = self.gradients.take(to) else { return Ok(()) };
        let model = self.run.model;
        let convolution = &model.weights.recurrence(at)?.convolution;
        let (tokens, channels) = (g.rows().n_rows(), g.rows().n_columns());
        let spans: Vec<Range<usize>> = self.run.batch.spans().collect();
        let mixed = self.run.registers.get(Reg::Mixed).rows();
        if let Some(act) = act {
            let sums = Convolution { act: None, ..convolution.clone() };
            let mut before_activation = self.gradients.room(tokens, channels);
            // Nothing stands before the rows.
            let size = (convolution.kernel - 1) * channels;
            let before = vec![0.0; spans.len() * size];
            let before = Rows::dense(&before, spans.len(), size);
            let out = before_activation.rows_mut();
            model.cpu.convolve(&sums, mixed.columns(0..channels), &spans, before, out);
            model.cpu.activate_back(act, self.rule.slope(), before_activation.rows(), g.rows_mut());
            self.gradients.free(before_activation);
        }
        let out = self.gradients.sum(Reg::Mixed, tokens, mixed.n_columns()).columns(0..channels);
        model.cpu.convolve_back(convolution, &spans, g.rows(), out);
        self.gradients.free(g);
        Ok(())
    }

    /// selected = each block of columns of convolved through matrices of its own.
    pub(super) fn select_blocks_back(&mut self, at: At, width: usize, blocks: usize) -> Result<()> {
        let Some(g) = self.gradients.take(Reg::Selected) else { return Ok(()) };
        let model = self.run.model;
        let State::Unit { gates, .. } = &model.weights.recurrence(at)?.state else { return Ok(()) };
        let (tokens, block) = (g.rows().n_rows(), width / blocks);
        let mut both = self.gradients.room(tokens, 2 * block);
        for (number, gates) in gates.iter().enumerate() {
            let columns = number * block..(number + 1) * block;
            let of_forget = width + columns.start..width + columns.end;
            put_columns(g.rows().columns(columns.clone()), both.rows_mut().columns(0..block));
            put_columns(g.rows().columns(of_forget), both.rows_mut().columns(block..2 * block));
            let out = self.gradients.sum(Reg::Convolved, tokens, width).columns(columns);
            gates.back(&model.cpu, both.rows(), Finish::Add, out);
        }
        self.gradients.free(both);
        self.gradients.free(g);
        Ok(())
    }

    /// mixer_z = a recurrence of convolved. Its states are computed again: docs/design/gradients.md.
    pub(super) fn carry_back(&mut self, at: At, described: arch::State) -> Result<()> {
        let Some(g) = self.gradients.take(Reg::MixerZ) else { return Ok(()) };
        let model = self.run.model;
        let (cpu, weights) = (&model.cpu, &model.weights.recurrence(at)?.state);
        let Some(arch) = at.layer().and_then(|layer| model.arch.layers[layer].recurrence) else {
            return Ok(());
        };
        let (tokens, spans) = (g.rows().n_rows(), self.run.batch.spans().collect::<Vec<Range<usize>>>());
        let [convolved, selected, mixed] =
            [Reg::Convolved, Reg::Selected, Reg::Mixed].map(|reg| self.run.registers.get(reg));
        let (x, of_mixed) = (convolved.rows(), mixed.n_columns());
        let rest = arch.convolved() + arch.width()..of_mixed;
        let mut zeros = |width: usize| self.gradients.zeros(tokens, width);
        match (weights, described) {
            (
                State::Selective { steps, bias, decay, skip, .. },
                arch::State::Selective { width, size, rank, .. },
            ) => {
                let selected = selected.rows();
                let [mut before, mut of_x, mut of_steps] = [(); 3].map(|()| zeros(width));
                let [mut of_b, mut of_c] = [(); 2].map(|()| zeros(size));
                steps.apply(cpu, selected.columns(0..rank), before.rows_mut());
                let mut rates = super::copy(before.rows());
                cpu.softplus(rates.rows_mut(), bias, ANY);
                let [b, c] = [rank, rank + size].map(|first| first..first + size);
                let of = [b.clone(), c.clone()].map(|columns| selected.columns(columns));
                let out = [of_x.rows_mut(), of_steps.rows_mut(), of_b.rows_mut(), of_c.rows_mut()];
                let scan = SelectiveScan { decay, skip };
                cpu.selective_scan_back(scan, x, rates.rows(), of, &spans, g.rows(), out);
                cpu.softplus_back(before.rows(), bias, ANY, of_steps.rows_mut());
                let mut sum = self.gradients.sum(Reg::Selected, tokens, selected.n_columns());
                steps.back(cpu, of_steps.rows(), Finish::Add, sum.reborrow().columns(0..rank));
                add_columns(of_b.rows(), sum.reborrow(), b);
                add_columns(of_c.rows(), sum, c);
                [before, rates, of_steps, of_b, of_c].into_iter().for_each(|b| self.gradients.free(b));
                self.add(Reg::Convolved, of_x);
            }
            (
                State::Heads { bias, decay, skip },
                arch::State::Space { heads, d_head, groups, size: d_state, steps: limits },
            ) => {
                let (width, shared) = (heads * d_head, groups * d_state);
                let mut of_convolved = zeros(arch.convolved());
                let [mut of_x, mut of_steps] = [width, heads].map(&mut zeros);
                let [mut of_b, mut of_c] = [(); 2].map(|()| zeros(shared));
                let before = mixed.rows().columns(rest.clone());
                let mut rates = super::copy(before);
                cpu.softplus(rates.rows_mut(), bias, limits);
                let columns = [width..width + shared, width + shared..width + 2 * shared];
                let of = columns.clone().map(|columns| x.columns(columns));
                let space = StateSpace { d_head, heads_per_group: heads / groups, d_state, decay, skip };
                let out = [of_x.rows_mut(), of_steps.rows_mut(), of_b.rows_mut(), of_c.rows_mut()];
                let g = g.rows();
                cpu.state_space_back(space, x.columns(0..width), rates.rows(), of, &spans, g, out);
                cpu.softplus_back(before, bias, limits, of_steps.rows_mut());
                let [b, c] = columns;
                add_columns(of_x.rows(), of_convolved.rows_mut(), 0..width);
                add_columns(of_b.rows(), of_convolved.rows_mut(), b);
                add_columns(of_c.rows(), of_convolved.rows_mut(), c);
                add_columns(of_steps.rows(), self.gradients.sum(Reg::Mixed, tokens, of_mixed), rest);
                [rates, of_x, of_steps, of_b, of_c].into_iter().for_each(|b| self.gradients.free(b));
                self.add(Reg::Convolved, of_convolved);
            }
            (
                State::Heads { bias, decay, .. },
                arch::State::Delta { key_heads, value_heads, d_key, d_value },
            ) => {
                let keys = key_heads * d_key;
                let columns = [0..keys, keys..2 * keys, 2 * keys..arch.convolved()];
                let mut of_convolved = zeros(arch.convolved());
                let mut of = columns.clone().map(|columns| zeros(columns.len()));
                let mut of_rates = [(); 2].map(|()| zeros(value_heads));
                let strengths = mixed.rows().columns(rest.start..rest.start + value_heads);
                let before = mixed.rows().columns(rest.start + value_heads..rest.end);
                let mut rates = super::copy(before);
                cpu.softplus(rates.rows_mut(), bias, ANY);
                let values_per_key = value_heads / key_heads;
                let rule = GatedDelta { d_key, d_value, values_per_key, decay, eps: LENGTH_EPS };
                let inputs = columns.clone().map(|columns| x.columns(columns));
                let (read, out) = ([rates.rows(), strengths], of.each_mut().map(Buffer::rows_mut));
                let of_read = of_rates.each_mut().map(Buffer::rows_mut);
                cpu.gated_delta_back(rule, inputs, read, &spans, g.rows(), out, of_read);
                let [mut of_steps, of_strengths] = of_rates;
                cpu.softplus_back(before, bias, ANY, of_steps.rows_mut());
                for (of, columns) in of.iter().zip(columns) {
                    add_columns(of.rows(), of_convolved.rows_mut(), columns);
                }
                let mut sum = self.gradients.sum(Reg::Mixed, tokens, of_mixed);
                add_columns(of_strengths.rows(), sum.reborrow(), rest.start..rest.start + value_heads);
                add_columns(of_steps.rows(), sum, rest.start + value_heads..rest.end);
                let used = of.into_iter().chain([rates, of_steps, of_strengths]);
                used.for_each(|b| self.gradients.free(b));
                self.add(Reg::Convolved, of_convolved);
            }
            (State::Unit { decay, .. }, arch::State::Unit { width, .. }) => {
                let [i, r] = [0..width, width..2 * width].map(|columns| selected.rows().columns(columns));
                let mut of = [(); 3].map(|()| zeros(width));
                let out = of.each_mut().map(Buffer::rows_mut);
                cpu.rg_lru_back(RgLru { decay }, [x, i, r], &spans, g.rows(), out);
                let [of_x, of_i, of_r] = of;
                let mut sum = self.gradients.sum(Reg::Selected, tokens, 2 * width);
                add_columns(of_i.rows(), sum.reborrow(), 0..width);
                add_columns(of_r.rows(), sum, width..2 * width);
                self.gradients.free(of_i);
                self.gradients.free(of_r);
                self.add(Reg::Convolved, of_x);
            }
            _ => {}
        }
        self.gradients.free(g);
        Ok(())
    }

    /// reg *= act(columns of from), which may stand in the same register.
    pub(super) fn gate_back(
        &mut self,
        (reg, columns): (Reg, Range<usize>),
        (from, by): (Reg, Range<usize>),
        act: Option<Activation>,
        saved: &Saved,
    ) {
        // What edits of single heads' outputs add is of what stands behind the gate.
        if reg == Reg::Z
            && let Some(of_edited) = self.of_edited.take()
        {
            self.add(reg, of_edited);
        }
        let (Some(g), Saved::Rows(before)) = (self.gradients.get(reg), saved) else { return };
        let g = super::copy(g.columns(columns.clone()));
        let (tokens, width) = (g.rows().n_rows(), columns.len());
        let gate = self.run.registers.get(from);
        let of_from = gate.n_columns();
        let mut both = self.gradients.room(tokens, 2 * width);
        put_columns(gate.rows().columns(by.clone()), both.rows_mut().columns(0..width));
        put_columns(before.rows(), both.rows_mut().columns(width..2 * width));
        let mut out = self.gradients.room(tokens, 2 * width);
        match act {
            Some(act) => {
                let slope = self.rule.slope();
                self.run.model.cpu.gate_back(act, slope, both.rows(), g.rows(), out.rows_mut());
            }
            None => {
                for token in 0..tokens {
                    let (gate, x) = both.rows().row(token).split_at(width);
                    let mut out = out.rows_mut();
                    let (of_gate, of_x) = out.row_mut(token).split_at_mut(width);
                    for (i, g) in g.rows().row(token).iter().enumerate() {
                        (of_gate[i], of_x[i]) = (g * x[i], g * gate[i]);
                    }
                }
            }
        }
        if let Some(of_reg) = self.gradients.get_mut(reg) {
            put_columns(out.rows().columns(width..2 * width), of_reg.columns(columns));
        }
        let of_gate = out.rows().columns(0..width);
        add_columns(of_gate, self.gradients.sum(from, tokens, of_from), by);
        [g, both, out].into_iter().for_each(|buffer| self.gradients.free(buffer));
    }
}
