//! Some outputs of a product.

use crate::vector::{Vector, Work};
use crate::{Cpu, Rows};

/// Sums that go on side by side, so that none waits for the one before.
const TOGETHER: usize = 8;

impl Cpu {
    /// Some outputs of x Wᵀ, each with the bits that [`Cpu::matmul`] gives it with f32 weights.
    ///
    /// # Shapes
    /// x: `[inputs]`; w: `[outputs, inputs]`; chosen and out: as many as are chosen.
    ///
    /// # Panics
    /// If the shapes do not fit, or there is no such output.
    pub fn chosen_outputs(&self, x: &[f32], w: Rows<'_>, chosen: &[u32], out: &mut [f32]) {
        assert_eq!(x.len(), w.n_columns(), "inputs of a product");
        assert_eq!(chosen.len(), out.len(), "chosen outputs of a product");
        self.run(Chosen { x, w, chosen, out });
    }
}

struct Chosen<'a> {
    x: &'a [f32],
    w: Rows<'a>,
    chosen: &'a [u32],
    out: &'a mut [f32],
}

impl Work for Chosen<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Chosen { x, w, chosen, out } = self;
        let (blocks, rest) = x.as_chunks::<TOGETHER>();
        for (chosen, out) in chosen.chunks(TOGETHER).zip(out.chunks_mut(TOGETHER)) {
            // A last group with fewer computes one of its sums again.
            let rows: [&[f32]; TOGETHER] =
                std::array::from_fn(|i| w.row(chosen[i.min(chosen.len() - 1)] as usize));
            let of_blocks = rows.map(|row| row.as_chunks::<TOGETHER>().0);
            let mut sums = [0.0; TOGETHER];
            for (number, x) in blocks.iter().enumerate() {
                for (sum, row) in sums.iter_mut().zip(&of_blocks) {
                    let row = &row[number];
                    for (x, w) in x.iter().zip(row) {
                        *sum = v.mul_add_one(*x, *w, *sum);
                    }
                }
            }
            for (sum, row) in sums.iter_mut().zip(&rows) {
                for (x, w) in rest.iter().zip(&row[x.len() - rest.len()..]) {
                    *sum = v.mul_add_one(*x, *w, *sum);
                }
            }
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Matrix, single_cpus};
    use crate::{Dtype, PackedMatrix};

    #[test]
    fn chosen_outputs_have_the_bits_of_the_whole_product() {
        for inputs in [1, 7, 8, 9, 100, 777, 2304] {
            let (x, w) = (Matrix::random(1, 3, inputs, inputs), Matrix::random(2, 70, inputs, inputs + 3));
            for cpu in single_cpus() {
                let fill = |output: usize, row: &mut [f32]| {
                    row.copy_from_slice(w.view().row(output));
                    Ok::<_, std::convert::Infallible>(())
                };
                let Ok(packed) = PackedMatrix::pack(&cpu, Dtype::F32, 70, inputs, fill);
                let mut all = Matrix::untouched(3, 70, 70);
                cpu.matmul(x.view(), &packed, None, all.view_mut());
                for chosen in
                    [&[][..], &[69], &[3, 5, 5, 0, 68, 1, 2, 4], &[9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 40]]
                {
                    for row in 0..3 {
                        let mut found = vec![0.0; chosen.len()];
                        cpu.chosen_outputs(x.view().row(row), w.view(), chosen, &mut found);
                        let expected = chosen.iter().map(|output| all.view().row(row)[*output as usize]);
                        let bits = |values: &mut dyn Iterator<Item = f32>| {
                            values.map(f32::to_bits).collect::<Vec<_>>()
                        };
                        assert_eq!(bits(&mut found.into_iter()), bits(&mut expected.into_iter()), "{inputs}");
                    }
                }
            }
        }
    }
}
