//! Directions in the vocabulary: one token, or one against another.

use easyroutine_kernels::{PackedMatrix, RowsMut};

use super::LogitLens;
use crate::error::{Error, Result};
use crate::model::Buffer;

/// A token, or a pair of tokens whose difference is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The logit of one id.
    Token(u32),
    /// The logit of the first id minus that of the second.
    Pair(u32, u32),
}

/// The metric along directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Metric {
    /// The logit of a token or the difference of a pair, before any softcap.
    #[default]
    LogitDiff,
    /// The share of rows in which the first of a pair beats the second.
    Accuracy,
}

impl Direction {
    fn ids(self) -> [u32; 2] {
        match self {
            Direction::Token(a) => [a, a],
            Direction::Pair(a, b) => [a, b],
        }
    }

    /// The value along this direction, from the values of its ids.
    pub(super) fn value(self, a: f32, b: f32) -> f32 {
        match self {
            Direction::Token(_) => a,
            Direction::Pair(..) => a - b,
        }
    }

    pub(super) fn check(self, vocabulary: usize, pairs_alone: bool) -> Result<()> {
        if pairs_alone && matches!(self, Direction::Token(_)) {
            return Err(without_pairs());
        }
        let outside = self.ids().into_iter().find(|id| *id as usize >= vocabulary);
        match outside {
            Some(id) => Err(Error::input(format!(
                "direction: token id {id} is beyond the vocabulary of {vocabulary}"
            ))),
            None => Ok(()),
        }
    }
}

/// The error for a comparison without two tokens to compare.
pub(super) fn without_pairs() -> Error {
    Error::input("accuracy compares two tokens: it needs pairs as directions")
}

impl LogitLens {
    /// Values of vectors along one direction each, from logits before the softcap or from probabilities.
    ///
    /// # Shapes
    /// `normed`: N by D; `directions`: N; result: N.
    pub(super) fn along(
        &self,
        normed: Buffer,
        with_bias: bool,
        softmax: bool,
        directions: &[Direction],
    ) -> Vec<f32> {
        if softmax {
            let mut values = Vec::with_capacity(directions.len());
            let probabilities = self.probabilities(normed, with_bias);
            for (row, direction) in probabilities.chunks_exact(self.vocabulary()).zip(directions) {
                let [a, b] = direction.ids().map(|id| row[id as usize]);
                values.push(direction.value(a, b));
            }
            return values;
        }
        let mut ids: Vec<u32> = directions.iter().flat_map(|d| d.ids()).collect();
        ids.sort_unstable();
        ids.dedup();
        let matrix = &self.unembedding.matrix;
        let entering = self.unembedding.projected(&self.cpu, normed);
        let rows = entering.rows();
        let Ok(small) =
            PackedMatrix::pack(&self.cpu, matrix.matrix.dtype(), ids.len(), rows.n_columns(), |n, row| {
                matrix.matrix.read_row(ids[n] as usize, row);
                Ok::<(), std::convert::Infallible>(())
            });
        let own = if with_bias { matrix.bias.as_ref() } else { None };
        let bias: Option<Vec<f32>> = own.map(|b| ids.iter().map(|id| b[*id as usize]).collect());
        let mut logits = vec![0.0; rows.n_rows() * ids.len()];
        self.cpu.matmul(rows, &small, bias.as_deref(), RowsMut::dense(&mut logits, rows.n_rows(), ids.len()));
        self.unembedding.scale(&mut logits);
        let along = |(row, direction): (&[f32], &Direction)| {
            let [a, b] = direction.ids().map(|id| row[ids.partition_point(|i| *i < id)]);
            direction.value(a, b)
        };
        logits.chunks_exact(ids.len()).zip(directions).map(along).collect()
    }

    /// Softmax over the model's own logits, including the softcap.
    ///
    /// # Shapes
    /// `normed`: N by D; result: N by V.
    pub(super) fn probabilities(&self, normed: Buffer, with_bias: bool) -> Vec<f32> {
        let mut values = self.logits(normed, with_bias, true);
        for row in values.chunks_exact_mut(self.vocabulary()) {
            let most = self.cpu.max(row);
            let sum = self.cpu.exp_sums(row, most)[0] as f32;
            row.iter_mut().for_each(|x| *x = (*x - most).exp() / sum);
        }
        values
    }
}
