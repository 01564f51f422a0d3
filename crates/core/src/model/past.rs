//! What precedes the tokens of a run: keys and values of earlier tokens, and states of recurrences.

use std::collections::BTreeMap;
use std::ops::Range;

use easyroutine_kernels::{Attention, Rows, RowsMut, Sequence};

use super::buffer::Buffer;
use super::states::{Carried, Marks};
use crate::arch::{Arch, Heads};
use crate::batch::Batch;

/// Keys and values of rows whose tokens arrive in pieces, as in generation.
///
/// They are what attention reads: normed, rotated to their positions, and changed by any tap. The cache also holds the
/// states of recurrences after the last tokens.
#[derive(Debug, Clone)]
pub struct KvCache {
    pub(super) rows: Vec<CachedRow>,
    layers: Vec<LayerKeys>,
    /// The states of recurrences after each row's last token, by layer: for each part, rows by its size.
    states: BTreeMap<usize, Carried>,
    /// The states that an unfinished run writes; earlier contents are lost.
    coming: BTreeMap<usize, Carried>,
    /// Positions that each row has room for.
    capacity: usize,
}

/// One row of a cache.
#[derive(Debug, Clone, Default)]
pub(super) struct CachedRow {
    pub(super) ids: Vec<u32>,
    /// How many of its tokens have keys and values; the others are run again.
    pub(super) kept: usize,
}

/// Keys and values of one layer.
#[derive(Debug, Clone)]
struct LayerKeys {
    /// Rows by capacity by keys, then values, of every head.
    values: Vec<f32>,
    /// The stored key and value heads: the layer's own, or one per query head if a tap changed them separately; none
    /// for a layer without keys.
    heads: Heads,
}

impl LayerKeys {
    /// Numbers per token.
    fn width(&self) -> usize {
        self.heads.keys() + self.heads.values()
    }
}

/// The past of a run.
#[derive(Debug)]
pub(crate) enum Past<'a> {
    /// Each row starts at position 0.
    Nothing,
    /// Each row continues one of the cache, which stores its keys and values.
    Own(&'a mut KvCache),
    /// Each row continues the beginning of a row that was run before, and is not continued itself.
    Shared(Shared<'a>),
    /// Each row starts at position 0, and states of recurrences are recorded.
    Marked(&'a mut Marks),
}

/// Beginnings of rows that were run before.
#[derive(Debug)]
pub(crate) struct Shared<'a> {
    pub(crate) cache: &'a KvCache,
    /// For each row of the batch, the row of the cache that it continues.
    pub(crate) rows: &'a [usize],
    /// The states of a layer's recurrence at the position from which each row of the batch continues.
    pub(crate) states: &'a BTreeMap<usize, Carried>,
    /// Scratch for one layer's keys and values.
    pub(crate) joined: &'a mut Buffer,
}

impl KvCache {
    /// An empty cache for a number of rows.
    pub fn new(arch: &Arch, n_rows: usize) -> Self {
        let layer = |number: usize| {
            let (heads, attention) = (arch.heads(number), &arch.layers[number].attention);
            let keeps = attention.as_ref().is_some_and(|attention| attention.keys_of.is_none());
            LayerKeys { values: Vec::new(), heads: if keeps { heads } else { Heads { n_kv: 0, ..heads } } }
        };
        KvCache {
            rows: vec![CachedRow::default(); n_rows],
            layers: (0..arch.layers.len()).map(layer).collect(),
            states: BTreeMap::new(),
            coming: BTreeMap::new(),
            capacity: 0,
        }
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.rows.len()
    }

    /// The tokens of a row so far.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.rows[row].ids
    }

    /// Makes room for rows of this length, growing by at least half, so that adding one token at a time copies little.
    pub(super) fn reserve(&mut self, length: usize) {
        if length <= self.capacity {
            return;
        }
        let capacity = length.max(self.capacity + self.capacity / 2);
        for layer in &mut self.layers {
            let width = layer.width();
            let mut grown = vec![0.0; self.rows.len() * capacity * width];
            for (number, row) in self.rows.iter().enumerate() {
                let (from, to) = (number * self.capacity * width, number * capacity * width);
                let kept = row.kept * width;
                grown[to..to + kept].copy_from_slice(&layer.values[from..from + kept]);
            }
            layer.values = grown;
        }
        self.capacity = capacity;
    }

    /// Stores a layer's keys and values with this number of heads.
    fn spread(&mut self, layer: usize, n_kv: usize) {
        let keys = &mut self.layers[layer];
        let heads = Heads { n_kv, ..keys.heads };
        if keys.heads == heads {
            return;
        }
        let (width, wide) = (keys.width(), heads.keys() + heads.values());
        let mut spread = vec![0.0; keys.values.len() / width * wide];
        for (from, to) in keys.values.chunks_exact(width).zip(spread.chunks_exact_mut(wide)) {
            copy_heads(from, keys.heads, to, heads);
        }
        *keys = LayerKeys { values: spread, heads };
    }

    /// Whether a layer with attention stores keys per query head, so that new ones must be stored alike.
    pub(super) fn is_of_query_heads(&self, layer: usize, n_kv_heads: usize) -> bool {
        self.layers[layer].heads.n_kv != n_kv_heads
    }

    /// Keys, then values, of one token.
    fn token(&self, layer: usize, row: usize, position: usize) -> &[f32] {
        let keys = &self.layers[layer];
        &keys.values[(row * self.capacity + position) * keys.width()..][..keys.width()]
    }
}

