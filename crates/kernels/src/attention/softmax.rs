//! Softmax of a row of scores.

use super::plan::Block;
use super::{Attention, Sequence};
use crate::vector::{Vector, Work};
use crate::{math, reduce};

/// Replaces the scores of visible keys by their softmax. A NaN makes the whole row NaN. If no score exceeds minus
/// infinity and there is no sink, the row becomes zeros.
#[inline(always)]
pub(super) fn softmax<V: Vector>(v: V, row: &mut [f32], sink: Option<f32>) {
    let largest = reduce::max(v, row);
    let sink = sink.unwrap_or(f32::NEG_INFINITY);
    let shift = if sink > largest || sink.is_nan() { sink } else { largest };
    if shift == f32::NEG_INFINITY {
        row.fill(0.0);
        return;
    }
    let shifts = v.splat(shift);
    let mut sums = v.splat(0.0);
    let mut start = 0;
    while start < row.len() {
        let end = row.len().min(start + V::LANES);
        let chunk = &mut row[start..end];
        // A lane without a score adds nothing.
        let scores = v.load_or(chunk, f32::NEG_INFINITY);
        let powers = math::exp(v, v.sub(scores, shifts));
        sums = v.add(sums, powers);
        v.store_some(powers, chunk);
        start = end;
    }
    let of_sink = v.lanes(math::exp(v, v.splat(sink - shift)))[0];
    let factor = 1.0 / (v.sum(sums) + of_sink);
    for power in row {
        *power *= factor;
    }
}

/// The work of taking the softmax of a block's rows, with zeros for hidden keys.
pub(super) struct SoftmaxRows<'a> {
    pub(super) spec: &'a Attention,
    pub(super) sink: Option<f32>,
    pub(super) sequences: &'a [Sequence],
    pub(super) block: &'a Block,
    /// # Shapes
    /// `[rows of the block, keys of the sequence]`.
    pub(super) rows: &'a mut [f32],
}

impl Work for SoftmaxRows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let SoftmaxRows { spec, sink, sequences, block, rows } = self;
        let sequence = &sequences[block.sequence];
        let visible = block.visible(spec, sequence);
        for (row, visible) in rows.chunks_exact_mut(sequence.keys.len()).zip(visible) {
            row[..visible.start].fill(0.0);
            row[visible.end..].fill(0.0);
            softmax(v, &mut row[visible], sink);
        }
    }
}
