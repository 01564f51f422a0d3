//! One change after another to one row: layers by positions, heads or sites.

use std::collections::BTreeMap;

use easyroutine_sites::{Access, Point, Scope, Site};

use super::cells::{Cell, Unchanged};
use super::metric::Measured;
use super::{Grid, Metric, last_logits, set};
use crate::batch::Batch;
use crate::cache::Capture;
use crate::edit::{RowAction, Tensor};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::positions::{Row, Selection};

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

/// The columns of a grid.
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
    /// Single sites, at all these positions at once.
    Sites {
        /// The sites, one per layer.
        sites: Vec<Site>,
        /// The positions.
        positions: Vec<usize>,
    },
}

/// How a place is changed.
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
/// blocks from its layer on and the tokens from its position on. `progress` gets the number of cells done and in total.
///
/// # Errors
/// If a layer, position or site does not exist or cannot be changed, a source row has another length, the metric cannot
/// be computed, or `progress` fails.
pub fn sweep(
    model: &Model,
    row: &[u32],
    sweep: &Sweep,
    progress: impl FnMut(usize, usize) -> Result<()>,
) -> Result<Grid> {
    let plan = Plan::new(model, row, sweep)?;
    let exact = Exact::new(model, row, &plan, sweep)?;
    let all: Vec<usize> = (0..plan.n_cells()).collect();
    let values = exact.of(&plan, &all, progress)?;
    let measured = exact.measured()?;
    Ok(Grid {
        layers: sweep.layers.clone(),
        features: Vec::new(),
        columns: plan.labels(),
        activations: plan.names(),
        values: values.chunks(plan.columns.len()).map(<[f64]>::to_vec).collect(),
        unchanged: measured.of(&exact.unchanged.logits),
        base: exact.base.as_deref().map(|logits| measured.of(logits)),
        metric: sweep.metric,
    })
}

/// The cells of a sweep, checked against model and row.
pub(crate) struct Plan {
    pub(crate) columns: Vec<Column>,
    /// Layers by columns.
    pub(crate) points: Vec<Vec<Point>>,
}

impl Plan {
    pub(crate) fn new(model: &Model, row: &[u32], sweep: &Sweep) -> Result<Self> {
        check_model(model)?;
        let columns = sweep.along.columns(model, row.len())?;
        check_layers(model, &sweep.layers)?;
        let of_layer = |layer: &usize| columns.iter().map(|column| column.point(model, *layer)).collect();
        let points = sweep.layers.iter().map(of_layer).collect::<Result<_>>()?;
        Ok(Plan { columns, points })
    }

    pub(crate) fn n_cells(&self) -> usize {
        self.points.len() * self.columns.len()
    }

    /// The place of each cell and the positions changed there, row by row.
    pub(crate) fn cells(&self) -> impl Iterator<Item = (Point, &[usize])> {
        let columns = self.columns.iter().cycle();
        self.points.iter().flatten().zip(columns).map(|(point, column)| (*point, column.positions.as_slice()))
    }

    pub(crate) fn labels(&self) -> Vec<String> {
        self.columns.iter().map(|column| column.label.clone()).collect()
    }

    /// The activation of each cell, as in [`Grid::activations`].
    pub(crate) fn names(&self) -> Vec<Vec<String>> {
        self.points.iter().map(|row| row.iter().map(ToString::to_string).collect()).collect()
    }
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
        let values = sweep.by.values(model, row, set(plan.points.concat()))?;
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
        let all: Vec<(Point, &[usize])> = plan.cells().collect();
        let places: Vec<(Point, &[usize])> = chosen.iter().map(|cell| all[*cell]).collect();
        let put = |(point, positions): &(Point, &[usize])| {
            self.values.as_ref().map(|values| values.at(*point, positions)).transpose()
        };
        let tensors = places.iter().map(put).collect::<Result<Vec<Option<Tensor>>>>()?;
        let cells: Vec<Cell<'_>> = places
            .iter()
            .zip(&tensors)
            .map(|((point, positions), tensor)| {
                let action = tensor.as_ref().map_or(RowAction::Zero, RowAction::Put);
                Cell::new(self.model, *point, positions, action)
            })
            .collect();
        let mut found = vec![0.0; cells.len()];
        let mut done = 0;
        progress(done, cells.len())?;
        self.unchanged.change(&cells, |cell, logits| {
            found[cell] = measured.of(logits);
            done += 1;
            progress(done, cells.len())
        })?;
        Ok(found)
    }
}