impl Past<'_> {
    /// Whether a layer stores keys per query head.
    pub(super) fn is_of_query_heads(&self, layer: usize, n_kv_heads: usize) -> bool {
        match self {
            Past::Nothing | Past::Marked(_) => false,
            Past::Own(cache) => cache.is_of_query_heads(layer, n_kv_heads),
            Past::Shared(shared) => shared.cache.is_of_query_heads(layer, n_kv_heads),
        }
    }

    /// The rows of a batch as attention sees them.
    pub(super) fn sequences(&self, batch: &Batch) -> Vec<Sequence> {
        let mut end = 0;
        let keys = |row: usize| match self {
            Past::Nothing | Past::Marked(_) => batch.span(row),
            Past::Own(cache) => {
                let start = row * cache.capacity;
                start..start + batch.length(row)
            }
            Past::Shared(_) => {
                let start = end;
                end += batch.length(row);
                start..end
            }
        };
        let keys: Vec<_> = (0..batch.n_rows()).map(keys).collect();
        batch.spans().zip(keys).map(|(queries, keys)| Sequence { queries, keys }).collect()
    }

    /// Stores keys and values of the batch's tokens.
    ///
    /// # Shapes
    /// `fresh`: keys and values, tokens by heads · h.
    pub(super) fn keep(&mut self, layer: usize, batch: &Batch, heads: usize, fresh: [Rows<'_>; 2]) {
        let middle = fresh[0].n_columns();
        let width = middle + fresh[1].n_columns();
        let write = |token: usize, to: &mut [f32]| {
            to[..middle].copy_from_slice(fresh[0].row(token));
            to[middle..width].copy_from_slice(fresh[1].row(token));
        };
        match self {
            Past::Nothing | Past::Marked(_) => {}
            Past::Own(cache) => {
                cache.spread(layer, heads);
                let capacity = cache.capacity;
                let values = &mut cache.layers[layer].values;
                for row in 0..batch.n_rows() {
                    for (i, token) in batch.span(row).enumerate() {
                        let at = (row * capacity + batch.first(row) + i) * width;
                        write(token, &mut values[at..at + width]);
                    }
                }
            }
            Past::Shared(Shared { cache, rows, joined, .. }) => {
                let lengths = (0..batch.n_rows()).map(|row| batch.length(row));
                joined.resize(lengths.sum(), width);
                let mut out: RowsMut<'_> = joined.rows_mut();
                let mut end = 0;
                for (row, shared) in rows.iter().enumerate() {
                    for position in 0..batch.first(row) {
                        let stored = cache.token(layer, *shared, position);
                        let from = cache.layers[layer].heads;
                        copy_heads(stored, from, out.row_mut(end + position), Heads { n_kv: heads, ..from });
                    }
                    let start = end + batch.first(row);
                    batch.span(row).enumerate().for_each(|(i, token)| write(token, out.row_mut(start + i)));
                    end += batch.length(row);
                }
            }
        }
    }

    /// Keys and values of whole rows of a layer that was just stored, numbered as by [`Past::sequences`]; `None` if the
    /// batch's tokens have no past.
    ///
    /// # Shapes
    /// Keys and values: tokens by their columns.
    pub(super) fn keys(&self, layer: usize, spec: &Attention) -> Option<[Rows<'_>; 2]> {
        let joined = match self {
            Past::Nothing | Past::Marked(_) => return None,
            Past::Own(cache) => {
                let (values, width) = (&cache.layers[layer].values, cache.layers[layer].width());
                Rows::dense(values, values.len() / width, width)
            }
            Past::Shared(Shared { joined, .. }) => joined.rows(),
        };
        let middle = spec.n_kv_heads * spec.d_head;
        Some([joined.columns(0..middle), joined.columns(middle..joined.n_columns())])
    }
}

