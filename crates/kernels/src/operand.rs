//! The left side of products, and outputs that become one.

use crate::aligned::{Aligned, CACHE_PERIOD, LINE};
use crate::shared::SharedRows;
use crate::{Dtype, Rows, RowsMut};

/// Activations in the type that products multiply. The step before a product (a norm, an activation or attention)
/// rounds its results as it writes them, so that no extra pass over memory is needed to round.
///
/// # Shapes
/// `[rows, columns]`.
pub struct Operand {
    dtype: Dtype,
    rows: usize,
    columns: usize,
    stride: usize,
    values: Aligned,
}

/// The left side of a product.
#[derive(Clone, Copy)]
pub enum Left<'a> {
    /// Rows of f32, rounded first for bf16 weights.
    Rows(Rows<'a>),
    /// Values already in the weights' type.
    Operand(&'a Operand),
}

/// Where results go: to rows of f32, or rounded into the operand of the next product. That product has the same bits
/// either way.
pub enum Out<'a> {
    /// Rows of f32.
    Rows(RowsMut<'a>),
    /// Values of the operand's type.
    Operand(&'a mut Operand),
}

impl Default for Operand {
    fn default() -> Self {
        Operand { dtype: Dtype::F32, rows: 0, columns: 0, stride: 0, values: Aligned::zeroed(0) }
    }
}

impl Operand {
    /// Resizes; the contents are lost.
    ///
    /// # Panics
    /// If no memory can be that large.
    pub fn resize(&mut self, dtype: Dtype, rows: usize, columns: usize) {
        let stride = match dtype {
            Dtype::F32 => padded::<f32>(columns),
            Dtype::Bf16 => padded::<u16>(columns),
        };
        let bytes = stride.checked_mul(dtype.size()).and_then(|row| row.checked_mul(rows));
        let Some(bytes) = bytes else { panic!("{rows} rows of {columns} values overflow memory") };
        if self.values.bytes() < bytes {
            self.values = Aligned::zeroed(bytes);
        }
        (self.dtype, self.rows, self.columns, self.stride) = (dtype, rows, columns, stride);
        if let (Dtype::Bf16, false) = (dtype, columns.is_multiple_of(2)) {
            // The padding of the last pair must not be stale: zero times infinity would be NaN.
            let values = self.values.values_mut::<u16>();
            (0..rows).for_each(|row| values[row * stride + columns] = 0);
        }
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.rows
    }

    /// Number of values in a row.
    pub fn n_columns(&self) -> usize {
        self.columns
    }

    /// Type of the values.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// All values, gaps between rows included, for a `T` of the operand's type.
    pub(crate) fn values<T: crate::aligned::Plain>(&self) -> &[T] {
        &self.values.values()[..self.rows * self.stride]
    }

    fn shared<T: crate::aligned::Plain>(&mut self) -> SharedRows<'_, T> {
        SharedRows::spaced(self.values.values_mut(), self.rows, self.columns, self.stride)
    }
}

impl Left<'_> {
    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        match self {
            Left::Rows(rows) => rows.n_rows(),
            Left::Operand(operand) => operand.n_rows(),
        }
    }

    /// Number of values in a row.
    pub fn n_columns(&self) -> usize {
        match self {
            Left::Rows(rows) => rows.n_columns(),
            Left::Operand(operand) => operand.n_columns(),
        }
    }
}

/// Results as tasks write them, in either type.
pub(crate) enum SharedOut<'a> {
    F32(SharedRows<'a, f32>),
    Bf16(SharedRows<'a, u16>),
}

impl<'a> Out<'a> {
    /// The same place, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> Out<'_> {
        match self {
            Out::Rows(rows) => Out::Rows(rows.reborrow()),
            Out::Operand(operand) => Out::Operand(operand),
        }
    }

    /// Rows and columns.
    pub(crate) fn shape(&self) -> (usize, usize) {
        match self {
            Out::Rows(rows) => (rows.n_rows(), rows.n_columns()),
            Out::Operand(operand) => (operand.n_rows(), operand.n_columns()),
        }
    }

    pub(crate) fn share(self) -> SharedOut<'a> {
        match self {
            Out::Rows(rows) => SharedOut::F32(SharedRows::new(rows)),
            Out::Operand(operand) => match operand.dtype {
                Dtype::F32 => SharedOut::F32(operand.shared()),
                Dtype::Bf16 => SharedOut::Bf16(operand.shared()),
            },
        }
    }
}

impl<'a> From<Rows<'a>> for Left<'a> {
    fn from(rows: Rows<'a>) -> Self {
        Left::Rows(rows)
    }
}

impl<'a> From<&'a Operand> for Left<'a> {
    fn from(operand: &'a Operand) -> Self {
        Left::Operand(operand)
    }
}

