//! Means of patterns over examples, in constant memory.

use std::collections::BTreeMap;

use easyroutine_sites::Point;

use super::{Kept, Key};
use crate::error::{Error, Result};

/// The mean over all rows added, for each head; sums are in f64, in the order of the rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunningMean {
    sums: BTreeMap<Point, Sum>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sum {
    /// Shape of one row's value.
    shape: Vec<usize>,
    values: Vec<f64>,
    rows: usize,
}

impl RunningMean {
    /// Starts from the mean of `rows` rows, as if they had been added.
    ///
    /// # Shapes
    /// `values`: `shape`, the shape of one row's value.
    ///
    /// # Errors
    /// If values do not fit the shape, or `rows` is 0.
    pub fn seed(&mut self, point: Point, shape: &[usize], values: &[f32], rows: usize) -> Result<()> {
        if values.len() != shape.iter().product::<usize>() || rows == 0 {
            return Err(Error::input(format!(
                "`{}`: {} values and {rows} rows are not a mean of shape {shape:?}",
                Key::Mean(point),
                values.len()
            )));
        }
        let values = values.iter().map(|x| f64::from(*x) * rows as f64).collect();
        self.sums.insert(point, Sum { shape: shape.to_vec(), values, rows });
        Ok(())
    }

    /// Adds one row.
    ///
    /// # Errors
    /// If its shape differs from earlier rows'.
    pub(crate) fn add(&mut self, point: Point, shape: &[usize], values: &[f32]) -> Result<()> {
        let empty = || Sum { shape: shape.to_vec(), values: vec![0.0; values.len()], rows: 0 };
        let sum = self.sums.entry(point).or_insert_with(empty);
        if sum.shape != shape {
            return Err(Error::input(format!(
                "a mean over examples needs as many positions in every row: `{}` is of shape {:?} so far, and of {shape:?} \
                 in this row",
                Key::Mean(point),
                sum.shape
            )));
        }
        sum.values.iter_mut().zip(values).for_each(|(sum, x)| *sum += f64::from(*x));
        sum.rows += 1;
        Ok(())
    }

    /// The means so far, by point.
    ///
    /// # Shapes
    /// One row of `[T, T]`, or of what is kept from each pattern.
    pub fn means(&self) -> impl Iterator<Item = (Point, Kept)> {
        self.sums.iter().map(|(point, sum)| {
            let values = sum.values.iter().map(|x| (x / sum.rows as f64) as f32).collect();
            (*point, Kept::f32(values, vec![sum.shape.clone()]))
        })
    }

    /// Whether no row was added.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }
}
