//! Keys in the micro-kernel's layout: 32 keys side by side.

use super::plan::is_laid_out;
use super::{Attention, Sequence};
use crate::shared::SharedRows;
use crate::vector::PANEL;
use crate::{Cpu, Rows, scratch};
use std::ops::Range;

/// The keys of a call.
pub(super) struct Keys<'a> {
    k: Rows<'a>,
    sequences: &'a [Sequence],
    d_head: usize,
    /// The key heads laid out.
    heads: Range<usize>,
    /// Where each sequence's panels start among those of one head; the last entry is the end.
    starts: Vec<usize>,
    /// # Shapes
    /// `[heads, panels, d_head, PANEL]`.
    panels: &'a [f32],
}

impl Keys<'_> {
    /// Lays out the keys of sequences with many queries, and calls `f`.
    pub(super) fn with(
        cpu: &Cpu,
        spec: &Attention,
        k: Rows<'_>,
        heads: Range<usize>,
        sequences: &[Sequence],
        f: impl FnOnce(&Keys<'_>),
    ) {
        let mut starts = vec![0];
        let mut n_panels = 0;
        for sequence in sequences {
            n_panels += if is_laid_out(sequence) { sequence.keys.len().div_ceil(PANEL) } else { 0 };
            starts.push(n_panels);
        }
        let len = spec.d_head * PANEL;
        let keys = Keys { k, sequences, d_head: spec.d_head, heads, starts, panels: &[] };
        let n_all = n_panels * keys.heads.len();
        scratch::with(n_all * len, |panels: &mut [f32]| {
            let shared = SharedRows::dense(panels, n_all, len);
            cpu.for_rows(n_all, len, |range| {
                for index in range {
                    let (head, panel) = (index / n_panels, index % n_panels);
                    // The last sequence that starts at or before the panel: a sequence without panels starts where the
                    // next one does.
                    let sequence = keys.starts.partition_point(|start| *start <= panel) - 1;
                    // SAFETY: `for_rows` gives each panel to one task, once.
                    let out = unsafe { shared.part(index, 0..len) };
                    keys.lay_out(sequence, keys.heads.start + head, panel - keys.starts[sequence], out);
                }
            });
            f(&Keys { panels, ..keys });
        });
    }

    /// Panel number `panel` of a sequence's keys for a key head: already laid out, or laid out now in `place`.
    ///
    /// # Shapes
    /// place, result: `[d_head, PANEL]`.
    pub(super) fn panel<'b>(
        &'b self,
        sequence: usize,
        head: usize,
        panel: usize,
        place: &'b mut [f32],
    ) -> &'b [f32] {
        if !is_laid_out(&self.sequences[sequence]) {
            self.lay_out(sequence, head, panel, place);
            return place;
        }
        let per_head = self.starts[self.sequences.len()];
        let index = (head - self.heads.start) * per_head + self.starts[sequence] + panel;
        let len = self.d_head * PANEL;
        &self.panels[index * len..][..len]
    }

    fn lay_out(&self, sequence: usize, head: usize, panel: usize, out: &mut [f32]) {
        let keys = &self.sequences[sequence].keys;
        let first = keys.start + panel * PANEL;
        for column in 0..PANEL {
            let key = first + column;
            if key >= keys.end {
                // Scores of padding columns are computed but never used.
                out.chunks_exact_mut(PANEL).for_each(|row| row[column] = 0.0);
                continue;
            }
            let values = &self.k.row(key)[head * self.d_head..][..self.d_head];
            for (row, value) in out.chunks_exact_mut(PANEL).zip(values) {
                row[column] = *value;
            }
        }
    }
}
