//! Values to put or add, and their broadcasting.

use std::path::Path;
use std::sync::Arc;

use easyroutine_files::{Container, Encoding};

use crate::error::{Error, Result};

/// Numbers with a shape, and a name for errors.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    name: String,
    shape: Vec<usize>,
    values: Arc<[f32]>,
}

impl Tensor {
    /// Numbers with a shape.
    ///
    /// # Errors
    /// If the shape does not hold this many numbers.
    pub fn new(name: impl Into<String>, shape: &[usize], values: impl Into<Arc<[f32]>>) -> Result<Self> {
        let (name, values) = (name.into(), values.into());
        let size = shape.iter().try_fold(1usize, |size, axis| size.checked_mul(*axis));
        if size != Some(values.len()) {
            return Err(Error::input(format!(
                "`{name}`: {} values are not of shape {shape:?}",
                values.len()
            )));
        }
        Ok(Tensor { name, shape: shape.to_vec(), values })
    }

    /// Reads a tensor from a safetensors or GGUF file.
    ///
    /// # Errors
    /// If the file cannot be read, or the tensor is missing or not floating point.
    pub fn read(file: &Path, tensor: &str) -> Result<Self> {
        let opened = Container::open(file)?;
        let Some(found) = opened.tensor(tensor) else {
            let held: Vec<&str> = opened.names().into_iter().take(8).collect();
            return Err(Error::input(format!("{}: no tensor `{tensor}`", file.display()))
                .hint(format!("it holds {}", held.join(", "))));
        };
        if !matches!(found.encoding(), Encoding::F32 | Encoding::F16 | Encoding::Bf16 | Encoding::F64) {
            return Err(Error::input(format!(
                "{}: `{tensor}` holds {:?}, no floating-point numbers",
                file.display(),
                found.encoding()
            )));
        }
        Tensor::new(tensor, found.shape(), found.read_all()?)
    }

    /// Its name in errors.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its numbers, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The mean over all axes but the last, summed in f64.
    ///
    /// # Errors
    /// If the tensor has no vectors.
    pub(crate) fn mean(&self) -> Result<Tensor> {
        let width = self.shape.last().copied().unwrap_or(0);
        if self.values.is_empty() {
            return Err(Error::input(format!("`{}`, of shape {:?}, has no mean", self.name, self.shape)));
        }
        let mut sums = vec![0f64; width];
        for vector in self.values.chunks_exact(width) {
            sums.iter_mut().zip(vector).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let count = (self.values.len() / width) as f64;
        let means: Vec<f32> = sums.into_iter().map(|sum| (sum / count) as f32).collect();
        Tensor::new(&self.name, &[width], means)
    }
}

/// A tensor broadcast over three axes as in NumPy: axes are matched from the last, and one of length 1 repeats.
#[derive(Debug, Clone)]
pub(super) struct Spread {
    values: Arc<[f32]>,
    /// Strides of each axis; 0 if it repeats.
    strides: [usize; 3],
    /// Length of each axis; `None` if it repeats.
    lengths: [Option<usize>; 3],
}

impl Spread {
    /// The tensor over these axes, if it fits.
    pub(super) fn over(tensor: &Tensor, axes: [usize; 3]) -> Option<Spread> {
        let mut spread = Spread { values: Arc::clone(&tensor.values), strides: [0; 3], lengths: [None; 3] };
        let mut stride = 1;
        for (place, length) in tensor.shape.iter().rev().enumerate() {
            if *length != 1 {
                let axis = 2usize.checked_sub(place)?;
                if axes[axis] != *length {
                    return None;
                }
                (spread.strides[axis], spread.lengths[axis]) = (stride, Some(*length));
            }
            stride *= length;
        }
        Some(spread)
    }

    /// The value at these places; `None` beyond a non-repeating axis, as for a generated token when values were given
    /// for the prompt.
    pub(super) fn at(&self, places: [usize; 3]) -> Option<f32> {
        let mut index = 0;
        for ((place, stride), length) in places.into_iter().zip(self.strides).zip(self.lengths) {
            if length.is_some_and(|length| place >= length) {
                return None;
            }
            index += place * stride;
        }
        self.values.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize]) -> Tensor {
        let size = shape.iter().product::<usize>();
        Tensor::new("t", shape, (0..size).map(|i| i as f32).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn axes_are_matched_from_the_last_and_repeated_where_they_are_one() {
        let at = |shape: &[usize], places| Spread::over(&tensor(shape), [2, 3, 4]).and_then(|s| s.at(places));
        assert_eq!(at(&[2, 3, 4], [1, 2, 3]), Some(23.0));
        assert_eq!(at(&[4], [1, 2, 3]), Some(3.0));
        assert_eq!(at(&[3, 1], [1, 2, 3]), Some(2.0));
        assert_eq!(at(&[], [1, 2, 3]), Some(0.0));
        assert_eq!(at(&[1, 1, 1, 4], [1, 2, 3]), Some(3.0));
        for wrong in [&[3][..], &[2, 4], &[4, 3, 2], &[2, 2, 3, 4]] {
            assert!(Spread::over(&tensor(wrong), [2, 3, 4]).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn beyond_what_was_given_there_is_nothing() {
        let spread = Spread::over(&tensor(&[3, 4]), [1, 3, 4]).unwrap();
        assert_eq!(spread.at([0, 3, 0]), None);
        assert_eq!(Spread::over(&tensor(&[4]), [1, 3, 4]).unwrap().at([0, 9, 1]), Some(1.0));
    }

    #[test]
    fn a_mean_goes_over_all_axes_but_the_last() {
        assert_eq!(tensor(&[2, 2, 2]).mean().unwrap().values(), [3.0, 4.0]);
        assert!(tensor(&[0, 2]).mean().is_err());
        assert!(Tensor::new("t", &[2, 2], vec![1.0]).is_err());
    }
}
