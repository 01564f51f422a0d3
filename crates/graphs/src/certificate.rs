//! The certificate of a graph: whether its rows add up, and whether its edges predict what happens when a source is
//! removed.

use std::collections::BTreeMap;

use easyroutine::{Result, Stop, Visitor};
use easyroutine_kernels::{Rows as Matrix, RowsMut};
use easyroutine_sites::{Point, Site};

use crate::rows::Target;
use crate::sources::{Sources, dot};

/// The quality of a graph.
///
/// A target's value is the sum of its row and of contributions from no node: biases, learned positions, and the MLPs of
/// the first positions. This remainder is computed forward, in a run with all sources at zero; rows are computed
/// backward. Removing a source in such a run must change each target by its edge.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    /// The value of each target, without the encoder's bias; for a logit, minus the mean of all.
    pub values: Vec<f64>,
    /// The part of it that comes from no node.
    pub rests: Vec<f64>,
    /// The largest |row + rest - value| over all targets, relative to the sum of absolute values in its row and rest.
    pub row_error: f64,
    /// The sources that were removed.
    pub checks: Vec<Check>,
}

/// One source that was removed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Check {
    /// Its node.
    pub node: usize,
    /// The target whose change its edge predicts worst.
    pub target: usize,
    /// That edge.
    pub edge: f64,
    /// The decrease of the target.
    pub found: f64,
    /// The difference, relative to the sum of absolute values in the target's row.
    pub error: f64,
}

impl Certificate {
    /// The largest error of all interventions; `None` if there were none.
    pub fn largest_error(&self) -> Option<f64> {
        self.checks.iter().map(|check| check.error).reduce(f64::max)
    }
}

/// Verifies forward what rows computed backward.
pub(crate) fn certify(
    sources: &Sources<'_>,
    selected: &[usize],
    edges: &[f32],
    targets: &[Target],
    n_checks: usize,
    stop: Stop<'_>,
) -> Result<Certificate> {
    let n = sources.n_columns_of(selected);
    let row = |target: usize| &edges[target * n..(target + 1) * n];
    let values = targets.iter().map(|target| {
        let value = sources.frozen.value(target.point)?;
        Ok(dot(&target.vector, value.row(target.position)))
    });
    let values = values.collect::<Result<Vec<f64>>>()?;
    let rests = run(sources, targets, &[Copy::Nothing], stop)?.remove(0);
    let size = |target: usize| row(target).iter().map(|x| f64::from(x.abs())).sum::<f64>();
    let mut row_error = 0.0f64;
    for (target, (value, rest)) in values.iter().zip(&rests).enumerate() {
        // With a selection of features, only their rows are complete.
        if selected.len() < sources.features.len() {
            break;
        }
        let sum: f64 = row(target).iter().map(|x| f64::from(*x)).sum();
        row_error = row_error.max((sum + rest - value).abs() / (size(target) + rest.abs()).max(1e-30));
    }
    let checked = sampled(n, n_checks, |column| (0..targets.len()).any(|target| row(target)[column] != 0.0));
    let mut checks = Vec::new();
    if !checked.is_empty() {
        let all = |column: usize| match selected.get(column) {
            Some(at) => *at,
            None => sources.features.len() + column - selected.len(),
        };
        let copies: Vec<Copy> = std::iter::once(Copy::Everything)
            .chain(checked.iter().map(|column| Copy::Without(all(*column))))
            .collect();
        let found = run(sources, targets, &copies, stop)?;
        for (column, without) in checked.into_iter().zip(&found[1..]) {
            let of_target = |target: usize| {
                let (edge, fell) = (f64::from(row(target)[column]), found[0][target] - without[target]);
                let error = (fell - edge).abs() / size(target).max(1e-30);
                Check { node: column, target, edge, found: fell, error }
            };
            let worst = (0..targets.len()).map(of_target).max_by(|a, b| a.error.total_cmp(&b.error));
            // Rows of logits follow those of features; their nodes follow all sources.
            checks.extend(worst.map(|check| Check {
                target: match check.target.checked_sub(selected.len()) {
                    Some(logit) => n + logit,
                    None => check.target,
                },
                ..check
            }));
        }
    }
    Ok(Certificate { values, rests, row_error, checks })
}

/// A sample of columns, spread evenly over those that have an edge.
fn sampled(columns: usize, n: usize, has_edge: impl Fn(usize) -> bool) -> Vec<usize> {
    let with: Vec<usize> = (0..columns).filter(|column| has_edge(*column)).collect();
    let n = n.min(with.len());
    (0..n).map(|i| with[i * with.len() / n]).collect()
}

/// The sources of a copy of the prompt.
#[derive(Debug, Clone, Copy)]
enum Copy {
    /// None: only biases, positions and the MLPs of the first positions.
    Nothing,
    /// All: the model's own run.
    Everything,
    /// All except one.
    Without(usize),
}

