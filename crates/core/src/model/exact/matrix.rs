//! Matrices of f64, and the one product.

use std::ops::Range;

use easyroutine_kernels::Cpu;

use crate::weights::Projection;

/// Tokens by columns, dense.
#[derive(Debug, Clone, Default)]
pub(super) struct Matrix {
    values: Vec<f64>,
    rows: usize,
    columns: usize,
}

impl Matrix {
    pub(super) fn zeros(rows: usize, columns: usize) -> Self {
        Matrix { values: vec![0.0; rows * columns], rows, columns }
    }

    pub(super) fn n_rows(&self) -> usize {
        self.rows
    }

    pub(super) fn n_columns(&self) -> usize {
        self.columns
    }

    pub(super) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    pub(super) fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.values[row * self.columns..(row + 1) * self.columns]
    }

    /// All rows, one after another.
    pub(super) fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f64]> {
        // A chunk has at least one value; a matrix without columns has no values to chunk.
        self.values.chunks_exact_mut(self.columns.max(1))
    }

    pub(super) fn values_mut(&mut self) -> &mut [f64] {
        &mut self.values
    }

    /// A copy of some columns.
    pub(super) fn columns(&self, columns: Range<usize>) -> Matrix {
        let mut out = Matrix::zeros(self.rows, columns.len());
        (0..self.rows).for_each(|row| out.row_mut(row).copy_from_slice(&self.row(row)[columns.clone()]));
        out
    }

    /// Writes some columns.
    pub(super) fn put_columns(&mut self, columns: Range<usize>, from: &Matrix) {
        (0..self.rows).for_each(|row| self.row_mut(row)[columns.clone()].copy_from_slice(from.row(row)));
    }

    /// self += other
    pub(super) fn add(&mut self, other: &Matrix) {
        self.values.iter_mut().zip(&other.values).for_each(|(sum, x)| *sum += x);
    }
}

/// `x W^T + b`, with the low-rank update of an adapter where there is one. Weights are read row by row and held by nobody.
///
/// # Shapes
/// `x`: tokens by inputs; result: tokens by outputs.
pub(super) fn product(cpu: &Cpu, x: &Matrix, projection: &Projection) -> Matrix {
    let matrix = &projection.matrix;
    let mut out = multiply(cpu, x, matrix.outputs(), |n, row| matrix.read_row(n, row));
    if let Some(bias) = &projection.bias {
        out.rows_mut().for_each(|row| row.iter_mut().zip(bias).for_each(|(x, b)| *x += f64::from(*b)));
    }
    if let Some(update) = projection.update() {
        let reduced = multiply(cpu, x, update.down.outputs(), |n, row| update.down.read_row(n, row));
        out.add(&multiply(cpu, &reduced, update.up.outputs(), |n, row| update.up.read_row(n, row)));
    }
    out
}

/// Each row of `x` times each row of weights. Outputs are shared out among the threads; each sum has one order.
fn multiply(cpu: &Cpu, x: &Matrix, outputs: usize, read: impl Fn(usize, &mut [f32]) + Sync) -> Matrix {
    let (tokens, inputs) = (x.n_rows(), x.n_columns());
    let parts = outputs.min(cpu.threads().max(1));
    let of_part = |part: usize| part * outputs / parts..(part + 1) * outputs / parts;
    // One task writes one column after another of its own part.
    let columns: Vec<std::sync::Mutex<Vec<f64>>> =
        (0..parts).map(|part| std::sync::Mutex::new(vec![0.0; of_part(part).len() * tokens])).collect();
    cpu.for_each(parts, |part| {
        let Ok(mut columns) = columns[part].lock() else { return };
        let (mut stored, mut weights) = (vec![0.0_f32; inputs], vec![0.0_f64; inputs]);
        for (n, column) in of_part(part).zip(columns.chunks_exact_mut(tokens.max(1))) {
            read(n, &mut stored);
            weights.iter_mut().zip(&stored).for_each(|(wide, w)| *wide = f64::from(*w));
            column.iter_mut().enumerate().for_each(|(token, sum)| *sum = dot(x.row(token), &weights));
        }
    });
    let mut out = Matrix::zeros(tokens, outputs);
    for (part, columns) in columns.into_iter().enumerate() {
        let columns = columns.into_inner().unwrap_or_default();
        for (n, column) in of_part(part).zip(columns.chunks_exact(tokens.max(1))) {
            column.iter().enumerate().for_each(|(token, x)| out.row_mut(token)[n] = *x);
        }
    }
    out
}

/// Four sums side by side, so that one addition need not wait for the last.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 4];
    let (a, b) = (a.as_chunks::<4>(), b.as_chunks::<4>());
    for (a, b) in a.0.iter().zip(b.0) {
        (0..4).for_each(|i| sums[i] += a[i] * b[i]);
    }
    let rest: f64 = a.1.iter().zip(b.1).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}
