//! The real-gated linear recurrent unit of Griffin (arXiv 2402.19427): one number for each channel.

use std::ops::Range;

use super::blocks;
use crate::math;
use crate::shared::SharedRows;
use crate::vector::{Vector, Work};
use crate::{Cpu, Rows, RowsMut};

/// The weights of a linear recurrent unit.
#[derive(Debug, Clone, Copy)]
pub struct RgLru<'a> {
    /// The logarithm of a channel's decay where its gate is fully open: `[channels]`.
    pub decay: &'a [f32],
}

impl Cpu {
    /// For each channel: a = e^(sigmoid(r) · decay), h = a h + √(1 - a²) sigmoid(i) x, out = h; at the first token of a row
    /// h = sigmoid(i) x. `sequences` are the rows that follow each other, with whether they begin a row, each with a state
    /// that is carried on.
    ///
    /// # Shapes
    /// x, i, r, out: `[rows, channels]`; states: `[sequences, channels]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn rg_lru(
        &self,
        unit: RgLru<'_>,
        [x, i, r]: [Rows<'_>; 3],
        sequences: &[(Range<usize>, bool)],
        states: RowsMut<'_>,
        out: RowsMut<'_>,
    ) {
        let channels = x.n_columns();
        assert_eq!(unit.decay.len(), channels, "a decay for each channel");
        assert_eq!(
            (states.n_rows(), states.n_columns()),
            (sequences.len(), channels),
            "states of the channels"
        );
        let (states, out) = (SharedRows::new(states), SharedRows::new(out));
        let (count, block) = blocks(channels);
        self.for_each(sequences.len() * count, |task| {
            let (number, channels) = (task / count, block(task % count));
            let (sequence, begins) = &sequences[number];
            // SAFETY: each task has channels of its own, of a sequence of its own.
            let state = unsafe { states.part(number, channels.clone()) };
            for row in sequence.clone() {
                // SAFETY: as above; sequences do not overlap.
                let out = unsafe { out.part(row, channels.clone()) };
                let [x, input, forget] = [x, i, r].map(|rows| &rows.row(row)[channels.clone()]);
                let begins = *begins && row == sequence.start;
                let decay = &unit.decay[channels.clone()];
                self.run(Token { begins, decay, x, input, forget, state: &mut *state, out });
            }
        });
    }
}

/// One token, some channels.
struct Token<'a> {
    begins: bool,
    decay: &'a [f32],
    x: &'a [f32],
    input: &'a [f32],
    forget: &'a [f32],
    state: &'a mut [f32],
    out: &'a mut [f32],
}

impl Work for Token<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for at in (0..self.x.len()).step_by(V::LANES) {
            let here = at..self.x.len().min(at + V::LANES);
            let exponent = v.mul(
                math::sigmoid(v, v.load_or(&self.forget[here.clone()], 0.0)),
                v.load_or(&self.decay[here.clone()], 0.0),
            );
            let a = v.lanes(math::exp(v, exponent));
            let square = v.lanes(math::exp(v, v.add(exponent, exponent)));
            let input = v.mul(
                v.load_or(&self.x[here.clone()], 0.0),
                math::sigmoid(v, v.load_or(&self.input[here.clone()], 0.0)),
            );
            let input = v.lanes(input);
            let (state, out) = (&mut self.state[here.clone()], &mut self.out[here]);
            for (lane, (h, out)) in state.iter_mut().zip(out).enumerate() {
                *h = match self.begins {
                    true => input[lane],
                    false => a[lane] * *h + (1.0 - square[lane]).sqrt() * input[lane],
                };
                *out = *h;
            }
        }
    }
}
