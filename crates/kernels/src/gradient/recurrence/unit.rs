//! The gradients of the real-gated linear recurrent unit.

use std::ops::Range;

use super::{Part, Token, collect, walk_back};
use crate::vector::Vector;
use crate::{Cpu, RgLru, Rows, RowsMut, give_back, large_values};

/// Channels of a part.
const CHANNELS: usize = 64;

/// The least root whose slope is taken as it is: beyond it transformers holds the slope at 1000
/// (modeling_recurrent_gemma.py, `SqrtBoundDerivative`).
const LEAST_TWICE_ROOT: f64 = 1e-3;

impl Cpu {
    /// Adds the gradients of what [`Cpu::rg_lru`] reads, from that of its output `g`, for sequences that begin rows. The
    /// slope of the root of 1 - a² is at most 1000, as in transformers.
    ///
    /// # Shapes
    /// As of [`Cpu::rg_lru`]; out: of x, of i, of r.
    ///
    /// # Panics
    /// If the shapes do not fit, or sequences overlap or do not ascend.
    pub fn rg_lru_back(
        &self,
        unit: RgLru<'_>,
        [x, i, r]: [Rows<'_>; 3],
        sequences: &[Range<usize>],
        g: Rows<'_>,
        [mut of_x, mut of_i, mut of_r]: [RowsMut<'_>; 3],
    ) {
        let (channels, rows) = (x.n_columns(), x.n_rows());
        let (tasks, width) = (channels.div_ceil(CHANNELS), 3 * CHANNELS);
        let mut all = large_values(rows * tasks * width);
        all.fill(0.0);
        let part = |number: usize| {
            let channels = number * CHANNELS..channels.min((number + 1) * CHANNELS);
            Channels { unit, channels, x, i, r, g }
        };
        let out = RowsMut::dense(&mut all, rows, tasks * width);
        walk_back(self, sequences, (tasks, width), |task| task..task + 1, part, out);
        let all_rows = Rows::dense(&all, rows, tasks * width);
        for task in 0..tasks {
            let (first, column) = (task * width, task * CHANNELS);
            let own = channels.min(column + CHANNELS) - column;
            collect(all_rows, first, of_x.reborrow(), column, own);
            collect(all_rows, first + CHANNELS, of_i.reborrow(), column, own);
            collect(all_rows, first + 2 * CHANNELS, of_r.reborrow(), column, own);
        }
        give_back(all);
    }
}

struct Channels<'a> {
    unit: RgLru<'a>,
    channels: Range<usize>,
    x: Rows<'a>,
    i: Rows<'a>,
    r: Rows<'a>,
    g: Rows<'a>,
}

fn sigmoid(x: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(x)).exp())
}

impl Part for Channels<'_> {
    fn size(&self) -> usize {
        self.channels.len()
    }

    #[inline(always)]
    fn forward<V: Vector>(&mut self, _: V, row: usize, begins: bool, state: &mut [f32]) {
        for (state, channel) in state.iter_mut().zip(self.channels.clone()) {
            let input = sigmoid(self.i.row(row)[channel]) * f64::from(self.x.row(row)[channel]);
            let exponent = sigmoid(self.r.row(row)[channel]) * f64::from(self.unit.decay[channel]);
            *state = match begins {
                true => input,
                false => exponent.exp() * f64::from(*state) + (-(2.0 * exponent).exp_m1()).sqrt() * input,
            } as f32;
        }
    }

    #[inline(always)]
    fn back<V: Vector>(&mut self, _: V, token: Token<'_>, g: &mut [f32], out: &mut [f32]) {
        let Token { row, begins, before, .. } = token;
        for (at, channel) in self.channels.clone().enumerate() {
            let x = f64::from(self.x.row(row)[channel]);
            let (open, forgets) = (sigmoid(self.i.row(row)[channel]), sigmoid(self.r.row(row)[channel]));
            let own = f64::from(g[at]) + f64::from(self.g.row(row)[channel]);
            let of_input = match begins {
                true => {
                    g[at] = 0.0;
                    own
                }
                false => {
                    let decay = f64::from(self.unit.decay[channel]);
                    let (kept, left) = ((forgets * decay).exp(), -(2.0 * forgets * decay).exp_m1());
                    let of_root = own * open * x / (2.0 * left.sqrt()).max(LEAST_TWICE_ROOT);
                    let of_exponent = own * f64::from(before[at]) * kept - 2.0 * of_root * kept * kept;
                    out[2 * CHANNELS + at] += (of_exponent * decay * forgets * (1.0 - forgets)) as f32;
                    g[at] = (own * kept) as f32;
                    own * left.sqrt()
                }
            };
            out[at] += (of_input * open) as f32;
            out[CHANNELS + at] += (of_input * x * open * (1.0 - open)) as f32;
        }
    }
}