impl KvCache {
    /// Adopts the states written by a run, once it has gone through all recurrences.
    pub(super) fn take_coming(&mut self) {
        std::mem::swap(&mut self.states, &mut self.coming);
    }
}

impl Past<'_> {
    /// The state of a layer's recurrence before a row's first token in the batch; `None` if the row starts there.
    /// `part` is 0 for the convolution, 1 for the state.
    pub(super) fn state(&self, layer: usize, batch: &Batch, row: usize, part: usize) -> Option<&[f32]> {
        let first = batch.first(row);
        if first == 0 {
            return None;
        }
        match self {
            Past::Nothing | Past::Marked(_) => None,
            Past::Own(cache) => {
                let Carried(parts) = cache.states.get(&layer)?;
                let size = parts[part].len() / batch.n_rows();
                Some(&parts[part][row * size..(row + 1) * size])
            }
            Past::Shared(shared) => shared.states.get(&first).map(|Carried(parts)| parts[part].as_slice()),
        }
    }

    /// Stores the states of a layer's recurrence by swapping buffers.
    ///
    /// # Shapes
    /// Each of `states`: rows by its size.
    pub(super) fn keep_states(&mut self, layer: usize, states: &mut [Vec<f32>; 2]) {
        if let Past::Own(cache) = self {
            std::mem::swap(&mut cache.coming.entry(layer).or_default().0, states);
        }
    }

    /// The rows of a batch in the pieces between which states are recorded, and whether each piece begins its row.
    pub(super) fn pieces(&self, batch: &Batch) -> Vec<Vec<(Range<usize>, bool)>> {
        let whole = || -> Vec<(Range<usize>, bool)> {
            (0..batch.n_rows()).map(|row| (batch.span(row), batch.first(row) == 0)).collect()
        };
        let Past::Marked(marks) = self else { return vec![whole()] };
        // One row, from its beginning to the last mark.
        let mut start = 0;
        let pieces = marks.positions.iter().filter(|position| **position > 0).map(|position| {
            let piece = (start..*position, start == 0);
            start = *position;
            vec![piece]
        });
        pieces.collect()
    }

    /// Records the state at the end of a piece.
    pub(super) fn mark(&mut self, end: usize, part: usize, values: &[f32]) {
        if let Past::Marked(marks) = self {
            marks.found.entry(end).or_default().0[part] = values.to_vec();
        }
    }
}

/// Copies keys, then values, of one token; each stored head to all heads that share it.
fn copy_heads(from: &[f32], stored: Heads, to: &mut [f32], heads: Heads) {
    if stored == heads {
        return to.copy_from_slice(from);
    }
    let group = heads.n_kv / stored.n_kv;
    let (keys, values) = from.split_at(stored.keys());
    let (to_keys, to_values) = to.split_at_mut(heads.keys());
    for head in 0..heads.n_kv {
        to_keys[heads.of_query(head)].copy_from_slice(&keys[heads.of_query(head / group)]);
        to_values[heads.of_value(head)].copy_from_slice(&values[heads.of_value(head / group)]);
    }
}
