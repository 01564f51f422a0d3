//! The gradients of Mamba 2's state space.

use std::ops::Range;

use super::{Part, Token, collect, dot, exponential, walk_back};
use crate::vector::Vector;
use crate::{Cpu, Rows, RowsMut, StateSpace, give_back, large_values};

/// In so many tasks the heads of a group are shared out at most. Each keeps sums for b and c of its own.
const TASKS: usize = 8;

impl Cpu {
    /// Adds the gradients of what [`Cpu::state_space`] reads, from that of its output `g`, for sequences that begin without
    /// a state. With S' = e^(step · A) S + b (step · x)ᵀ and Γ the gradient of S': of c it is S' g, of b step · Γ x, of x
    /// D g + step · Γᵀ b, of the step bᵀ Γ x + A e^(step · A) Σ Γ S.
    ///
    /// # Shapes
    /// As of [`Cpu::state_space`]; out: of x, of steps, of b, of c.
    ///
    /// # Panics
    /// If the shapes do not fit, or sequences overlap or do not ascend.
    #[expect(clippy::too_many_arguments, reason = "each is part of the formula")]
    pub fn state_space_back(
        &self,
        space: StateSpace<'_>,
        x: Rows<'_>,
        steps: Rows<'_>,
        [b, c]: [Rows<'_>; 2],
        sequences: &[Range<usize>],
        g: Rows<'_>,
        [mut of_x, mut of_steps, mut of_b, mut of_c]: [RowsMut<'_>; 4],
    ) {
        let StateSpace { d_head, heads_per_group, d_state, decay, .. } = space;
        let (rows, groups) = (x.n_rows(), decay.len() / heads_per_group);
        let each = heads_per_group.div_ceil(TASKS);
        let of_group = heads_per_group.div_ceil(each);
        let (tasks, own) = (groups * of_group, each * (d_head + 1));
        let width = own + 2 * d_state;
        let heads = |task: usize| {
            let (group, within) = (task / of_group * heads_per_group, task % of_group * each);
            group + within..group + heads_per_group.min(within + each)
        };
        let mut all = large_values(rows * tasks * width);
        all.fill(0.0);
        let part = |head: usize| Head {
            space,
            head,
            place: head % heads_per_group % each * (d_head + 1),
            shared: own,
            x,
            steps,
            b,
            c,
            g,
        };
        let out = RowsMut::dense(&mut all, rows, tasks * width);
        walk_back(self, sequences, (tasks, width), heads, part, out);
        let all_rows = Rows::dense(&all, rows, tasks * width);
        for task in 0..tasks {
            for (place, head) in heads(task).enumerate() {
                let first = task * width + place * (d_head + 1);
                collect(all_rows, first, of_x.reborrow(), head * d_head, d_head);
                collect(all_rows, first + d_head, of_steps.reborrow(), head, 1);
            }
            let (first, column) = (task * width + own, task / of_group * d_state);
            collect(all_rows, first, of_b.reborrow(), column, d_state);
            collect(all_rows, first + d_state, of_c.reborrow(), column, d_state);
        }
        give_back(all);
    }
}

struct Head<'a> {
    space: StateSpace<'a>,
    head: usize,
    /// Where its own gradients stand among those of its task.
    place: usize,
    /// Where those stand that heads share.
    shared: usize,
    x: Rows<'a>,
    steps: Rows<'a>,
    b: Rows<'a>,
    c: Rows<'a>,
    g: Rows<'a>,
}

impl Head<'_> {
    #[inline(always)]
    fn columns(&self) -> Range<usize> {
        self.head * self.space.d_head..(self.head + 1) * self.space.d_head
    }

    #[inline(always)]
    fn of_group(&self) -> Range<usize> {
        let group = self.head / self.space.heads_per_group * self.space.d_state;
        group..group + self.space.d_state
    }
}

impl Part for Head<'_> {
    fn size(&self) -> usize {
        self.space.d_state * self.space.d_head
    }

    #[inline(always)]
    fn forward<V: Vector>(&mut self, v: V, row: usize, _: bool, state: &mut [f32]) {
        let (x, step) = (&self.x.row(row)[self.columns()], self.steps.row(row)[self.head]);
        let factor = exponential(v, step * self.space.decay[self.head]);
        let b = &self.b.row(row)[self.of_group()];
        for (state, b) in state.chunks_exact_mut(x.len()).zip(b) {
            for (state, x) in state.iter_mut().zip(x) {
                *state = factor * *state + step * x * b;
            }
        }
    }

    #[inline(always)]
    fn back<V: Vector>(&mut self, v: V, token: Token<'_>, g: &mut [f32], out: &mut [f32]) {
        let Token { row, before, after, .. } = token;
        let (x, of_out) = (&self.x.row(row)[self.columns()], &self.g.row(row)[self.columns()]);
        let (step, a) = (self.steps.row(row)[self.head], self.space.decay[self.head]);
        let factor = exponential(v, step * a);
        let [b, c] = [self.b, self.c].map(|rows| &rows.row(row)[self.of_group()]);
        let (own, shared) = out.split_at_mut(self.shared);
        let (of_b, of_c) = shared.split_at_mut(b.len());
        let (of_x, of_step) = own[self.place..self.place + x.len() + 1].split_at_mut(x.len());
        let skip = self.space.skip[self.head];
        for (of_x, g) in of_x.iter_mut().zip(of_out) {
            *of_x += skip * g;
        }
        let (mut of_factor, mut of_input) = (0.0, 0.0);
        for (n, g) in g.chunks_exact_mut(x.len()).enumerate() {
            let states = n * x.len()..(n + 1) * x.len();
            of_c[n] += dot(&after[states.clone()], of_out);
            let by = step * b[n];
            for ((g, of_out), of_x) in g.iter_mut().zip(of_out).zip(of_x.iter_mut()) {
                *g += of_out * c[n];
                *of_x += by * *g;
            }
            let along = dot(g, x);
            of_b[n] += step * along;
            of_input += b[n] * along;
            of_factor += dot(g, &before[states]);
            for g in g.iter_mut() {
                *g *= factor;
            }
        }
        of_step[0] += of_input + a * factor * of_factor;
    }
}
