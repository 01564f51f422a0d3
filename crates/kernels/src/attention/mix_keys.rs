//! The transpose of mixing: what queries add to keys, by a pattern or its gradient.

use super::mix::{Pattern, Source, are_finite};
use super::{Attention, Sequence};
use crate::shared::SharedRows;
use crate::vector::{PANEL, TILE_ROWS, Vector, Work};
use crate::{Cpu, Rows, RowsMut, scratch};
use std::ops::Range;

/// Consecutive keys of one sequence.
struct KeyBlock {
    sequence: usize,
    first: usize,
    rows: usize,
    /// Where the sequence's part of the square starts.
    start: usize,
}

impl Attention {
    /// The queries of a sequence that see a key.
    fn seen_by(&self, sequence: &Sequence, key: usize) -> Range<usize> {
        let earlier = sequence.keys.len() - sequence.queries.len();
        let end = self.window.map_or(usize::MAX, |window| (key + window).saturating_sub(earlier));
        let start = key.saturating_sub(earlier);
        start..sequence.queries.len().min(end).max(start)
    }
}

impl Cpu {
    /// Adds to each key's columns of this head in `out` the sum Σ square(query, key) · x(query) over the queries that
    /// see the key: the transpose of [`Cpu::attention_mix`]. Other columns of `out` and keys of no sequence stay
    /// unchanged.
    ///
    /// # Shapes
    /// square: as of [`Cpu::attention_softmax`]; x: `[queries, n_heads * d_value]`; out: `[keys, n_heads * d_value]`.
    ///
    /// # Panics
    /// As for [`Cpu::attention_mix`], and if two sequences share a key.
    pub fn attention_mix_keys(
        &self,
        spec: &Attention,
        head: usize,
        square: &[f32],
        x: Rows<'_>,
        sequences: &[Sequence],
        out: RowsMut<'_>,
    ) {
        let plan = self.plan(spec, head, sequences, square.len());
        let width = spec.n_heads * spec.d_value;
        assert_eq!(
            (x.n_columns(), out.n_columns()),
            (width, width),
            "columns of what is mixed, and of the result"
        );
        plan.check_rows(x.n_rows(), out.n_rows());
        let mut taken: Vec<&Range<usize>> = sequences.iter().map(|sequence| &sequence.keys).collect();
        taken.sort_by_key(|range| range.start);
        assert!(taken.is_sorted_by(|a, b| a.end <= b.start), "two sequences share a key");
        let mut blocks = Vec::new();
        let mut start = 0;
        for (index, sequence) in sequences.iter().enumerate() {
            let keys = sequence.keys.len();
            // Most queries see the early keys, so these come first.
            blocks.extend((0..keys).step_by(TILE_ROWS).map(|first| KeyBlock {
                sequence: index,
                first,
                rows: TILE_ROWS.min(keys - first),
                start,
            }));
            start += sequence.queries.len() * keys;
        }
        let out = SharedRows::new(out);
        plan.for_each(self, 1, blocks.len(), |task| {
            let block = &blocks[task];
            let sequence = &sequences[block.sequence];
            let queries = seen_by_any(spec, sequence, block);
            scratch::with(block.rows * queries.len(), |turned: &mut [f32]| {
                self.run(MixedKeys { spec, head, square, x, sequence, block, queries, turned, out: &out });
            });
        });
    }
}

fn seen_by_any(spec: &Attention, sequence: &Sequence, block: &KeyBlock) -> Range<usize> {
    let first = spec.seen_by(sequence, block.first);
    let last = spec.seen_by(sequence, block.first + block.rows - 1);
    first.start..last.end.max(first.start)
}

struct MixedKeys<'a> {
    spec: &'a Attention,
    head: usize,
    square: &'a [f32],
    x: Rows<'a>,
    sequence: &'a Sequence,
    block: &'a KeyBlock,
    queries: Range<usize>,
    /// Scratch for the block's columns of the square, as rows.
    turned: &'a mut [f32],
    out: &'a SharedRows<'a>,
}

impl Work for MixedKeys<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let MixedKeys { spec, head, square, x, sequence, block, queries, turned, out } = self;
        let (stride, keys) = (queries.len(), sequence.keys.len());
        turned.fill(0.0);
        for row in 0..block.rows {
            for query in spec.seen_by(sequence, block.first + row) {
                turned[row * stride + query - queries.start] =
                    square[block.start + query * keys + block.first + row];
            }
        }
        let pattern = Pattern { values: turned, first_key: queries.start, stride };
        let columns = spec.value_columns(head);
        for offset in (0..spec.d_value).step_by(PANEL) {
            let width = PANEL.min(spec.d_value - offset);
            let columns = columns.start + offset..columns.start + offset + width;
            let source = Source {
                values: x.rows(sequence.queries.clone()),
                columns: columns.clone(),
                pattern: &pattern,
            };
            let mut sums = [0.0; TILE_ROWS * PANEL];
            source.add(v, 0..block.rows, queries.clone(), &mut sums);
            if !are_finite(&sums) {
                // A query that does not see a key adds zero times its vector, which is wrong if that is infinite or
                // NaN.
                sums.fill(0.0);
                for row in 0..block.rows {
                    source.add(v, row..row + 1, spec.seen_by(sequence, block.first + row), &mut sums);
                }
            }
            for (row, sums) in sums.chunks_exact(PANEL).take(block.rows).enumerate() {
                let row = sequence.keys.start + block.first + row;
                // SAFETY: blocks have different keys, which no two sequences share.
                let out = unsafe { out.part(row, columns.clone()) };
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
            }
        }
    }
}
