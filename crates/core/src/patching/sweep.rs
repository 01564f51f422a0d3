//! One change after another to one row: layers by positions, heads, sites or experts.

use easyroutine_sites::Site;

use super::cells::{Cell, Unchanged};
use super::metric::Measured;
use super::plan::{Plan, Planned};
use super::values::{Values, as_long};
use super::{Grid, Metric, last_logits, set};
use crate::edit::{RowAction, Tensor};
use crate::error::Result;
use crate::model::Model;
use crate::positions::Row;

/// The changes of a sweep, and the metric read after each.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Rows of the grid.
    pub layers: Vec<usize>,
    /// Columns of the grid.
    pub along: Along,
    /// How a place is changed.
    pub by: By,
    /// The metric.
    pub metric: Metric,
}

/// The columns of a grid. Layers that have none of the sites have no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Along {
    /// Single positions, of one site.
    Positions {
        /// The site, one per layer.
        site: Site,
        /// The positions.
        positions: Vec<usize>,
    },
    /// Single heads, of one site, at all these positions at once.
    Heads {
        /// The site, one per head.
        site: Site,
        /// The positions.
        positions: Vec<usize>,
    },
    /// Single sites, at all these positions at once. A layer that lacks one and has another has an empty cell.
    Sites {
        /// The sites, one per layer.
        sites: Vec<Site>,
        /// The positions.
        positions: Vec<usize>,
    },
    /// Single experts, each where a token of these positions goes through it.
    Experts {
        /// Numbers of experts; `None` for all.
        experts: Option<Vec<usize>>,
        /// The positions.
        positions: Vec<usize>,
    },
}

/// How a place is changed. An expert's output is one where a token goes through it: means are over those tokens, and
/// where a token of another row goes through other experts, zeros are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// To zeros.
    Zero,
    /// To the mean of the same activation over all tokens of these rows: one vector for every position.
    Mean(Vec<Vec<u32>>),
    /// To the mean of the same activation over these rows at the same position. Each must be as long as the changed
    /// row.
    MeanOfRows(Vec<Vec<u32>>),
    /// To the same activation at the same position of another row of the same length: resampling.
    Resample(Vec<u32>),
    /// As [`By::Resample`], from the base run that the metric is compared with.
    Patch(Vec<u32>),
}

impl By {
    /// The mean over rows: position by position if all are as long as the changed row, else over all tokens. A mean
    /// over the row itself, or over no rows, is taken over the row's tokens: position by position it would change
    /// nothing.
    pub fn mean_of(rows: Vec<Vec<u32>>, row: &[u32]) -> By {
        let is_alone = rows.iter().all(|other| other == row);
        let fits = rows.iter().all(|other| other.len() == row.len());
        if fits && !is_alone { By::MeanOfRows(rows) } else { By::Mean(rows) }
    }

    /// Checks that other rows are as long as the changed one, where each position is put in the place of the same
    /// position.
    ///
    /// # Errors
    /// If one is not.
    pub fn check_lengths(&self, row: &[u32]) -> Result<()> {
        match self {
            By::Zero | By::Mean(_) => Ok(()),
            By::MeanOfRows(rows) => rows.iter().try_for_each(|other| as_long(other, row)),
            By::Resample(other) | By::Patch(other) => as_long(other, row),
        }
    }
}

/// Makes every change of a sweep to a row. Each gives the bits of a whole run with that change, but runs only the
/// blocks from its layer on and the tokens from its position on, unless blocks read more than the stream before them. A
/// cell of an expert that no changed token goes through has exactly the metric without a change, and is not run.
/// `progress` gets the number of runs done and in total.
///
/// # Errors
/// If a layer, position, expert or site does not exist or cannot be changed, no layer has experts to sweep, a source row
/// has another length, no token of the rows of a mean goes through a changed expert, the metric cannot be computed, or
/// `progress` fails.
pub fn sweep(
    model: &Model,
    row: &[u32],
    sweep: &Sweep,
    progress: impl FnMut(usize, usize) -> Result<()>,
) -> Result<Grid> {
    let plan = Plan::new(model, row, sweep)?;
    let exact = Exact::new(model, row, &plan, sweep)?;
    let all: Vec<usize> = (0..plan.cells.len()).collect();
    let values = exact.of(&plan, &all, progress)?;
    let measured = exact.measured()?;
    let unchanged = measured.of(&exact.unchanged.logits);
    let base = exact.base.as_deref().map(|logits| measured.of(logits));
    Ok(plan.grid(values, unchanged, base, sweep.metric))
}

/// The runs that exact cells need.
pub(crate) struct Exact<'a> {
    model: &'a Model,
    metric: Metric,
    values: Option<Values>,
    pub(super) unchanged: Unchanged<'a>,
    /// Logits of the base run, if there is one.
    pub(super) base: Option<Vec<f32>>,
}

impl<'a> Exact<'a> {
    pub(crate) fn new(model: &'a Model, row: &'a [u32], plan: &Plan, sweep: &Sweep) -> Result<Self> {
        let points = plan.changing().map(|cell| plan.cells[cell].point);
        let values = plan.values(model, row, &sweep.by, set(points))?;
        let base = match &sweep.by {
            By::Patch(base) => last_logits(model, &[Row::of(0, base)], ())?.pop(),
            _ => None,
        };
        let unchanged = Unchanged::run(model, row)?;
        let exact = Exact { model, metric: sweep.metric, values, unchanged, base };
        exact.measured().map(drop)?;
        Ok(exact)
    }

    pub(crate) fn measured(&self) -> Result<Measured<'_>> {
        self.metric.against(&self.unchanged.logits, self.base.as_deref())
    }

    /// The metric for a list of cells, in order.
    pub(crate) fn of(
        &self,
        plan: &Plan,
        chosen: &[usize],
        mut progress: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<Vec<f64>> {
        let measured = self.measured()?;
        let mut found = vec![measured.of(&self.unchanged.logits); chosen.len()];
        let (numbers, places): (Vec<usize>, Vec<&Planned>) = chosen
            .iter()
            .map(|cell| &plan.cells[*cell])
            .enumerate()
            .filter(|(_, cell)| cell.changes())
            .unzip();
        let put = |cell: &&Planned| {
            self.values.as_ref().map(|values| values.at(cell.point, &cell.positions)).transpose()
        };
        let tensors = places.iter().map(put).collect::<Result<Vec<Option<Tensor>>>>()?;
        let cells: Vec<Cell<'_>> = places
            .iter()
            .zip(&tensors)
            .map(|(cell, tensor)| {
                let action = tensor.as_ref().map_or(RowAction::Zero, RowAction::Put);
                Cell::new(self.model, cell.point, &cell.positions, action)
            })
            .collect();
        let mut done = 0;
        progress(done, cells.len())?;
        self.unchanged.change(&cells, |cell, logits| {
            found[numbers[cell]] = measured.of(logits);
            done += 1;
            progress(done, cells.len())
        })?;
        Ok(found)
    }
}
