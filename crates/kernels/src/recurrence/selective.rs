//! The selective scan of Mamba (arXiv 2312.00752): a few state numbers per channel.

use std::ops::Range;

use super::{assert_apart, blocks};
use crate::math;
use crate::shared::SharedRows;
use crate::vector::{Vector, Work};
use crate::{Cpu, Rows, RowsMut};

/// The weights of a selective scan.
#[derive(Debug, Clone, Copy)]
pub struct SelectiveScan<'a> {
    /// A, the logarithm of a state's decay per unit step: `[states, channels]`.
    pub decay: &'a [f32],
    /// D, the share of x added to the output: `[channels]`.
    pub skip: &'a [f32],
}

impl Cpu {
    /// For each channel: h = e^(step · A) h + step · x b, out = h · c + D x. Each of `sequences` is a range of
    /// consecutive rows, with a state that is carried along.
    ///
    /// # Shapes
    /// x, steps, out: `[rows, channels]`; b, c: `[rows, states]`; states: `[sequences, states * channels]`.
    ///
    /// # Panics
    /// If the shapes do not fit, or sequences overlap or do not ascend.
    #[expect(clippy::too_many_arguments, reason = "each is part of the formula")]
    pub fn selective_scan(
        &self,
        scan: SelectiveScan<'_>,
        x: Rows<'_>,
        steps: Rows<'_>,
        [b, c]: [Rows<'_>; 2],
        sequences: &[Range<usize>],
        states: RowsMut<'_>,
        out: RowsMut<'_>,
    ) {
        let (channels, size) = (x.n_columns(), b.n_columns());
        assert_eq!((scan.decay.len(), scan.skip.len()), (size * channels, channels), "weights of a scan");
        assert_eq!(
            (states.n_rows(), states.n_columns()),
            (sequences.len(), size * channels),
            "states of a scan"
        );
        assert_apart(sequences);
        let (states, out) = (SharedRows::new(states), SharedRows::new(out));
        let (count, block) = blocks(channels);
        self.for_each(sequences.len() * count, |task| {
            let (number, channels) = (task / count, block(task % count));
            // SAFETY: each task has its own channels, in all states of its own sequence.
            let mut state: Vec<&mut [f32]> = (0..size)
                .map(|n| n * x.n_columns()..)
                .map(|from| from.start + channels.start..from.start + channels.end)
                .map(|columns| unsafe { states.part(number, columns) })
                .collect();
            for row in sequences[number].clone() {
                // SAFETY: as above; sequences do not overlap.
                let out = unsafe { out.part(row, channels.clone()) };
                self.run(Token {
                    scan,
                    channels: channels.clone(),
                    x: &x.row(row)[channels.clone()],
                    step: &steps.row(row)[channels.clone()],
                    b: b.row(row),
                    c: c.row(row),
                    state: &mut state,
                    out,
                });
            }
        });
    }
}

/// One token of a range of channels.
struct Token<'a, 's> {
    scan: SelectiveScan<'a>,
    channels: Range<usize>,
    x: &'a [f32],
    step: &'a [f32],
    b: &'a [f32],
    c: &'a [f32],
    state: &'a mut [&'s mut [f32]],
    out: &'a mut [f32],
}

impl Work for Token<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let width = self.scan.skip.len();
        for at in (0..self.x.len()).step_by(V::LANES) {
            let here = at..self.x.len().min(at + V::LANES);
            let there = self.channels.start + here.start..self.channels.start + here.end;
            let (x, step) = (v.load_or(&self.x[here.clone()], 0.0), v.load_or(&self.step[here.clone()], 0.0));
            let input = v.mul(step, x);
            let mut sum = v.mul(v.load_or(&self.scan.skip[there.clone()], 0.0), x);
            for (n, state) in self.state.iter_mut().enumerate() {
                let state = &mut state[here.clone()];
                let decay = v.load_or(&self.scan.decay[n * width..][there.clone()], 0.0);
                let kept = v.mul(math::exp(v, v.mul(step, decay)), v.load_or(state, 0.0));
                let new = v.mul_add(input, v.splat(self.b[n]), kept);
                v.store_some(new, state);
                sum = v.mul_add(new, v.splat(self.c[n]), sum);
            }
            v.store_some(sum, &mut self.out[here]);
        }
    }
}
