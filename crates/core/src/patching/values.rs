//! What a sweep puts in the place of activations.

use std::collections::{BTreeMap, BTreeSet};

use easyroutine_sites::Point;

use super::By;
use crate::batch::Batch;
use crate::cache::Capture;
use crate::edit::Tensor;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::positions::Selection;

/// The replacement values.
pub(crate) enum Values {
    /// One vector for every position.
    Means(BTreeMap<Point, Tensor>),
    /// One vector per position of another row.
    Taken(BTreeMap<Point, Vec<f32>>, usize),
    /// One vector for each changed position.
    Listed(BTreeMap<(Point, usize), Vec<f32>>),
}

impl Values {
    pub(crate) fn at(&self, point: Point, positions: &[usize]) -> Result<Tensor> {
        match self {
            Values::Means(means) => Ok(means[&point].clone()),
            Values::Taken(taken, length) => {
                let values = &taken[&point];
                let width = values.len() / length;
                let vectors = positions.iter().flat_map(|p| &values[p * width..(p + 1) * width]);
                Tensor::new(
                    point.to_string(),
                    &[positions.len(), width],
                    vectors.copied().collect::<Vec<_>>(),
                )
            }
            Values::Listed(listed) => {
                let vectors: Vec<&[f32]> =
                    positions.iter().map(|p| listed[&(point, *p)].as_slice()).collect();
                let width = vectors.first().map_or(0, |vector| vector.len());
                Tensor::new(point.to_string(), &[positions.len(), width], vectors.concat())
            }
        }
    }
}

impl By {
    /// What is put at these points, for rows of checked lengths; `None` for zeros.
    pub(super) fn values(
        &self,
        model: &Model,
        row: &[u32],
        points: BTreeSet<Point>,
    ) -> Result<Option<Values>> {
        match self {
            By::Zero => Ok(None),
            By::Mean(rows) => {
                let kept = captured(model, rows, points)?;
                let mean = |(point, (values, tokens)): (Point, (Vec<f32>, usize))| {
                    let shape = [tokens, values.len() / tokens];
                    Ok((point, Tensor::new(point.to_string(), &shape, values)?.mean()?))
                };
                Ok(Some(Values::Means(kept.into_iter().map(mean).collect::<Result<_>>()?)))
            }
            By::MeanOfRows(rows) => {
                let kept = captured(model, rows, points)?;
                let mean = |(point, (values, _)): (Point, (Vec<f32>, usize))| {
                    (point, mean_of_rows(&values, rows.len()))
                };
                Ok(Some(Values::Taken(kept.into_iter().map(mean).collect(), row.len())))
            }
            By::Resample(other) | By::Patch(other) => {
                let kept = captured(model, std::slice::from_ref(other), points)?;
                let taken = kept.into_iter().map(|(point, (values, _))| (point, values)).collect();
                Ok(Some(Values::Taken(taken, row.len())))
            }
        }
    }
}

/// # Errors
/// If the source row and the changed row differ in length.
pub(super) fn as_long(other: &[u32], row: &[u32]) -> Result<()> {
    if other.len() == row.len() {
        return Ok(());
    }
    Err(Error::input(format!(
        "the row to take values of has {} tokens, the row they are put into {}",
        other.len(),
        row.len()
    ))
    .hint("a sweep puts each position in the place of the same position"))
}

/// The mean over rows of one length, position by position: sums in f64, in the order of the rows.
fn mean_of_rows(values: &[f32], n_rows: usize) -> Vec<f32> {
    let size = values.len() / n_rows.max(1);
    let mut sums = vec![0f64; size];
    for row in values.chunks_exact(size.max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    sums.into_iter().map(|sum| (sum / n_rows as f64) as f32).collect()
}

/// Activations at all tokens of the rows, and the number of tokens.
fn captured(
    model: &Model,
    rows: &[Vec<u32>],
    points: BTreeSet<Point>,
) -> Result<BTreeMap<Point, (Vec<f32>, usize)>> {
    let batch = Batch::new(rows)?;
    let mut capture = Capture::new(points.clone(), Selection::all(rows.iter().map(Vec::len)));
    model.forward(&batch, &mut capture)?;
    let cache = capture.finish(&batch);
    let of = |point: Point| {
        let kept = cache.get(point);
        let kept = kept.ok_or_else(|| Error::input(format!("`{point}` was not reached")))?;
        Ok((point, (kept.values().to_vec(), batch.n_tokens())))
    };
    points.into_iter().map(of).collect()
}
