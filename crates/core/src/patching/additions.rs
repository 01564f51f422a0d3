//! Vectors added to activations of one row, many sets of them, one after another.

use easyroutine_sites::Point;

use super::cells::{Cell, Unchanged};
use super::metric::Measured;
use super::{Metric, last_logits};
use crate::batch::Batch;
use crate::edit::{RowAction, Tensor, check_access};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::positions::Row;

/// Vectors added to an activation of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Addition {
    /// The activation, of a layer.
    pub point: Point,
    /// The positions, ascending.
    pub positions: Vec<usize>,
    /// What is added.
    ///
    /// # Shapes
    /// `[positions, width]`.
    pub vectors: Tensor,
}

/// The run of a row, and the means to run it again with something added.
pub struct Additions<'a> {
    unchanged: Unchanged<'a>,
    /// Logits of the base run, if there is one.
    base: Option<Vec<f32>>,
    model: &'a Model,
    row: &'a [u32],
    metric: Metric,
}

impl std::fmt::Debug for Additions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Additions")
            .field("row", &self.row)
            .field("metric", &self.metric)
            .finish_non_exhaustive()
    }
}

impl<'a> Additions<'a> {
    /// Runs the row, and the base that the metric is compared with.
    ///
    /// # Errors
    /// If the row is empty, the model has no unembedding, or the metric cannot be computed.
    pub fn new(model: &'a Model, row: &'a [u32], base: Option<&[u32]>, metric: Metric) -> Result<Self> {
        model.unembedding()?;
        Batch::new(&[row])?;
        let base = base.map(|base| last_logits(model, &[Row::of(0, base)], ())).transpose()?;
        let base = base.and_then(|mut logits| logits.pop());
        let unchanged = Unchanged::run(model, row)?;
        let run = Additions { unchanged, base, model, row, metric };
        run.measured().map(drop)?;
        Ok(run)
    }

    /// The metric with nothing added.
    ///
    /// # Errors
    /// None after [`Additions::new`].
    pub fn unchanged(&self) -> Result<f64> {
        Ok(self.measured()?.of(&self.unchanged.logits))
    }

    /// The metric of the base run, if there is one.
    ///
    /// # Errors
    /// None after [`Additions::new`].
    pub fn base(&self) -> Result<Option<f64>> {
        let measured = self.measured()?;
        Ok(self.base.as_deref().map(|logits| measured.of(logits)))
    }

    /// The metric with each set of additions in turn, to the bits of a whole run. An empty set has that of the unchanged
    /// run. `progress` is called after each.
    ///
    /// # Errors
    /// If an activation is of no layer, or cannot be changed; a position is outside the row; vectors have another shape; or
    /// `progress` fails.
    pub fn measure(
        &self,
        sets: &[Vec<Addition>],
        mut progress: impl FnMut() -> Result<()>,
    ) -> Result<Vec<f64>> {
        sets.iter().flatten().try_for_each(|one| self.check(one))?;
        let measured = self.measured()?;
        let mut found = vec![measured.of(&self.unchanged.logits); sets.len()];
        let (mut numbers, mut cells) = (Vec::new(), Vec::new());
        for (number, set) in sets.iter().enumerate() {
            if set.is_empty() {
                progress()?;
                continue;
            }
            numbers.push(number);
            cells.push(Cell::of(self.model, set.iter().map(changed)));
        }
        self.unchanged.change(&cells, |cell, logits| {
            found[numbers[cell]] = measured.of(logits);
            progress()
        })?;
        Ok(found)
    }

    fn check(&self, one: &Addition) -> Result<()> {
        let Addition { point, positions, vectors } = one;
        let arch = self.model.arch();
        arch.check_point(*point)?;
        check_access(point.site())?;
        if point.layer().is_none() {
            return Err(Error::input(format!("`{point}` is of no layer, and a sweep begins with a layer")));
        }
        let length = self.row.len();
        if let Some(position) = positions.iter().find(|position| **position >= length) {
            let what = format!("position {position} is outside the row, which has {length} tokens");
            return Err(Error::input(what));
        }
        let width = arch.width(*point).unwrap_or(0);
        if vectors.shape() != [positions.len(), width] || !positions.is_sorted_by(|a, b| a < b) {
            let what = format!(
                "`{point}` has vectors of {width}; {} positions, and vectors of shape",
                positions.len()
            );
            return Err(Error::input(format!("{what} {:?}, do not fit", vectors.shape())));
        }
        Ok(())
    }

    fn measured(&self) -> Result<Measured<'_>> {
        self.metric.against(&self.unchanged.logits, self.base.as_deref())
    }
}

fn changed(one: &Addition) -> (Point, &[usize], RowAction<'_>) {
    (one.point, &one.positions, RowAction::Add(&one.vectors))
}
