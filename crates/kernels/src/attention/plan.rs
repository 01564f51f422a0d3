//! How attention is divided into blocks of query rows.

use super::{Attention, Sequence};
use crate::Cpu;
use crate::vector::TILE_ROWS;
use std::ops::Range;

/// Fewer multiplications than this are not worth waking another thread.
const LEAST_WORK: usize = 128 * 1024;

/// Consecutive queries of one sequence.
#[derive(Clone)]
pub(super) struct Block {
    /// The sequence's index.
    pub(super) sequence: usize,
    /// Its first query.
    pub(super) first: usize,
    /// How many queries, at most [`TILE_ROWS`].
    pub(super) rows: usize,
    /// Where the sequence's part of a pattern starts.
    start: usize,
}

/// The blocks of a batch.
pub(super) struct Plan<'a> {
    sequences: &'a [Sequence],
    blocks: Vec<Block>,
    entries: usize,
    /// Query heads that share keys.
    heads_per_key: usize,
    d_head: usize,
}

impl Block {
    /// The block's part of a pattern.
    pub(super) fn entries(&self, sequences: &[Sequence]) -> Range<usize> {
        let keys = sequences[self.sequence].keys.len();
        let start = self.start + self.first * keys;
        start..start + self.rows * keys
    }

    /// The keys that each of its rows may see; both ends of the ranges ascend.
    pub(super) fn visible(&self, spec: &Attention, sequence: &Sequence) -> [Range<usize>; TILE_ROWS] {
        let last = self.rows - 1;
        std::array::from_fn(|row| spec.visible(sequence, self.first + row.min(last)))
    }
}

impl<'a> Plan<'a> {
    /// Divides a batch. Within a sequence, blocks with many keys come first, so that no long one is left at the end.
    ///
    /// # Panics
    /// If a sequence has more queries than keys, or the pattern would be larger than memory.
    pub(super) fn new(spec: &Attention, sequences: &'a [Sequence]) -> Plan<'a> {
        let mut blocks = Vec::new();
        let mut entries = 0_usize;
        for (index, Sequence { queries, keys }) in sequences.iter().enumerate() {
            assert!(queries.len() <= keys.len(), "{} queries on {} keys", queries.len(), keys.len());
            let count = queries.len().div_ceil(TILE_ROWS);
            for part in (0..count).rev() {
                let first = part * TILE_ROWS;
                let rows = TILE_ROWS.min(queries.len() - first);
                blocks.push(Block { sequence: index, first, rows, start: entries });
            }
            let size = queries.len().checked_mul(keys.len()).and_then(|size| size.checked_add(entries));
            let Some(size) = size else { panic!("a pattern of {} keys overflows memory", keys.len()) };
            entries = size;
        }
        let heads_per_key = spec.n_heads / spec.n_kv_heads;
        Plan { sequences, blocks, entries, heads_per_key, d_head: spec.d_head }
    }

    /// # Panics
    /// If a sequence reaches beyond these numbers of queries or keys, or two share a query.
    pub(super) fn check_rows(&self, queries: usize, keys: usize) {
        let mut taken: Vec<&Range<usize>> = self.sequences.iter().map(|sequence| &sequence.queries).collect();
        taken.retain(|range| !range.is_empty());
        taken.sort_by_key(|range| range.start);
        assert!(taken.is_sorted_by(|a, b| a.end <= b.start), "two sequences share a query");
        for sequence in self.sequences {
            assert!(sequence.queries.end <= queries, "queries to {} of {queries}", sequence.queries.end);
            assert!(sequence.keys.end <= keys, "keys to {} of {keys}", sequence.keys.end);
        }
    }

    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Size of one head's pattern.
    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    /// Every block with every head. Heads that share keys stay together while there is work for all threads, because
    /// each task lays the keys out again.
    pub(super) fn with_heads(&self, threads: usize, heads: Range<usize>) -> Vec<(Block, Range<usize>)> {
        let together = self.blocks.len() * (heads.len() / self.heads_per_key) >= threads;
        let mut tasks = Vec::new();
        for block in &self.blocks {
            let alone = is_laid_out(&self.sequences[block.sequence]) || !together;
            let count = if alone { 1 } else { self.heads_per_key };
            let groups = (heads.start / count..heads.end.div_ceil(count))
                .map(|group| (group * count).max(heads.start)..((group + 1) * count).min(heads.end));
            tasks.extend(groups.map(|heads| (block.clone(), heads)));
        }
        tasks
    }

    /// Runs tasks that together compute this many heads.
    pub(super) fn for_each(&self, cpu: &Cpu, heads: usize, tasks: usize, task: impl Fn(usize) + Sync) {
        if self.entries.saturating_mul(self.d_head).saturating_mul(heads) < LEAST_WORK {
            (0..tasks).for_each(task);
        } else {
            cpu.for_each(tasks, task);
        }
    }
}

/// Whether a sequence's keys are laid out in advance: only if several blocks will use them.
pub(super) fn is_laid_out(sequence: &Sequence) -> bool {
    sequence.queries.len() > TILE_ROWS
}
