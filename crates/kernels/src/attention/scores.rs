//! Scores of a block of queries.

use super::keys::Keys;
use super::plan::Block;
use super::{Attention, Sequence};
use crate::vector::{MOST_LANES, PANEL, Prefetch, Start, Step, TILE_ROWS, Vector, Work};
use crate::{Cpu, Rows, bf16, math, scratch};

/// The layout of a block's scores; those of hidden keys are arbitrary.
pub(super) struct Layout {
    /// The key of the first column, a multiple of [`PANEL`].
    pub(super) first_key: usize,
    pub(super) panels: usize,
    /// Values from row to row: an odd number of half panels, so that rows do not compete for cache sets.
    pub(super) stride: usize,
}

impl Layout {
    /// Room for the keys that any row of the block may see.
    pub(super) fn new(spec: &Attention, sequence: &Sequence, block: &Block) -> Layout {
        let first = spec.visible(sequence, block.first).start / PANEL;
        let end = spec.visible(sequence, block.first + block.rows - 1).end.div_ceil(PANEL);
        let panels = end - first;
        Layout { first_key: first * PANEL, panels, stride: panels * PANEL + PANEL / 2 }
    }
}

/// Computes one panel's scores for one head into `out`, which starts at the block's first row.
///
/// # Shapes
/// keys: `[d_head, PANEL]`; out: `[rows, stride]` of the layout.
#[expect(clippy::too_many_arguments, reason = "an inner loop's state")]
#[inline(always)]
pub(super) fn score_panel<V: Vector>(
    v: V,
    spec: &Attention,
    head: usize,
    q: &Rows<'_>,
    first_query: usize,
    rows: usize,
    keys: &[f32],
    layout: &Layout,
    panel: usize,
    out: &mut [f32],
) {
    let mut sums = [0.0; TILE_ROWS * PANEL];
    let x = &q.data()[first_query * q.stride() + head * spec.d_head..];
    let step = Step {
        start: Start::Zero,
        rows,
        inputs: spec.d_head,
        x,
        x_stride: q.stride(),
        panel: keys,
        panel_stride: PANEL,
        next: Prefetch::NONE,
    };
    v.tile(&step, &mut sums);
    let column = panel * PANEL;
    let positions: [f32; PANEL] = std::array::from_fn(|i| (layout.first_key + column + i) as f32);
    let slope = spec.alibi.as_ref().map(|alibi| alibi.slopes[head]);
    let rounded = spec.alibi.as_ref().and_then(|alibi| alibi.rounded);
    // The bias is slope · position; with rounding it is 1 times the rounded product.
    let (slope, positions) = match (slope, rounded) {
        (Some(slope), Some(factor)) => {
            (Some(1.0), std::array::from_fn(|i| bf16::nearest(slope * positions[i]) * factor))
        }
        (slope, _) => (slope, positions),
    };
    let slope = slope.map(|slope| v.splat(slope));
    let scale = v.splat(spec.scale);
    let (sums, _) = sums.as_chunks::<PANEL>();
    for (row, sums) in sums[..rows].iter().enumerate() {
        let out = &mut out[row * layout.stride + column..][..PANEL];
        let mut start = 0;
        // Not iterators: their calls, compiled without the path's instructions, would cost more than the arithmetic.
        while start < PANEL {
            let mut score = v.mul(v.load(&sums[start..]), scale);
            if let Some(cap) = spec.softcap {
                let cap = v.splat(cap);
                score = v.mul(cap, math::tanh(v, v.div(score, cap)));
            }
            if let Some(slope) = slope {
                score = v.mul_add(slope, v.load(&positions[start..]), score);
            }
            v.store(score, &mut out[start..]);
            start += V::LANES;
        }
    }
    const { assert!(PANEL.is_multiple_of(MOST_LANES)) };
}

/// The work of computing a block's scores for one head into an array.
pub(super) struct HeadScores<'a> {
    pub(super) spec: &'a Attention,
    pub(super) head: usize,
    pub(super) q: Rows<'a>,
    pub(super) keys: &'a Keys<'a>,
    pub(super) sequences: &'a [Sequence],
    pub(super) block: &'a Block,
    /// # Shapes
    /// `[rows of the block, keys of the sequence]`.
    pub(super) out: &'a mut [f32],
}

impl HeadScores<'_> {
    pub(super) fn run_on(self, cpu: &Cpu) {
        let layout = Layout::new(self.spec, &self.sequences[self.block.sequence], self.block);
        let len = self.spec.d_head * PANEL + self.block.rows * layout.stride;
        scratch::with(len, |room: &mut [f32]| cpu.run(HeadScoresIn { work: self, layout, room }));
    }
}

struct HeadScoresIn<'a> {
    work: HeadScores<'a>,
    layout: Layout,
    /// Scratch: a panel of keys, then the scores.
    room: &'a mut [f32],
}

impl Work for HeadScoresIn<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let HeadScoresIn { work: HeadScores { spec, head, q, keys, sequences, block, out }, layout, room } =
            self;
        let sequence = &sequences[block.sequence];
        let first_query = sequence.queries.start + block.first;
        let (place, scores) = room.split_at_mut(spec.d_head * PANEL);
        for panel in 0..layout.panels {
            let index = layout.first_key / PANEL + panel;
            let keys = keys.panel(block.sequence, spec.kv_head(head), index, place);
            score_panel(v, spec, head, &q, first_query, block.rows, keys, &layout, panel, scores);
        }
        let visible = block.visible(spec, sequence);
        let rows = out.chunks_exact_mut(sequence.keys.len()).zip(scores.chunks_exact(layout.stride));
        for ((out, scores), visible) in rows.zip(visible) {
            out.fill(f32::NEG_INFINITY);
            let columns = visible.start - layout.first_key..visible.end - layout.first_key;
            out[visible].copy_from_slice(&scores[columns]);
        }
    }
}
