//! Short causal convolutions, channel by channel.

use std::ops::Range;

use crate::activation::Apply;
use crate::shared::SharedRows;
use crate::vector::{Vector, Work};
use crate::{Activation, Cpu, Rows, RowsMut};

/// A causal convolution over the last tokens, channel by channel.
#[derive(Debug, Clone)]
pub struct Convolution {
    /// Tokens read: a token itself and those before it.
    pub kernel: usize,
    /// `[kernel, channels]`, the oldest token first.
    pub weight: Vec<f32>,
    /// `[channels]`, or empty for none.
    pub bias: Vec<f32>,
    /// The activation of the sums.
    pub act: Option<Activation>,
}

impl Cpu {
    /// out = act(bias + the weighted sum of a token's and the last tokens' x). Each of `sequences` is a range of
    /// consecutive rows of x; `before` holds the rows that precede each.
    ///
    /// # Shapes
    /// x, out: `[rows, channels]`; before: `[sequences, (kernel - 1) * channels]`, the oldest token first.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn convolve(
        &self,
        convolution: &Convolution,
        x: Rows<'_>,
        sequences: &[Range<usize>],
        before: Rows<'_>,
        out: RowsMut<'_>,
    ) {
        let Convolution { kernel, weight, bias, act } = convolution;
        let channels = x.n_columns();
        assert_eq!(weight.len(), kernel * channels, "weights of a convolution");
        assert_eq!((before.n_rows(), before.n_columns()), (sequences.len(), (kernel - 1) * channels));
        let out = SharedRows::new(out);
        for (number, sequence) in sequences.iter().enumerate() {
            self.for_rows(sequence.len(), *kernel * channels, |rows| {
                for row in rows {
                    // SAFETY: `for_rows` gives each row to one task, once, and sequences do not overlap.
                    let out = unsafe { out.part(sequence.start + row, 0..channels) };
                    match bias.is_empty() {
                        true => out.fill(0.0),
                        false => out.copy_from_slice(bias),
                    }
                    for (tap, weight) in weight.chunks_exact(channels).enumerate() {
                        let x = match (row + tap + 1).checked_sub(*kernel) {
                            Some(row) => x.row(sequence.start + row),
                            None => &before.row(number)[(row + tap) * channels..][..channels],
                        };
                        self.run(Accumulate { weight, x, out });
                    }
                    if let Some(activation) = *act {
                        self.run(Apply { activation, values: out });
                    }
                }
            });
        }
    }
}

struct Accumulate<'a> {
    weight: &'a [f32],
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Work for Accumulate<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, _v: V) {
        for ((out, weight), x) in self.out.iter_mut().zip(self.weight).zip(self.x) {
            *out += weight * x;
        }
    }
}
