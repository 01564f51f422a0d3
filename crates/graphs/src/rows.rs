//! The rows of a graph: what each source contributes to each target.

use std::collections::BTreeMap;

use easyroutine::{Error, Result, Stop, Visitor};
use easyroutine_kernels::{Rows as Matrix, RowsMut};
use easyroutine_sites::{Point, Site};

use crate::graph::Logit;
use crate::influence::reached;
use crate::options::Options;
use crate::sources::{Sources, dot};

/// Rows of all copies walked back together: enough to keep the products busy.
const ROWS_AT_ONCE: usize = 384;
/// Limit on the numbers in all rows together: 8 GiB.
const MOST: usize = 1 << 31;

/// All rows of a graph.
#[derive(Debug)]
pub(crate) struct Rows {
    /// The features that have a row, ascending.
    pub(crate) selected: Vec<usize>,
    pub(crate) logits: Vec<Logit>,
    /// One row for each of them and then for each logit, one column for each source among the selected ones.
    pub(crate) edges: Vec<f32>,
    /// The target of each row.
    pub(crate) targets: Vec<Target>,
}

/// The target of a row: a vector times the activation at a place.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) point: Point,
    pub(crate) position: usize,
    pub(crate) vector: Vec<f32>,
}

/// Computes logits first, then features by their influence so far, if not all get a row.
pub(crate) fn attribute(
    sources: &Sources<'_>,
    options: &Options,
    stop: Stop<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Rows> {
    let logits = logits(sources, options)?;
    let n_features = sources.features.len();
    let n_selected = options.max_features.min(n_features);
    let (columns, n_rows) = (sources.n_columns(), n_selected + logits.len());
    if columns.saturating_mul(n_rows) > MOST {
        return Err(Error::input(format!(
            "{n_rows} rows of {columns} sources take {} GiB",
            columns.saturating_mul(n_rows) >> 28
        ))
        .hint("give fewer features a row with --max-features, or use a shorter prompt"));
    }
    let last = sources.n_tokens() - 1;
    let ids: Vec<u32> = logits.iter().map(|logit| logit.id).collect();
    let of_logit = |vector| Target { point: Point::model(Site::FinalNormOut), position: last, vector };
    let mut targets: Vec<Target> = sources.frozen.logit_vectors(&ids)?.into_iter().map(of_logit).collect();
    let n_logits = targets.len();
    let mut edges = vec![0.0; n_rows * columns];
    let mut done = 0;
    let mut report = |more: usize| {
        done += more;
        progress(done, n_rows);
    };
    back(sources, &targets, None, &mut edges[..n_logits * columns], stop, &mut report)?;

    // Rows in order of computation: logits, then these.
    let mut order: Vec<usize> = Vec::with_capacity(n_selected);
    let mut is_visited = vec![false; n_features];
    while order.len() < n_selected {
        let pending: Vec<usize> = if n_selected == n_features {
            (0..n_features).collect()
        } else {
            let rows = &edges[..(n_logits + order.len()) * columns];
            let influence = reached(rows, columns, &logits, &order);
            let mut ranked: Vec<usize> = (0..n_features).filter(|at| !is_visited[*at]).collect();
            ranked.sort_by(|a, b| influence[*b].total_cmp(&influence[*a]).then(a.cmp(b)));
            ranked.truncate(options.rank_every.min(n_selected - order.len()));
            ranked
        };
        // Targets of similar depth are walked back together: a batch begins at its last layer.
        let mut by_layer = pending.clone();
        by_layer.sort_by_key(|at| (std::cmp::Reverse(sources.features[*at].layer), *at));
        let of_feature = |at: &usize| target(sources, *at);
        let mut start = n_logits + order.len();
        for chunk in by_layer.chunks(copies(sources)) {
            let of_chunk = chunk.iter().map(of_feature).collect::<Result<Vec<Target>>>()?;
            let end = start + chunk.len();
            let from = chunk.iter().map(|at| sources.features[*at].layer).max();
            back(sources, &of_chunk, from, &mut edges[start * columns..end * columns], stop, &mut report)?;
            targets.extend(of_chunk);
            start = end;
        }
        by_layer.iter().for_each(|at| is_visited[*at] = true);
        order.extend(by_layer);
    }
    Ok(sorted(sources, order, logits, &edges, targets))
}

/// The rows in order of their features, logits last, with columns for the selected features only.
fn sorted(
    sources: &Sources<'_>,
    order: Vec<usize>,
    logits: Vec<Logit>,
    edges: &[f32],
    targets: Vec<Target>,
) -> Rows {
    let (columns, n_features, n_logits) = (sources.n_columns(), sources.features.len(), logits.len());
    let mut by_feature: Vec<(usize, usize)> =
        order.iter().enumerate().map(|(row, at)| (*at, n_logits + row)).collect();
    by_feature.sort_unstable();
    let selected: Vec<usize> = by_feature.iter().map(|(at, _)| *at).collect();
    let rows = by_feature.iter().map(|(_, row)| *row).chain(0..n_logits);
    let mut kept = Vec::with_capacity(by_feature.len() * sources.n_columns_of(&selected));
    let mut of_rows = Vec::with_capacity(targets.len());
    for row in rows {
        let row_of = &edges[row * columns..(row + 1) * columns];
        kept.extend(selected.iter().map(|at| row_of[*at]));
        kept.extend_from_slice(&row_of[n_features..]);
        of_rows.push(targets[row].clone());
    }
    Rows { selected, logits, edges: kept, targets: of_rows }
}

/// The explained logits: those given, or the most probable ones up to a total probability.
fn logits(sources: &Sources<'_>, options: &Options) -> Result<Vec<Logit>> {
    let logits = sources.frozen.logits();
    let most = logits.iter().fold(f64::NEG_INFINITY, |most, x| most.max(f64::from(*x)));
    let sum: f64 = logits.iter().map(|x| (f64::from(*x) - most).exp()).sum();
    let logit = |id: usize| Logit { id: id as u32, probability: (f64::from(logits[id]) - most).exp() / sum };
    if let Some(targets) = &options.targets {
        if let Some(id) = targets.iter().find(|id| **id as usize >= logits.len()) {
            let all = logits.len();
            return Err(Error::input(format!("token id {id} is beyond the vocabulary of {all}")));
        }
        return Ok(targets.iter().map(|id| logit(*id as usize)).collect());
    }
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let mut reached = 0.0;
    let mut chosen = Vec::new();
    for id in ids.into_iter().take(options.max_logits) {
        chosen.push(logit(id));
        reached += chosen[chosen.len() - 1].probability;
        if reached >= options.probability {
            break;
        }
    }
    Ok(chosen)
}

fn target(sources: &Sources<'_>, at: usize) -> Result<Target> {
    let feature = sources.features[at];
    let (place, layer) = sources.place_of(feature)?;
    Ok(Target { point: place.reads, position: feature.position, vector: layer.reading(feature.number)? })
}

fn copies(sources: &Sources<'_>) -> usize {
    (ROWS_AT_ONCE / sources.n_tokens()).max(1)
}

/// Walks targets back in batches; `from` is the last layer of any of them.
///
/// # Shapes
/// rows: targets by all sources.
fn back(
    sources: &Sources<'_>,
    targets: &[Target],
    from: Option<usize>,
    rows: &mut [f32],
    stop: Stop<'_>,
    report: &mut dyn FnMut(usize),
) -> Result<()> {
    let columns = sources.n_columns();
    let at_once = copies(sources);
    for (targets, rows) in targets.chunks(at_once).zip(rows.chunks_mut(at_once * columns)) {
        let mut collecting = Collecting { sources, targets, rows, skipped: BTreeMap::new() };
        sources.frozen.back(targets.len(), from, &mut collecting, stop)?;
        report(targets.len());
    }
    Ok(())
}

/// Adds the targets' vectors where they are read, and collects the gradients that reach the sources.
struct Collecting<'a> {
    sources: &'a Sources<'a>,
    targets: &'a [Target],
    rows: &'a mut [f32],
    /// What bypasses an MLP through a skip connection.
    skipped: BTreeMap<Point, Vec<f32>>,
}

