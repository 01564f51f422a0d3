//! Recurrences, token after token.

use std::ops::Range;

use easyroutine_kernels::Activation;

use super::Exact;
use super::formulas::{activation, sigmoid, softplus};
use super::matrix::{Matrix, dot, product};
use crate::arch;
use crate::error::Result;
use crate::model::recurrence::LENGTH_EPS;
use crate::model::weights::State;
use crate::pass::{At, Reg};

impl Exact<'_> {
    /// to = act(the causal convolution of the first columns of mixed)
    pub(super) fn convolve(&mut self, at: At, to: Reg, act: Option<Activation>) -> Result<()> {
        let convolution = &self.model.weights.recurrence(at)?.convolution;
        let (kernel, channels) = (convolution.kernel, convolution.weight.len() / convolution.kernel);
        let (x, batch) = (self.reg(Reg::Mixed), self.batch);
        let mut out = Matrix::zeros(x.n_rows(), channels);
        for span in batch.spans() {
            for token in span.clone() {
                for (channel, out) in out.row_mut(token).iter_mut().enumerate() {
                    let mut sum = convolution.bias.get(channel).map_or(0.0, |b| f64::from(*b));
                    for tap in 0..kernel {
                        // What stands before a row is zero.
                        if token + tap + 1 >= span.start + kernel {
                            let weight = f64::from(convolution.weight[tap * channels + channel]);
                            sum += weight * x.row(token + tap + 1 - kernel)[channel];
                        }
                    }
                    *out = act.map_or(sum, |act| activation(act, sum));
                }
            }
        }
        *self.reg_mut(to) = out;
        Ok(())
    }

    /// selected = each block of columns of convolved through matrices of its own.
    pub(super) fn select_blocks(&mut self, at: At, width: usize, blocks: usize) -> Result<()> {
        let model = self.model;
        let State::Unit { gates, .. } = &model.weights.recurrence(at)?.state else { return Ok(()) };
        let (x, block) = (self.reg(Reg::Convolved), width / blocks);
        let mut out = Matrix::zeros(x.n_rows(), 2 * width);
        for (number, gates) in gates.iter().enumerate() {
            let columns = number * block..(number + 1) * block;
            let both = product(&model.cpu, &x.columns(columns.clone()), gates);
            out.put_columns(columns.clone(), &both.columns(0..block));
            out.put_columns(width + columns.start..width + columns.end, &both.columns(block..2 * block));
        }
        *self.reg_mut(Reg::Selected) = out;
        Ok(())
    }

    /// reg *= act(columns of from)
    pub(super) fn gate(
        &mut self,
        (reg, columns): (Reg, Range<usize>),
        (from, by): (Reg, Range<usize>),
        act: Option<Activation>,
    ) {
        let gate = self.reg(from).columns(by);
        for (token, row) in self.reg_mut(reg).rows_mut().enumerate() {
            for (x, gate) in row[columns.clone()].iter_mut().zip(gate.row(token)) {
                *x *= act.map_or(*gate, |act| activation(act, *gate));
            }
        }
    }

    /// mixer_z = the recurrence of convolved.
    pub(super) fn carry(&mut self, at: At, described: arch::State) -> Result<()> {
        let (model, batch) = (self.model, self.batch);
        let weights = &model.weights.recurrence(at)?.state;
        let Some(arch) = at.layer().and_then(|layer| model.arch().layers[layer].recurrence) else {
            return Ok(());
        };
        let mut out = Matrix::zeros(batch.n_tokens(), arch.width());
        let [convolved, selected, mixed] = [Reg::Convolved, Reg::Selected, Reg::Mixed].map(|r| self.reg(r));
        // Behind what is convolved and the gate; steps stand last.
        let rest = |token: usize| &mixed.row(token)[arch.convolved() + arch.width()..];
        let rates = match (weights, described) {
            (State::Selective { steps, .. }, arch::State::Selective { rank, .. }) => {
                product(&model.cpu, &selected.columns(0..rank), steps)
            }
            _ => Matrix::default(),
        };
        for span in batch.spans() {
            let mut state = vec![0.0; arch.carried()[1]];
            for token in span.clone() {
                let (x, out) = (convolved.row(token), out.row_mut(token));
                match (weights, described) {
                    (
                        State::Selective { bias, decay, skip, .. },
                        arch::State::Selective { width, size, rank, .. },
                    ) => {
                        let [b, c] =
                            [rank, rank + size].map(|first| &selected.row(token)[first..first + size]);
                        for channel in 0..width {
                            let step = softplus(rates.row(token)[channel] + f64::from(bias[channel]));
                            let mut sum = f64::from(skip[channel]) * x[channel];
                            for n in 0..size {
                                let (h, a) = (&mut state[n * width + channel], decay[n * width + channel]);
                                *h = (step * f64::from(a)).exp() * *h + step * x[channel] * b[n];
                                sum += *h * c[n];
                            }
                            out[channel] = sum;
                        }
                    }
                    (
                        State::Heads { bias, decay, skip },
                        arch::State::Space { heads, d_head, groups, size, steps: [least, most] },
                    ) => {
                        let (width, shared) = (heads * d_head, groups * size);
                        for column in 0..width {
                            let head = column / d_head;
                            let step = softplus(rest(token)[head] + f64::from(bias[head]));
                            let step = step.clamp(f64::from(least), f64::from(most));
                            let group = width + head / (heads / groups) * size;
                            let [b, c] = [group, group + shared].map(|first| &x[first..first + size]);
                            let kept = (step * f64::from(decay[head])).exp();
                            let mut sum = f64::from(skip[head]) * x[column];
                            for (n, s) in state[column * size..(column + 1) * size].iter_mut().enumerate() {
                                *s = kept * *s + step * x[column] * b[n];
                                sum += *s * c[n];
                            }
                            out[column] = sum;
                        }
                    }
                    (
                        State::Heads { bias, decay, .. },
                        arch::State::Delta { key_heads, value_heads, d_key, d_value },
                    ) => {
                        let keys = key_heads * d_key;
                        for head in 0..value_heads {
                            let first = head / (value_heads / key_heads) * d_key;
                            let query = to_length_one(&x[first..first + d_key]);
                            let key = to_length_one(&x[keys + first..keys + first + d_key]);
                            let value = &x[2 * keys + head * d_value..2 * keys + (head + 1) * d_value];
                            let strength = sigmoid(rest(token)[head]);
                            let step = softplus(rest(token)[value_heads + head] + f64::from(bias[head]));
                            let state = &mut state[head * d_key * d_value..(head + 1) * d_key * d_value];
                            let kept = (step * f64::from(decay[head])).exp();
                            state.iter_mut().for_each(|s| *s *= kept);
                            for (j, value) in value.iter().enumerate() {
                                let at = |i: usize| i * d_value + j;
                                let found: f64 = (0..d_key).map(|i| key[i] * state[at(i)]).sum();
                                (0..d_key).for_each(|i| state[at(i)] += key[i] * strength * (value - found));
                                let sum: f64 = (0..d_key).map(|i| query[i] * state[at(i)]).sum();
                                out[head * d_value + j] = sum / (d_key as f64).sqrt();
                            }
                        }
                    }
                    (State::Unit { decay, .. }, arch::State::Unit { width, .. }) => {
                        let (input, forget) = selected.row(token).split_at(width);
                        for channel in 0..width {
                            let exponent = sigmoid(forget[channel]) * f64::from(decay[channel]);
                            let input = sigmoid(input[channel]) * x[channel];
                            let h = &mut state[channel];
                            *h = match token == span.start {
                                true => input,
                                // 1 - e^(2 x), without loss where the decay is near 1.
                                false => exponent.exp() * *h + (-(2.0 * exponent).exp_m1()).sqrt() * input,
                            };
                            out[channel] = *h;
                        }
                    }
                    _ => {}
                }
            }
        }
        *self.reg_mut(Reg::MixerZ) = out;
        Ok(())
    }
}

/// x / √(sum of squares + eps)
fn to_length_one(x: &[f64]) -> Vec<f64> {
    let length = (dot(x, x) + f64::from(LENGTH_EPS)).sqrt();
    x.iter().map(|x| x / length).collect()
}
