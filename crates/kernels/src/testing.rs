//! Shared by tests: every path of this machine, random values, comparisons.

use crate::vector::Path;
use crate::{Cpu, Rows, RowsMut};

/// A `Cpu` for every path, with several numbers of threads.
pub(crate) fn cpus() -> Vec<Cpu> {
    let with = |path: &Path| [1, 3].map(|threads| Cpu::with_path(*path, threads));
    Path::all().iter().flat_map(with).collect()
}

/// Every path with one thread.
pub(crate) fn single_cpus() -> Vec<Cpu> {
    Path::all().into_iter().map(|path| Cpu::with_path(path, 1)).collect()
}

/// Repeatable values around zero, most below two in size (xorshift; the sum of uniform values is nearly normal).
pub(crate) fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).map(|_| 2.0 * (uniform() + uniform() + uniform())).collect()
}

/// A matrix with a gap after each row.
#[derive(Clone)]
pub(crate) struct Matrix {
    pub(crate) values: Vec<f32>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) stride: usize,
}

impl Matrix {
    pub(crate) fn random(seed: u64, rows: usize, cols: usize, stride: usize) -> Matrix {
        Matrix { values: values(seed, rows * stride), rows, cols, stride }
    }

    /// A matrix filled with a value that no result has.
    pub(crate) fn untouched(rows: usize, cols: usize, stride: usize) -> Matrix {
        Matrix { values: vec![UNTOUCHED; rows * stride], rows, cols, stride }
    }

    pub(crate) fn view(&self) -> Rows<'_> {
        Rows::new(&self.values, self.rows, self.cols, self.stride)
    }

    pub(crate) fn view_mut(&mut self) -> RowsMut<'_> {
        RowsMut::new(&mut self.values, self.rows, self.cols, self.stride)
    }

    /// Whether the gaps between rows are as `untouched` left them.
    pub(crate) fn gaps_are_untouched(&self) -> bool {
        self.values
            .chunks(self.stride.max(1))
            .all(|row| row[self.cols..].iter().all(|value| *value == UNTOUCHED))
    }
}

const UNTOUCHED: f32 = -12345.678;

/// The bits, so that NaN equals itself and the zeros differ.
pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The largest error relative to the largest expected value.
pub(crate) fn error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-30_f64, |most, value| most.max(value.abs()));
    let errors =
        found.iter().zip(expected).map(|(found, expected)| (f64::from(*found) - expected).abs() / scale);
    // A NaN must not pass for no error.
    errors.fold(0.0, |most, error| if error > most || error.is_nan() { error } else { most })
}