impl<'a> From<RowsMut<'a>> for Out<'a> {
    fn from(rows: RowsMut<'a>) -> Self {
        Out::Rows(rows)
    }
}

impl<'a> From<&'a mut Operand> for Out<'a> {
    fn from(operand: &'a mut Operand) -> Self {
        Out::Operand(operand)
    }
}

impl std::fmt::Debug for Operand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Operand[{} x {}, {:?}]", self.rows, self.columns, self.dtype)
    }
}

/// A stride for rows of `columns` values: whole cache lines, and not a multiple of the cache's period.
pub(crate) fn padded<T>(columns: usize) -> usize {
    let line = LINE / size_of::<T>();
    let stride = columns.next_multiple_of(line);
    let clashes = stride > 0 && (stride * size_of::<T>()).is_multiple_of(CACHE_PERIOD / 4);
    if clashes { stride + line } else { stride }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Matrix, bits, cpus};
    use crate::{Activation, Attention, Cpu, NormKind, PackedMatrix, Sequence};
    use std::convert::Infallible;

    const ROWS: usize = 15;

    fn weights(cpu: &Cpu, dtype: Dtype, outputs: usize, inputs: usize) -> PackedMatrix {
        let matrix = Matrix::random(7, outputs, inputs, inputs);
        let fill = |output: usize, row: &mut [f32]| {
            row.copy_from_slice(matrix.view().row(output));
            Ok::<(), Infallible>(())
        };
        PackedMatrix::pack(cpu, dtype, outputs, inputs, fill).unwrap()
    }

    /// Compares the next product when `step` writes to rows and when it writes to an operand that held something else.
    fn check(columns: usize, step: impl Fn(&Cpu, Dtype, Out<'_>)) {
        for cpu in cpus() {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                let w = weights(&cpu, dtype, 37, columns);
                let mut rows = Matrix::untouched(ROWS, columns, columns + 5);
                step(&cpu, dtype, rows.view_mut().into());
                let mut operand = Operand::default();
                operand.resize(dtype, ROWS + 1, columns + 9);
                operand.values.values_mut::<u16>().fill(0x7fc0);
                operand.resize(dtype, ROWS, columns);
                step(&cpu, dtype, (&mut operand).into());
                let [mut expected, mut found] = [(); 2].map(|()| Matrix::untouched(ROWS, 37, 37));
                cpu.matmul(rows.view(), &w, None, expected.view_mut());
                cpu.matmul(&operand, &w, None, found.view_mut());
                assert_eq!(bits(&found.values), bits(&expected.values), "{columns} columns, {dtype:?}");
            }
        }
    }

    #[test]
    fn a_norm_writes_what_the_next_product_would_round() {
        for columns in [1, 16, 33, 64, 255] {
            let x = Matrix::random(1, ROWS, columns, columns);
            check(columns, |cpu, _, out| cpu.norm(NormKind::Rms, x.view(), columns, None, None, 1e-5, out));
        }
    }

    #[test]
    fn an_activation_writes_what_the_next_product_would_round() {
        for columns in [1, 32, 47] {
            let x = Matrix::random(2, ROWS, 20, 20);
            check(columns, |cpu, dtype, out| {
                cpu.matmul_activated(
                    x.view(),
                    &weights(cpu, dtype, columns, 20),
                    None,
                    Activation::GeluTanh,
                    out,
                );
            });
        }
    }

    #[test]
    fn attention_writes_what_the_next_product_would_round() {
        for d_head in [4, 32, 45] {
            let [q, k, v] = [3, 4, 5].map(|seed| Matrix::random(seed, ROWS, d_head, d_head));
            let (softcap, window, alibi, sinks) = (None, None, None, None);
            let spec = Attention {
                n_heads: 1,
                n_kv_heads: 1,
                d_head,
                d_value: d_head,
                scale: 0.2,
                softcap,
                window,
                alibi,
                sinks,
            };
            let sequences = [Sequence { queries: 0..ROWS, keys: 0..ROWS }];
            check(d_head, |cpu, _, out| {
                cpu.attention(&spec, q.view(), k.view(), v.view(), &sequences, out);
            });
        }
    }

    #[test]
    #[should_panic(expected = "type of an operand")]
    fn an_operand_of_another_type_is_refused() {
        let cpu = Cpu::new(crate::Simd::Portable, 1);
        let mut operand = Operand::default();
        operand.resize(Dtype::Bf16, 1, 4);
        let mut out = [0.0; 3];
        cpu.matmul(&operand, &weights(&cpu, Dtype::F32, 3, 4), None, RowsMut::dense(&mut out, 1, 3));
    }
}
