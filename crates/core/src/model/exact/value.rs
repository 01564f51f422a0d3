//! What a tap sees of a run in f64.

use easyroutine_sites::Point;

use super::matrix::Matrix;
use crate::batch::Batch;
use crate::error::Result;
use crate::tap::Want;

/// Receives activations of a run in f64, and may change them.
pub trait ExactTap {
    /// What this tap does at a point. The answer must stay the same during a run.
    fn wants(&self, point: Point) -> Want;

    /// Called at each wanted point, in the order of the forward pass.
    ///
    /// # Errors
    /// An error ends the run and is returned by it.
    fn at(&mut self, point: Point, value: &mut ExactValue<'_>) -> Result<()>;
}

/// The values at one point, for all rows of the batch.
#[derive(Debug)]
pub struct ExactValue<'a> {
    pub(super) values: Values<'a>,
    pub(super) batch: &'a Batch,
}

#[derive(Debug)]
pub(super) enum Values<'a> {
    /// One vector a token.
    Tokens(&'a mut Matrix),
    /// One vector for each of these tokens.
    Some(&'a mut Matrix, &'a [usize]),
    /// For each row its queries by keys, row after row.
    Pairs(&'a mut [f64]),
}

impl ExactValue<'_> {
    /// The rows of the batch.
    pub fn batch(&self) -> &Batch {
        self.batch
    }

    /// The vector at a position of a row; `None` where the value has none.
    pub fn vector(&self, row: usize, position: usize) -> Option<&[f64]> {
        let token = self.batch.token(row, position)?;
        match &self.values {
            Values::Tokens(matrix) => Some(matrix.row(token)),
            Values::Some(matrix, tokens) => tokens.binary_search(&token).ok().map(|i| matrix.row(i)),
            Values::Pairs(pairs) => Some(&pairs[query(self.batch, row, position)]),
        }
    }

    /// As [`ExactValue::vector`], to be changed.
    pub fn vector_mut(&mut self, row: usize, position: usize) -> Option<&mut [f64]> {
        let token = self.batch.token(row, position)?;
        match &mut self.values {
            Values::Tokens(matrix) => Some(matrix.row_mut(token)),
            Values::Some(matrix, tokens) => tokens.binary_search(&token).ok().map(|i| matrix.row_mut(i)),
            Values::Pairs(pairs) => Some(&mut pairs[query(self.batch, row, position)]),
        }
    }
}

/// Where the keys of one query stand among the pairs of all rows.
pub(super) fn query(batch: &Batch, row: usize, position: usize) -> std::ops::Range<usize> {
    let before: usize = (0..row).map(|row| batch.length(row).pow(2)).sum();
    let start = before + position * batch.length(row);
    start..start + batch.length(row)
}
