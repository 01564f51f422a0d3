//! The gradients of Mamba's selective scan.

use std::ops::Range;

use super::{Part, Token, collect, exponentials, walk_back};
use crate::vector::Vector;
use crate::{Cpu, Rows, RowsMut, SelectiveScan, give_back, large_values};

/// Channels of a part.
const CHANNELS: usize = 64;

impl Cpu {
    /// Adds the gradients of what [`Cpu::selective_scan`] reads, from that of its output `g`, for sequences that begin
    /// without a state. With h' = e^(step · A) h + step · x b and γ the gradient of h': of c it is Σ g h', of b
    /// Σ γ step · x, of x D g + Σ γ step · b, of the step Σ γ (A e^(step · A) h + x b).
    ///
    /// # Shapes
    /// As of [`Cpu::selective_scan`]; out: of x, of steps, of b, of c.
    ///
    /// # Panics
    /// If the shapes do not fit, or sequences overlap or do not ascend.
    #[expect(clippy::too_many_arguments, reason = "each is part of the formula")]
    pub fn selective_scan_back(
        &self,
        scan: SelectiveScan<'_>,
        x: Rows<'_>,
        steps: Rows<'_>,
        [b, c]: [Rows<'_>; 2],
        sequences: &[Range<usize>],
        g: Rows<'_>,
        [mut of_x, mut of_steps, mut of_b, mut of_c]: [RowsMut<'_>; 4],
    ) {
        let (channels, size, rows) = (x.n_columns(), b.n_columns(), x.n_rows());
        let tasks = channels.div_ceil(CHANNELS);
        let width = 2 * CHANNELS + 2 * size;
        let mut all = large_values(rows * tasks * width);
        all.fill(0.0);
        let part = |number: usize| {
            let channels = number * CHANNELS..channels.min((number + 1) * CHANNELS);
            let factors = vec![0.0; size * channels.len()];
            Channels { scan, channels, x, steps, b, c, g, factors }
        };
        let out = RowsMut::dense(&mut all, rows, tasks * width);
        walk_back(self, sequences, (tasks, width), |task| task..task + 1, part, out);
        let all_rows = Rows::dense(&all, rows, tasks * width);
        for task in 0..tasks {
            let (first, column) = (task * width, task * CHANNELS);
            let own = channels.min(column + CHANNELS) - column;
            collect(all_rows, first, of_x.reborrow(), column, own);
            collect(all_rows, first + CHANNELS, of_steps.reborrow(), column, own);
            collect(all_rows, first + 2 * CHANNELS, of_b.reborrow(), 0, size);
            collect(all_rows, first + 2 * CHANNELS + size, of_c.reborrow(), 0, size);
        }
        give_back(all);
    }
}

struct Channels<'a> {
    scan: SelectiveScan<'a>,
    channels: Range<usize>,
    x: Rows<'a>,
    steps: Rows<'a>,
    b: Rows<'a>,
    c: Rows<'a>,
    g: Rows<'a>,
    /// e^(step · A) at one token: states by channels.
    factors: Vec<f32>,
}

impl Channels<'_> {
    /// A of one of the states.
    #[inline(always)]
    fn decay(&self, n: usize) -> &[f32] {
        let first = n * self.scan.skip.len();
        &self.scan.decay[first + self.channels.start..first + self.channels.end]
    }

    #[inline(always)]
    fn find_factors<V: Vector>(&mut self, v: V, row: usize) {
        let mut factors = std::mem::take(&mut self.factors);
        let steps = &self.steps.row(row)[self.channels.clone()];
        for (n, factors) in factors.chunks_exact_mut(steps.len()).enumerate() {
            for ((factor, step), a) in factors.iter_mut().zip(steps).zip(self.decay(n)) {
                *factor = step * a;
            }
        }
        exponentials(v, &mut factors);
        self.factors = factors;
    }
}

impl Part for Channels<'_> {
    fn size(&self) -> usize {
        self.factors.len()
    }

    #[inline(always)]
    fn forward<V: Vector>(&mut self, v: V, row: usize, _: bool, state: &mut [f32]) {
        self.find_factors(v, row);
        let [x, steps] = [self.x, self.steps].map(|rows| &rows.row(row)[self.channels.clone()]);
        let count = x.len();
        for (n, state) in state.chunks_exact_mut(count).enumerate() {
            let (factors, b) = (&self.factors[n * count..(n + 1) * count], self.b.row(row)[n]);
            for i in 0..count {
                state[i] = factors[i] * state[i] + steps[i] * x[i] * b;
            }
        }
    }

    #[inline(always)]
    fn back<V: Vector>(&mut self, v: V, token: Token<'_>, g: &mut [f32], out: &mut [f32]) {
        let Token { row, before, after, .. } = token;
        self.find_factors(v, row);
        let [x, steps, of_out] =
            [self.x, self.steps, self.g].map(|rows| &rows.row(row)[self.channels.clone()]);
        let skip = &self.scan.skip[self.channels.clone()];
        let count = x.len();
        let (of_x, out) = out.split_at_mut(CHANNELS);
        let (of_steps, out) = out.split_at_mut(CHANNELS);
        let (of_b, of_c) = out.split_at_mut(self.b.n_columns());
        for i in 0..count {
            of_x[i] += skip[i] * of_out[i];
        }
        for n in 0..of_b.len() {
            let states = n * count..(n + 1) * count;
            let (g, before, after) =
                (&mut g[states.clone()], &before[states.clone()], &after[states.clone()]);
            let (factors, decay) = (&self.factors[states], self.decay(n));
            let (b, c) = (self.b.row(row)[n], self.c.row(row)[n]);
            let (mut sum_b, mut sum_c) = (0.0, 0.0);
            for i in 0..count {
                sum_c += of_out[i] * after[i];
                let own = g[i] + of_out[i] * c;
                let along = own * steps[i];
                sum_b += along * x[i];
                of_x[i] += along * b;
                of_steps[i] += own * (decay[i] * factors[i] * before[i] + x[i] * b);
                g[i] = own * factors[i];
            }
            of_b[n] += sum_b;
            of_c[n] += sum_c;
        }
    }
}
