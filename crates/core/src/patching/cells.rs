//! Cells of a sweep as rows of one batch, each run only from the block and position of its change on.
//!
//! Where blocks read more than the stream that enters them (Gemma 4's further inputs of each layer, keys of an earlier
//! layer), each runs whole.

use std::collections::{BTreeMap, BTreeSet};

use easyroutine_sites::{Point, Site};

use crate::batch::Batch;
use crate::edit::{Edits, RowAction};
use crate::error::Result;
use crate::logits::LastLogits;
use crate::model::{Buffer, Carried, KvCache, Model, Shared};
use crate::pass::At;
use crate::tap::{Tap, Value, Want};

/// Tokens run at a time: enough for full arithmetic speed, few enough for memory.
const TOKENS: usize = 2048;

/// Rows whose logits are held at a time: those of all cells together would be the largest array of a sweep.
const ROWS: usize = 32;

/// Changes made to the row together.
#[derive(Debug)]
pub(super) struct Cell<'a> {
    changes: Vec<Change<'a>>,
    /// The first block whose run differs from the unchanged one.
    start: usize,
    /// The first changed position: earlier tokens stay the same.
    first: usize,
}

/// One change to the row.
#[derive(Debug)]
struct Change<'a> {
    point: Point,
    /// Ascending.
    positions: &'a [usize],
    action: RowAction<'a>,
}

/// The unchanged run, shared by all cells.
pub(super) struct Unchanged<'a> {
    model: &'a Model,
    row: &'a [u32],
    /// Keys and values of every layer.
    cache: KvCache,
    /// The stream that enters each block, tokens by `d_model`.
    streams: Vec<Vec<f32>>,
    /// Logits at the last token.
    pub(super) logits: Vec<f32>,
}

impl<'a> Cell<'a> {
    /// A change of whole vectors at a point of a block.
    pub(super) fn new(model: &Model, point: Point, positions: &'a [usize], action: RowAction<'a>) -> Self {
        Cell::of(model, [(point, positions, action)])
    }

    /// Several such changes, made together.
    pub(super) fn of(
        model: &Model,
        changes: impl IntoIterator<Item = (Point, &'a [usize], RowAction<'a>)>,
    ) -> Self {
        let n_layers = model.arch().layers.len();
        let change = |(point, positions, action): (Point, &'a [usize], RowAction<'a>)| {
            // A block's output is the next block's input: the block itself need not run again.
            let next = point.layer().map(|layer| layer + 1).filter(|next| *next < n_layers);
            let point = match (point.site(), next) {
                (Site::ResidOut, Some(next)) => Point::layer_of(Site::ResidIn, next),
                _ => point,
            };
            Change { point, positions, action }
        };
        let changes: Vec<Change<'a>> = changes.into_iter().map(change).collect();
        let start = changes.iter().filter_map(|change| change.point.layer()).min().unwrap_or(0);
        let first = changes.iter().filter_map(|change| change.positions.first()).min().copied().unwrap_or(0);
        Cell { changes, start, first }
    }
}

impl Change<'_> {
    fn push(&self, edits: &mut Edits, row: usize) -> Result<()> {
        edits.push(self.point.canonical(), row, self.positions, self.action)
    }
}

impl<'a> Unchanged<'a> {
    pub(super) fn run(model: &'a Model, row: &'a [u32]) -> Result<Self> {
        let mut cache = KvCache::new(model.arch(), 1);
        let mut taps = (Streams(Vec::new()), LastLogits::of(0..1));
        model.forward_cached(&[row], &mut cache, &mut taps)?;
        let (streams, mut logits) = (taps.0.0, taps.1.logits);
        Ok(Unchanged { model, row, cache, streams, logits: logits.pop().flatten().unwrap_or_default() })
    }