/// The value of each target in each copy.
fn run(sources: &Sources<'_>, targets: &[Target], copies: &[Copy], stop: Stop<'_>) -> Result<Vec<Vec<f64>>> {
    let mut found = Vec::with_capacity(copies.len());
    for copies in copies.chunks((1024 / sources.n_tokens()).max(1)) {
        let removed: Vec<Vec<Written>> = copies
            .iter()
            .map(|copy| match copy {
                Copy::Without(node) => sources.vectors_of(*node),
                _ => Vec::new(),
            })
            .collect();
        let values = vec![vec![0.0; targets.len()]; copies.len()];
        let mut running = Running { sources, targets, copies, removed, skipped: BTreeMap::new(), values };
        sources.frozen.run(copies.len(), &mut running, stop)?;
        found.extend(running.values);
    }
    Ok(found)
}

/// A layer (`None` for the embedding), a position, and the vector written there.
type Written = (Option<usize>, usize, Vec<f32>);

/// Writes the sources of each copy, and reads the targets.
struct Running<'a> {
    sources: &'a Sources<'a>,
    targets: &'a [Target],
    copies: &'a [Copy],
    removed: Vec<Vec<Written>>,
    /// What bypasses an MLP through a skip connection, by layer.
    skipped: BTreeMap<usize, Vec<f32>>,
    values: Vec<Vec<f64>>,
}

impl Visitor for Running<'_> {
    fn writes(&self, _: Point) -> bool {
        true
    }

    fn at(&mut self, point: Point, mut rows: RowsMut<'_>) -> Result<()> {
        match (point.site(), point.layer()) {
            (Site::MlpOut, Some(layer)) => self.write(layer, &mut rows)?,
            (Site::InputEmbeddings, _) => self.embed(&mut rows)?,
            _ => {}
        }
        let n_tokens = self.sources.n_tokens();
        for (number, target) in self.targets.iter().enumerate().filter(|(_, target)| target.point == point) {
            for (copy, values) in self.values.iter_mut().enumerate() {
                values[number] = dot(&target.vector, rows.row(copy * n_tokens + target.position));
            }
        }
        for (layer, place) in self.sources.places.iter().enumerate() {
            let Some((place, skip)) = place.as_ref().and_then(|place| Some((place, place.skip.as_ref()?)))
            else {
                continue;
            };
            if place.reads == point {
                let width = skip.forward.outputs();
                let mut through = vec![0.0; rows.n_rows() * width];
                let out = RowsMut::dense(&mut through, rows.n_rows(), width);
                self.sources.frozen.model().cpu().matmul(rows.as_rows(), &skip.forward, None, out);
                self.skipped.insert(layer, through);
            }
        }
        Ok(())
    }
}

impl Running<'_> {
    /// The first stream, complete or without the tokens' part.
    fn embed(&self, rows: &mut RowsMut<'_>) -> Result<()> {
        let embedded = self.sources.frozen.value(Point::model(Site::InputEmbeddings))?;
        self.each_row(rows, |copy, position, row| {
            row.copy_from_slice(embedded.row(position));
            if matches!(copy, Copy::Nothing) {
                subtract(row, self.sources.frozen.tokens().row(position));
            }
        });
        self.remove(None, rows);
        Ok(())
    }

    /// An MLP's output without its skip connection, plus the skip of its present input.
    fn write(&mut self, layer: usize, rows: &mut RowsMut<'_>) -> Result<()> {
        let width = rows.n_columns();
        let written = Matrix::dense(&self.sources.written[layer], self.sources.n_tokens(), width);
        let constant = match &self.sources.places[layer] {
            Some(place) => self.sources.dictionary.layer(place.number)?.constant(),
            None => vec![0.0; width],
        };
        self.each_row(rows, |copy, position, row| match copy {
            Copy::Nothing if position >= self.sources.zeroed => row.copy_from_slice(&constant),
            _ => row.copy_from_slice(written.row(position)),
        });
        if let Some(skipped) = self.skipped.remove(&layer) {
            for (row, skipped) in skipped.chunks_exact(width).enumerate() {
                rows.row_mut(row).iter_mut().zip(skipped).for_each(|(x, skipped)| *x += skipped);
            }
        }
        self.remove(Some(layer), rows);
        Ok(())
    }

    fn each_row(&self, rows: &mut RowsMut<'_>, write: impl Fn(Copy, usize, &mut [f32])) {
        let n_tokens = self.sources.n_tokens();
        for (copy, what) in self.copies.iter().enumerate() {
            (0..n_tokens)
                .for_each(|position| write(*what, position, rows.row_mut(copy * n_tokens + position)));
        }
    }

    /// Subtracts what the removed sources wrote there.
    fn remove(&self, layer: Option<usize>, rows: &mut RowsMut<'_>) {
        let n_tokens = self.sources.n_tokens();
        for (copy, removed) in self.removed.iter().enumerate() {
            for (_, position, vector) in removed.iter().filter(|(at, _, _)| *at == layer) {
                subtract(rows.row_mut(copy * n_tokens + position), vector);
            }
        }
    }
}

fn subtract(from: &mut [f32], what: &[f32]) {
    from.iter_mut().zip(what).for_each(|(x, y)| *x -= y);
}
