//! Attention of one block of queries: scores, softmax and mix, without leaving the cache.

use super::keys::Keys;
use super::mix::{Pattern, mix};
use super::plan::Block;
use super::scores::{Layout, score_panel};
use super::softmax::softmax;
use super::{Attention, Sequence};
use crate::shared::SharedRows;
use crate::vector::{Element, PANEL, Vector, Work};
use crate::{Cpu, Rows, scratch};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Shared by all blocks of a call.
pub(super) struct Call<'a, O> {
    pub(super) inputs: Inputs<'a>,
    pub(super) z: &'a SharedRows<'a, O>,
}

/// The arrays that blocks read, and where patterns are kept.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) spec: &'a Attention,
    pub(super) q: Rows<'a>,
    pub(super) keys: &'a Keys<'a>,
    pub(super) v: Rows<'a>,
    pub(super) sequences: &'a [Sequence],
    pub(super) kept: Option<&'a Kept<'a>>,
}

/// Where patterns are kept.
pub(super) struct Kept<'a> {
    /// The heads of the call. Tasks may compute other heads as well, whose patterns are dropped.
    pub(super) heads: Range<usize>,
    /// One per head.
    ///
    /// # Shapes
    /// `[1, entries]`, every one of which belongs to a block.
    pub(super) patterns: Vec<SharedRows<'a, MaybeUninit<f32>>>,
}

/// The work of one block for heads that share keys.
pub(super) struct HeadBlock<'a, O> {
    pub(super) call: &'a Call<'a, O>,
    pub(super) block: &'a Block,
    pub(super) heads: Range<usize>,
}

impl<O: Element> HeadBlock<'_, O> {
    pub(super) fn run_on(self, cpu: &Cpu) {
        let spec = self.call.inputs.spec;
        let layout = Layout::new(spec, &self.call.inputs.sequences[self.block.sequence], self.block);
        let len = spec.d_head * PANEL + self.heads.len() * self.block.rows * layout.stride;
        scratch::with(len, |room: &mut [f32]| cpu.run(HeadBlockIn { work: self, layout, room }));
    }
}

struct HeadBlockIn<'a, O> {
    work: HeadBlock<'a, O>,
    layout: Layout,
    /// Scratch: a panel of keys, then each head's scores.
    room: &'a mut [f32],
}

impl<O: Element> Work for HeadBlockIn<'_, O> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let HeadBlockIn { work: HeadBlock { call, block, heads }, layout, room } = self;
        let Inputs { spec, q, keys, v: values, sequences, kept } = call.inputs;
        let sequence = &sequences[block.sequence];
        let first_query = sequence.queries.start + block.first;
        let (place, scores) = room.split_at_mut(spec.d_head * PANEL);
        let per_head = block.rows * layout.stride;
        for panel in 0..layout.panels {
            let index = layout.first_key / PANEL + panel;
            let keys = keys.panel(block.sequence, spec.kv_head(heads.start), index, place);
            for (head, scores) in heads.clone().zip(scores.chunks_exact_mut(per_head)) {
                score_panel(v, spec, head, &q, first_query, block.rows, keys, &layout, panel, scores);
            }
        }
        let visible = block.visible(spec, sequence);
        let end = visible[block.rows - 1].end - layout.first_key;
        for (head, scores) in heads.zip(scores.chunks_exact_mut(per_head)) {
            let sink = spec.sinks.as_ref().map(|sinks| sinks[head]);
            for (row, visible) in scores.chunks_exact_mut(layout.stride).zip(&visible) {
                let columns = visible.start - layout.first_key..visible.end - layout.first_key;
                row[..columns.start].fill(0.0);
                row[columns.end..end].fill(0.0);
                softmax(v, &mut row[columns], sink);
            }
            let pattern = Pattern { values: scores, first_key: layout.first_key, stride: layout.stride };
            mix(v, spec, head, sequence, block, &pattern, values, call.z);
            if let Some(kept) = kept {
                kept.keep(head, block, sequences, &pattern, end);
            }
        }
    }
}

impl Kept<'_> {
    /// Copies a block's part of a head's pattern; columns from `end` on are all zero.
    fn keep(&self, head: usize, block: &Block, sequences: &[Sequence], pattern: &Pattern<'_>, end: usize) {
        let keys = sequences[block.sequence].keys.len();
        // SAFETY: heads are different rows, blocks different columns.
        let out = unsafe { self.patterns[head - self.heads.start].part(0, block.entries(sequences)) };
        for (out, row) in out.chunks_exact_mut(keys).zip(pattern.values.chunks_exact(pattern.stride)) {
            let (before, rest) = out.split_at_mut(pattern.first_key);
            let (visible, after) = rest.split_at_mut(end);
            visible.write_copy_of_slice(&row[..end]);
            before.iter_mut().chain(after).for_each(|hidden| _ = hidden.write(0.0));
        }
    }
}