    /// Calls `each` with every cell's index and its logits at the last token.
    pub(super) fn change(
        &self,
        cells: &[Cell<'_>],
        mut each: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        if self.model.arch().reads_across_blocks().is_some() {
            return self.change_whole(cells, &mut each);
        }
        let mut order: Vec<usize> = (0..cells.len()).collect();
        order.sort_by_key(|i| cells[*i].start);
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |i: &&usize| {
                tokens += self.row.len() - cells[**i].first;
                tokens <= TOKENS
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (group, later) = rest.split_at(count);
            self.change_at_once(cells, group, &mut each)?;
            rest = later;
        }
        Ok(())
    }

    /// Runs cells from the first block and token on, as the rows of batches.
    fn change_whole(
        &self,
        cells: &[Cell<'_>],
        each: &mut impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let at_once = (TOKENS / self.row.len().max(1)).clamp(1, ROWS);
        for (group, part) in cells.chunks(at_once).enumerate() {
            let mut edits = Edits::default();
            for (row, cell) in part.iter().enumerate() {
                cell.changes.iter().try_for_each(|change| change.push(&mut edits, row))?;
            }
            let batch = Batch::new(&vec![self.row; part.len()])?;
            let mut taps = (edits, LastLogits::of(0..part.len()));
            self.model.forward(&batch, &mut taps)?;
            for (row, logits) in taps.1.logits.iter().flatten().enumerate() {
                each(group * at_once + row, logits)?;
            }
        }
        Ok(())
    }

    /// Runs a group of cells, ordered by starting block, as the rows of one batch.
    fn change_at_once(
        &self,
        cells: &[Cell<'_>],
        group: &[usize],
        each: &mut impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let (model, d_model) = (self.model, self.model.arch().d_model);
        let (mut stream, mut joined) = (Buffer::default(), Buffer::default());
        stream.resize(0, d_model);
        let mut batch = Batch::continuing([]);
        for layer in cells[group[0]].start..model.arch().layers.len() {
            let begun = batch.n_rows();
            let active = group.iter().take_while(|i| cells[**i].start <= layer).count();
            if active > begun {
                let firsts = group[..active].iter().map(|i| cells[*i].first);
                batch = Batch::continuing(firsts.map(|first| (first, &self.row[first..])));
                let mut grown = Buffer::default();
                grown.resize(batch.n_tokens(), d_model);
                let old = stream.rows().n_rows();
                (0..old).for_each(|t| grown.rows_mut().row_mut(t).copy_from_slice(stream.rows().row(t)));
                for row in begun..active {
                    for (i, token) in batch.span(row).enumerate() {
                        let at = (batch.first(row) + i) * d_model;
                        let stored = &self.streams[layer][at..at + d_model];
                        grown.rows_mut().row_mut(token).copy_from_slice(stored);
                    }
                }
                stream = grown;
            }
            let mut edits = Edits::default();
            for (row, i) in group[..active].iter().enumerate() {
                let mut of_layer =
                    cells[*i].changes.iter().filter(|change| change.point.layer() == Some(layer));
                of_layer.try_for_each(|change| change.push(&mut edits, row))?;
            }
            let rows = vec![0; active];
            let states = self.states(layer, &batch)?;
            let shared = Shared { cache: &self.cache, rows: &rows, states: &states, joined: &mut joined };
            model.run_sections([At::Block(layer)], &batch, shared, &mut stream, &mut edits)?;
        }
        for part in (0..group.len()).step_by(ROWS) {
            let of = part..group.len().min(part + ROWS);
            let rows = vec![0; group.len()];
            let states = BTreeMap::new();
            let shared = Shared { cache: &self.cache, rows: &rows, states: &states, joined: &mut joined };
            let mut last = LastLogits::of(of.clone());
            model.run_sections([At::Unembedding], &batch, shared, &mut stream, &mut last)?;
            for (row, logits) in of.zip(last.logits.iter().flatten()) {
                each(group[row], logits)?;
            }
        }
        Ok(())
    }
}

impl Unchanged<'_> {
    /// The unchanged run's states of a layer's recurrence before the first token of each batch row.
    fn states(&self, layer: usize, batch: &Batch) -> Result<BTreeMap<usize, Carried>> {
        let firsts: BTreeSet<usize> = (0..batch.n_rows()).map(|row| batch.first(row)).collect();
        let firsts: Vec<usize> = firsts.into_iter().filter(|first| *first > 0).collect();
        self.model.states_at(layer, self.row, &self.streams[layer], &firsts)
    }
}

/// Keeps the stream that enters each block.
struct Streams(Vec<Vec<f32>>);

impl Tap for Streams {
    fn wants(&self, point: Point) -> Want {
        if point.site() == Site::ResidIn { Want::Read } else { Want::Nothing }
    }

    fn at(&mut self, _: Point, value: &mut Value<'_>) -> Result<()> {
        let stream = value.matrix(0).into_iter().flat_map(|m| (0..m.n_rows()).flat_map(move |i| m.row(i)));
        self.0.push(stream.copied().collect());
        Ok(())
    }
}
