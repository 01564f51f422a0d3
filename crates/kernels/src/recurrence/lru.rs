//! The real-gated linear recurrent unit of Griffin (arXiv 2402.19427): one state number per channel.

use std::ops::Range;

use super::{CHANNELS, each_token};
use crate::math;
use crate::vector::{Vector, Work};
use crate::{Cpu, Rows, RowsMut};

/// The weights of a linear recurrent unit.
#[derive(Debug, Clone, Copy)]
pub struct RgLru<'a> {
    /// The logarithm of a channel's decay when its gate is fully open: `[channels]`.
    pub decay: &'a [f32],
}

impl Cpu {
    /// For each channel: a = e^(sigmoid(r) · decay), h = a h + √(1 - a²) sigmoid(i) x, out = h; at the first token of a
    /// row h = sigmoid(i) x. Each of `sequences` is a range of consecutive rows and whether it begins a row of the
    /// batch, with a state that is carried along.
    ///
    /// # Shapes
    /// x, i, r, out: `[rows, channels]`; states: `[sequences, channels]`.
    ///
    /// # Panics
    /// If the shapes do not fit, or sequences overlap or do not ascend.
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
        let rows: Vec<Range<usize>> = sequences.iter().map(|(rows, _)| rows.clone()).collect();
        each_token(self, &rows, (states, out), [CHANNELS; 2], |[number, block], row, state, out| {
            let channels = block * CHANNELS..block * CHANNELS + out.len();
            let (sequence, begins) = &sequences[number];
            let begins = *begins && row == sequence.start;
            let [x, input, forget] = [x, i, r].map(|rows| &rows.row(row)[channels.clone()]);
            self.run(Token { begins, decay: &unit.decay[channels], x, input, forget, state, out });
        });
    }
}

/// One token of a range of channels.
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