impl Visitor for Collecting<'_> {
    fn writes(&self, point: Point) -> bool {
        self.skipped.contains_key(&point) || self.targets.iter().any(|target| target.point == point)
    }

    fn at(&mut self, point: Point, mut rows: RowsMut<'_>) -> Result<()> {
        let n_tokens = self.sources.n_tokens();
        match (point.site(), point.layer()) {
            (Site::MlpOut, Some(layer)) => self.collect(layer, rows.as_rows()),
            (Site::InputEmbeddings, _) => {
                let columns = self.sources.n_columns();
                for (copy, row) in self.rows.chunks_exact_mut(columns).enumerate() {
                    for position in 0..n_tokens {
                        let token = self.sources.frozen.tokens().row(position);
                        let g = rows.row(copy * n_tokens + position);
                        row[self.sources.token_node(position)] = dot(g, token) as f32;
                    }
                }
                Ok(())
            }
            _ => {
                if let Some(skipped) = self.skipped.remove(&point) {
                    let width = rows.n_columns();
                    for (row, skipped) in skipped.chunks_exact(width).enumerate() {
                        rows.row_mut(row).iter_mut().zip(skipped).for_each(|(g, x)| *g += x);
                    }
                }
                for (copy, target) in self.targets.iter().enumerate().filter(|(_, t)| t.point == point) {
                    let row = rows.row_mut(copy * n_tokens + target.position);
                    row.iter_mut().zip(&target.vector).for_each(|(g, x)| *g += x);
                }
                Ok(())
            }
        }
    }
}

impl Collecting<'_> {
    /// Collects the gradients at an MLP's output.
    fn collect(&mut self, layer: usize, g: Matrix<'_>) -> Result<()> {
        let (sources, columns) = (self.sources, self.sources.n_columns());
        let (n_tokens, copies) = (sources.n_tokens(), self.targets.len());
        let cpu = sources.frozen.model().cpu();
        for position in sources.zeroed..n_tokens {
            let Some(group) = sources.groups.get(&(layer, position)) else { continue };
            let of_copies: Vec<f32> =
                (0..copies).flat_map(|copy| g.row(copy * n_tokens + position)).copied().collect();
            let (n, width) = (group.nodes.len(), g.n_columns());
            let mut products = vec![0.0; copies * n];
            let x = Matrix::dense(&of_copies, copies, width);
            cpu.matmul(x, &group.vectors, None, RowsMut::dense(&mut products, copies, n));
            for (row, products) in self.rows.chunks_exact_mut(columns).zip(products.chunks_exact(n)) {
                for (node, product) in group.nodes.iter().zip(products) {
                    row[*node] += product;
                }
            }
        }
        if let Some(place) = &sources.places[layer]
            && let Some(skip) = &place.skip
        {
            let width = skip.backward.outputs();
            let mut through = vec![0.0; g.n_rows() * width];
            let rows = RowsMut::dense(&mut through, g.n_rows(), width);
            cpu.matmul(g, &skip.backward, None, rows);
            self.skipped.insert(place.reads, through);
        }
        Ok(())
    }
}
