//! The state space of Mamba 2 (arXiv 2405.21060): heads whose states decay as a whole.

use std::ops::Range;

use super::{Columns, each_columns, each_token, load, store};
use crate::math;
use crate::vector::{Vector, Work};
use crate::{Cpu, Rows, RowsMut};

/// Sizes and weights of a state space.
#[derive(Debug, Clone, Copy)]
pub struct StateSpace<'a> {
    /// Width of a head.
    pub d_head: usize,
    /// Heads that share b and c.
    pub heads_per_group: usize,
    /// Rows of a head's state.
    pub d_state: usize,
    /// A, the logarithm of a head's decay per unit step: `[heads]`.
    pub decay: &'a [f32],
    /// D, the share of x added to the output: `[heads]`.
    pub skip: &'a [f32],
}

impl Cpu {
    /// For each head: S = e^(step · A) S + b (step · x)ᵀ, out = cᵀ S + D x. Each of `sequences` is a range of
    /// consecutive rows, with a state that is carried along.
    ///
    /// # Shapes
    /// x, out: `[rows, heads * d_head]`; steps: `[rows, heads]`; b, c: `[rows, groups * d_state]`; states: `[sequences,
    /// heads * d_state * d_head]`.
    ///
    /// # Panics
    /// If the shapes do not fit, or sequences overlap or do not ascend.
    #[expect(clippy::too_many_arguments, reason = "each is part of the formula")]
    pub fn state_space(
        &self,
        space: StateSpace<'_>,
        x: Rows<'_>,
        steps: Rows<'_>,
        [b, c]: [Rows<'_>; 2],
        sequences: &[Range<usize>],
        states: RowsMut<'_>,
        out: RowsMut<'_>,
    ) {
        let (heads, size) = (space.decay.len(), space.d_state * space.d_head);
        assert_eq!(
            (space.skip.len(), x.n_columns()),
            (heads, heads * space.d_head),
            "heads of a state space"
        );
        assert_eq!(
            (states.n_rows(), states.n_columns()),
            (sequences.len(), heads * size),
            "states of its heads"
        );
        each_token(self, sequences, (states, out), [size, space.d_head], |[_, head], row, state, out| {
            let group = head / space.heads_per_group * space.d_state;
            let group = group..group + space.d_state;
            self.run(Token {
                decay: space.decay[head],
                skip: space.skip[head],
                step: steps.row(row)[head],
                x: &x.row(row)[head * space.d_head..(head + 1) * space.d_head],
                b: &b.row(row)[group.clone()],
                c: &c.row(row)[group],
                state,
                out,
            });
        });
    }
}

/// One token of one head.
struct Token<'a> {
    decay: f32,
    skip: f32,
    step: f32,
    x: &'a [f32],
    b: &'a [f32],
    c: &'a [f32],
    /// `[d_state, d_head]`
    state: &'a mut [f32],
    out: &'a mut [f32],
}

impl Work for Token<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        // From here on the factor itself, not its logarithm.
        self.decay = v.lanes(math::exp(v, v.splat(self.step * self.decay)))[0];
        each_columns(v, self.x.len(), &mut self);
    }
}

impl Columns for Token<'_> {
    #[inline(always)]
    fn run<V: Vector, const N: usize>(&mut self, v: V, at: usize) {
        let (decay, skip, step) = (v.splat(self.decay), v.splat(self.skip), v.splat(self.step));
        let x = load::<V, N>(v, self.x, at);
        let (mut input, mut sum) = (x, x);
        for i in 0..N {
            (input[i], sum[i]) = (v.mul(step, x[i]), v.mul(skip, x[i]));
        }
        for ((row, b), c) in self.state.chunks_exact_mut(self.x.len()).zip(self.b).zip(self.c) {
            let (b, c) = (v.splat(*b), v.splat(*c));
            let mut kept = load::<V, N>(v, row, at);
            for i in 0..N {
                kept[i] = v.mul_add(input[i], b, v.mul(decay, kept[i]));
                sum[i] = v.mul_add(kept[i], c, sum[i]);
            }
            store::<V, N>(v, kept, row, at);
        }
        store::<V, N>(v, sum, self.out, at);
    }
}
