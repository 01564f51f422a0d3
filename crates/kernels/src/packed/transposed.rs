//! The same weights for products in the other direction, from outputs to inputs.

use super::layout::Layout;
use super::{Decode, HALF, Packed, PackedMatrix, Source};
use crate::vector::PANEL;
use crate::{Cpu, scratch};
use std::ops::Range;
use std::sync::Arc;

/// Inputs widened together: those of a group of blocks.
const TOGETHER: usize = 32;

impl PackedMatrix {
    /// The transposed matrix, for gradients: g W. It reads this matrix's panels on demand and lays them out in the
    /// cache, or, for many rows, once in memory until it is dropped. No second copy lasts.
    ///
    /// # Shapes
    /// `[inputs, outputs]` of this matrix; all outputs of the gate come before those of up.
    pub fn transposed(&self, cpu: &Cpu) -> PackedMatrix {
        self.columns(cpu, self.packed(cpu), 0..self.n_panels(), 0..self.outputs())
    }

    /// [`PackedMatrix::transposed`] in parts: each range of `len` outputs, the last one shorter, and its matrix. Products
    /// with the parts, added up, keep digits that one sum over very many outputs would lose.
    ///
    /// # Shapes
    /// each: `[inputs, its outputs]`.
    ///
    /// # Panics
    /// If the matrix is gated, or `len` is not a positive multiple of 32.
    pub fn transposed_parts(
        &self,
        cpu: &Cpu,
        len: usize,
    ) -> impl Iterator<Item = (Range<usize>, PackedMatrix)> {
        assert!(!self.is_gated(), "outputs of a gated matrix do not follow each other");
        assert!(len > 0 && len.is_multiple_of(PANEL), "parts are whole panels");
        let packed = self.packed(cpu);
        (0..self.outputs()).step_by(len).map(move |first| {
            let outputs = first..self.outputs().min(first + len);
            let panels = first / PANEL..outputs.end.div_ceil(PANEL);
            (outputs.clone(), self.columns(cpu, Arc::clone(&packed), panels, outputs))
        })
    }

    fn columns(
        &self,
        cpu: &Cpu,
        packed: Arc<Packed>,
        panels: Range<usize>,
        outputs: Range<usize>,
    ) -> PackedMatrix {
        let len = outputs.len();
        let columns = Columns { cpu: cpu.clone(), layout: self.layout, packed, panels, first: outputs.start };
        PackedMatrix::later(self.dtype(), self.inputs(), len, Arc::new(columns))
    }
}

/// Columns of a packed matrix.
struct Columns {
    cpu: Cpu,
    layout: Layout,
    packed: Arc<Packed>,
    /// Those with the outputs that are read, and the first of these.
    panels: Range<usize>,
    first: usize,
}

impl Source for Columns {
    fn read(&self, input: usize, weights: &mut [f32]) {
        self.read_rows(input, weights.len(), weights);
    }

    fn read_rows(&self, first: usize, outputs: usize, weights: &mut [f32]) {
        if outputs == 0 {
            return;
        }
        let end = first + weights.len() / outputs;
        scratch::with(TOGETHER * PANEL, |room: &mut [f32]| {
            for index in self.panels.clone() {
                let (panel, halves) = (self.packed.panel(index), self.layout.halves(index));
                // A group of blocks is widened as a whole; other encodings start at an even input.
                let grain = if panel.encoding.block_len() == 1 { 2 } else { TOGETHER };
                let last = self.layout.inputs.min(end.next_multiple_of(grain));
                for start in (first / grain * grain..end).step_by(TOGETHER) {
                    let inputs = start..last.min(start + TOGETHER);
                    let room = &mut room[..inputs.len() * PANEL];
                    self.cpu.run(Decode { panel, inputs: inputs.clone(), room });
                    for input in first.max(start)..end.min(inputs.end) {
                        let from = &room[(input - start) * PANEL..][..PANEL];
                        let to = &mut weights[(input - first) * outputs..][..outputs];
                        let halves = from.chunks_exact(HALF).zip(&halves).filter(|(_, part)| part.count > 0);
                        for (from, part) in halves {
                            copy(from, &mut to[part.start - self.first..], part.count);
                        }
                    }
                }
            }
        });
    }
}

