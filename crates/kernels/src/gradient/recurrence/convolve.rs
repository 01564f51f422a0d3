//! The gradient of what a short convolution reads.

use std::ops::Range;

use crate::{Convolution, Cpu, Rows, RowsMut};

impl Cpu {
    /// Adds to `out` the gradient of x from that of the sums of [`Cpu::convolve`], before their activation.
    ///
    /// # Shapes
    /// g, out: `[rows, channels]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn convolve_back(
        &self,
        convolution: &Convolution,
        sequences: &[Range<usize>],
        g: Rows<'_>,
        out: RowsMut<'_>,
    ) {
        let (kernel, channels) = (convolution.kernel, g.n_columns());
        assert_eq!(convolution.weight.len(), kernel * channels, "weights of a convolution");
        assert_eq!((g.n_rows(), channels), (out.n_rows(), out.n_columns()), "both sides of a convolution");
        // Where the sequence of each row ends.
        let mut ends = vec![0; g.n_rows()];
        sequences.iter().for_each(|rows| ends[rows.clone()].fill(rows.end));
        self.for_each_row(out, |row, out| {
            for (tap, weight) in convolution.weight.chunks_exact(channels).enumerate().rev() {
                let later = row + kernel - 1 - tap;
                if later < ends[row] {
                    let cells = out.iter_mut().zip(weight).zip(g.row(later));
                    cells.for_each(|((out, weight), g)| *out += weight * g);
                }
            }
        });
    }
}