/// A column of a grid.
pub(crate) struct Column {
    site: Site,
    head: Option<usize>,
    /// Ascending.
    pub(super) positions: Vec<usize>,
    label: String,
}

impl Column {
    fn point(&self, model: &Model, layer: usize) -> Result<Point> {
        let point = match self.head {
            Some(head) => Point::head_of(self.site, layer, head),
            None => Point::layer_of(self.site, layer),
        };
        model.arch().check_point(point).map(|()| point)
    }
}

impl Along {
    fn columns(&self, model: &Model, length: usize) -> Result<Vec<Column>> {
        let (Along::Positions { positions, .. }
        | Along::Heads { positions, .. }
        | Along::Sites { positions, .. }) = self;
        let mut positions = positions.clone();
        positions.sort_unstable();
        positions.dedup();
        let column = |site, head, positions: &[usize], label| Column {
            site,
            head,
            positions: positions.to_vec(),
            label,
        };
        let columns: Vec<Column> = match self {
            Along::Positions { site, .. } => {
                check_site(*site, Scope::Layer)?;
                positions.iter().map(|p| column(*site, None, &[*p], format!("position {p}"))).collect()
            }
            Along::Heads { site, .. } => {
                check_site(*site, Scope::Head)?;
                let heads = 0..model.arch().n_heads;
                heads.map(|head| column(*site, Some(head), &positions, format!("head {head}"))).collect()
            }
            Along::Sites { sites, .. } => sites
                .iter()
                .map(|site| {
                    Ok(column(check_site(*site, Scope::Layer)?, None, &positions, site.name().to_owned()))
                })
                .collect::<Result<_>>()?,
        };
        if let Some(position) = positions.iter().find(|p| **p >= length) {
            return Err(Error::input(format!(
                "position {position} is outside the row, which has {length} tokens"
            )));
        }
        if columns.is_empty() || positions.is_empty() {
            return Err(Error::input("a sweep changes something: it needs positions, and heads or sites"));
        }
        Ok(columns)
    }
}

/// Refuses a model without logits, or whose blocks read more than the stream.
pub(super) fn check_model(model: &Model) -> Result<()> {
    model.unembedding()?;
    let Some(what) = model.arch().reads_across_blocks() else { return Ok(()) };
    let what = format!("a sweep begins in the middle of the pass, but {what}");
    Err(Error::new(ErrorKind::Unsupported, what)
        .hint("an intervention runs the whole pass: change one place after another"))
}

/// Checks that a site has this scope and vectors that can be changed.
fn check_site(site: Site, scope: Scope) -> Result<Site> {
    let is_column = |site: &Site| {
        let is_whole_vector = site.access() == Access::Changes && !site.is_pairwise();
        is_whole_vector
            && site.canonical() == *site
            && match scope {
                Scope::Head => site.scope() == Scope::Head,
                _ => matches!(site.scope(), Scope::Layer | Scope::LetteredLayer),
            }
    };
    if is_column(&site) {
        return Ok(site);
    }
    let what = if scope == Scope::Head { "heads" } else { "positions or sites" };
    let names: Vec<&str> = Site::ALL.iter().filter(|site| is_column(site)).map(|site| site.name()).collect();
    Err(Error::input(format!("`{}` is not a column of a grid along {what}", site.name()))
        .hint(format!("what can be: {}", names.join(", "))))
}

fn check_layers(model: &Model, layers: &[usize]) -> Result<()> {
    let n_layers = model.arch().layers.len();
    match layers.iter().find(|layer| **layer >= n_layers) {
        Some(layer) => Err(Error::input(format!("no layer {layer}; the model has 0 to {}", n_layers - 1))),
        None if layers.is_empty() => Err(Error::input("no layers to sweep over")),
        None => Ok(()),
    }
}

/// The replacement values.
pub(crate) enum Values {
    /// One vector for every position.
    Means(BTreeMap<Point, Tensor>),
    /// One vector per position of another row.
    Taken(BTreeMap<Point, Vec<f32>>, usize),
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
        }
    }
}

impl By {
    pub(crate) fn values(
        &self,
        model: &Model,
        row: &[u32],
        points: std::collections::BTreeSet<Point>,
    ) -> Result<Option<Values>> {
        self.check_lengths(row)?;
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
fn as_long(other: &[u32], row: &[u32]) -> Result<()> {
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
    points: std::collections::BTreeSet<Point>,
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