/// Copies half a panel's values of one input, or as many of them as there are outputs.
fn copy(from: &[f32], to: &mut [f32], count: usize) {
    // A length that the compiler knows: most time of a transposed product's layout went into calls for 64 bytes.
    match (from.first_chunk::<HALF>(), to.first_chunk_mut::<HALF>()) {
        (Some(from), Some(to)) if count == HALF => *to = *from,
        _ => to[..count].copy_from_slice(&from[..count]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Matrix, bits, cpus, values};
    use crate::{Dtype, RowsMut, bf16};
    use std::convert::Infallible;

    #[test]
    fn products_with_a_transposed_matrix_sum_over_its_outputs() {
        for cpu in cpus() {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                for (neurons, inputs) in [(1, 1), (17, 5), (40, 33)] {
                    let (outputs, weights) = (2 * neurons, values(7, 2 * neurons * inputs));
                    let fill = |output: usize, row: &mut [f32]| {
                        row.copy_from_slice(&weights[output * inputs..][..inputs]);
                        Ok::<(), Infallible>(())
                    };
                    let plain = PackedMatrix::pack(&cpu, dtype, outputs, inputs, fill).unwrap();
                    let gated = PackedMatrix::pack_gated(&cpu, dtype, neurons, inputs, fill).unwrap();
                    for rows in [1, 40] {
                        let x = Matrix::random(3, rows, outputs, outputs);
                        let mut of_both = [plain.transposed(&cpu), gated.transposed(&cpu)].map(|w| {
                            let mut out = vec![0.0; rows * inputs];
                            cpu.matmul(x.view(), &w, None, RowsMut::dense(&mut out, rows, inputs));
                            out
                        });
                        let stored = |w: f32| match dtype {
                            Dtype::F32 => w,
                            Dtype::Bf16 => bf16::widen(bf16::round(w)),
                        };
                        for (at, found) in of_both[0].iter().enumerate() {
                            let (row, input) = (at / inputs, at % inputs);
                            let expected: f64 = (0..outputs)
                                .map(|o| {
                                    let w = stored(weights[o * inputs + input]);
                                    f64::from(stored(x.view().row(row)[o])) * f64::from(w)
                                })
                                .sum();
                            assert!((f64::from(*found) - expected).abs() < 1e-3, "{found} {expected}");
                        }
                        let [whole, gated] = of_both.each_mut().map(|values| bits(values));
                        assert_eq!(whole, gated);
                        let mut sum = vec![0.0; rows * inputs];
                        for (outputs, part) in plain.transposed_parts(&cpu, PANEL) {
                            let out = RowsMut::dense(&mut sum, rows, inputs);
                            cpu.matmul_add(x.view().columns(outputs), &part, None, out);
                        }
                        for (sum, whole) in sum.iter().zip(&of_both[0]) {
                            // Sums of up to 80 terms of magnitude one, in two orders.
                            assert!((sum - whole).abs() < 1e-4, "{sum} {whole}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn products_in_parts_have_the_same_bits_alone_and_among_others() {
        let (outputs, inputs, rows) = (150, 33, 40);
        let weights = values(7, outputs * inputs);
        for cpu in cpus() {
            let fill = |output: usize, row: &mut [f32]| {
                row.copy_from_slice(&weights[output * inputs..][..inputs]);
                Ok::<(), Infallible>(())
            };
            let plain = PackedMatrix::pack(&cpu, Dtype::F32, outputs, inputs, fill).unwrap();
            let x = Matrix::random(3, rows, outputs, outputs);
            let product = |x: crate::Rows<'_>| {
                let mut sum = vec![0.0; x.n_rows() * inputs];
                for (outputs, part) in plain.transposed_parts(&cpu, 2 * PANEL) {
                    let out = RowsMut::dense(&mut sum, x.n_rows(), inputs);
                    cpu.matmul_add(x.columns(outputs), &part, None, out);
                }
                bits(&sum)
            };
            let all = product(x.view());
            for row in [0, 7, rows - 1] {
                assert_eq!(product(x.view().rows(row..row + 1)), all[row * inputs..][..inputs], "row {row}");
            }
        }
    }
}
