//! Attention of one block of queries: scores, softmax and mix, without leaving the cache.

use super::keys::Keys;
use super::mix::{Pattern, mix};
use super::plan::Block;
use super::scores::{Layout, score_panel};
use super::softmax::softmax;
use super::{Attention, Sequence};
use crate::shared::SharedRows;
use crate::vector::{PANEL, Vector, Work};
use crate::{Cpu, Rows, scratch};
use std::ops::Range;

/// What all blocks of a call share.
pub(super) struct Call<'a> {
    pub(super) spec: &'a Attention,
    pub(super) q: Rows<'a>,
    pub(super) keys: &'a Keys<'a>,
    pub(super) v: Rows<'a>,
    pub(super) z: &'a SharedRows<'a>,
    pub(super) sequences: &'a [Sequence],
}

/// The work of one block for some heads that share keys.
pub(super) struct HeadBlock<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) block: &'a Block,
    pub(super) heads: Range<usize>,
}

impl HeadBlock<'_> {
    pub(super) fn run_on(self, cpu: &Cpu) {
        let spec = self.call.spec;
        let layout = Layout::new(spec, &self.call.sequences[self.block.sequence], self.block);
        let len = spec.d_head * PANEL + self.heads.len() * self.block.rows * layout.stride;
        scratch::with(len, |room: &mut [f32]| cpu.run(HeadBlockIn { work: self, layout, room }));
    }
}

struct HeadBlockIn<'a> {
    work: HeadBlock<'a>,
    layout: Layout,
    /// For a panel of keys, and the scores of each head.
    room: &'a mut [f32],
}

impl Work for HeadBlockIn<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let HeadBlockIn { work: HeadBlock { call, block, heads }, layout, room } = self;
        let spec = call.spec;
        let sequence = &call.sequences[block.sequence];
        let first_query = sequence.queries.start + block.first;
        let (place, scores) = room.split_at_mut(spec.d_head * PANEL);
        let per_head = block.rows * layout.stride;
        for panel in 0..layout.panels {
            let index = layout.first_key / PANEL + panel;
            let keys = call.keys.panel(block.sequence, spec.kv_head(heads.start), index, place);
            for (head, scores) in heads.clone().zip(scores.chunks_exact_mut(per_head)) {
                score_panel(v, spec, head, &call.q, first_query, block.rows, keys, &layout, panel, scores);
            }
        }
        let visible = block.visible(spec, sequence);
        for (head, scores) in heads.zip(scores.chunks_exact_mut(per_head)) {
            let sink = spec.sinks.as_ref().map(|sinks| sinks[head]);
            for (row, visible) in scores.chunks_exact_mut(layout.stride).zip(&visible) {
                let columns = visible.start - layout.first_key..visible.end - layout.first_key;
                softmax(v, &mut row[columns], sink);
            }
            let pattern = Pattern { values: scores, first_key: layout.first_key, stride: layout.stride };
            mix(v, spec, head, sequence, block, &pattern, call.v, call.z);
        }
    }
}
