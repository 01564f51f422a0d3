//! Values mixed by a pattern.

use super::plan::Block;
use super::{Attention, Sequence};
use crate::Rows;
use crate::shared::SharedRows;
use crate::vector::{Element, PANEL, Prefetch, Start, Step, TILE_ROWS, Vector};
use std::ops::Range;

/// Keys whose values are copied at a time when a head's columns do not fill whole panels.
const COPIED_KEYS: usize = 64;

/// Softmax weights of some rows, zero at hidden keys.
pub(super) struct Pattern<'a> {
    pub(super) values: &'a [f32],
    /// The key of the first column.
    pub(super) first_key: usize,
    /// Values from one row to the next.
    pub(super) stride: usize,
}

/// Writes pattern · v into the head's columns of z, for the block's rows. Each output sums its visible keys in
/// ascending order.
///
/// The code that makes the block a task promises exclusive access to these rows and columns of z.
#[expect(clippy::too_many_arguments, reason = "each is part of the formula")]
#[inline(always)]
pub(super) fn mix<V: Vector, O: Element>(
    v: V,
    spec: &Attention,
    head: usize,
    sequence: &Sequence,
    block: &Block,
    pattern: &Pattern<'_>,
    values: Rows<'_>,
    z: &SharedRows<'_, O>,
) {
    let rows = block.rows;
    let visible = &block.visible(spec, sequence)[..rows];
    let head_columns = spec.value_columns(spec.kv_head(head));
    for offset in (0..spec.d_value).step_by(PANEL) {
        let width = PANEL.min(spec.d_value - offset);
        let columns = head_columns.start + offset..head_columns.start + offset + width;
        let source = Source { values: values.rows(sequence.keys.clone()), columns, pattern };
        let mut sums = [0.0; TILE_ROWS * PANEL];
        // All keys that any row sees, for all rows: a hidden key adds zero, which changes no bit unless its value is
        // infinite or NaN. The sum is then not finite, and each row is summed again over its own keys alone.
        source.add(v, 0..rows, visible[0].start..visible[rows - 1].end, &mut sums);
        if !are_finite(&sums) {
            sums.fill(0.0);
            for (row, visible) in visible.iter().enumerate() {
                source.add(v, row..row + 1, visible.clone(), &mut sums);
            }
        }
        let (sums, _) = sums.as_chunks::<PANEL>();
        for (row, sums) in sums[..rows].iter().enumerate() {
            let row = sequence.queries.start + block.first + row;
            let column = spec.value_columns(head).start + offset;
            // SAFETY: blocks have different rows, heads different columns.
            let out = unsafe { z.part(row, column..column + width) };
            // A negative zero would reveal whether hidden keys were added, since 0 + -0 is positive zero. Make all
            // zeros positive.
            match out.first_chunk_mut::<PANEL>() {
                Some(out) => {
                    let mut start = 0;
                    while start < PANEL {
                        let sum = v.add(v.load(&sums[start..]), v.splat(0.0));
                        O::store(v, sum, &mut out[start..]);
                        start += V::LANES;
                    }
                }
                None => {
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = O::nearest(sum + 0.0);
                    }
                }
            }
        }
    }
}

#[inline(always)]
pub(super) fn are_finite(values: &[f32; TILE_ROWS * PANEL]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    let mut not_finite = false;
    for value in values {
        not_finite |= value.to_bits() & EXPONENT == EXPONENT;
    }
    !not_finite
}

/// Some columns of a sequence's values, and their weights.
pub(super) struct Source<'a> {
    pub(super) values: Rows<'a>,
    pub(super) columns: Range<usize>,
    pub(super) pattern: &'a Pattern<'a>,
}

impl Source<'_> {
    /// Adds the weighted values of a range of keys to the sums of a range of rows.
    #[inline(always)]
    pub(super) fn add<V: Vector>(&self, v: V, rows: Range<usize>, keys: Range<usize>, sums: &mut [f32]) {
        if keys.is_empty() {
            return;
        }
        let sums = &mut sums[rows.start * PANEL..];
        if self.columns.len() == PANEL {
            let stride = self.values.stride();
            let panel = &self.values.data()[keys.start * stride + self.columns.start..];
            return v.tile(&self.step(rows, keys, panel, stride), sums);
        }
        for start in keys.clone().step_by(COPIED_KEYS) {
            let keys = start..keys.end.min(start + COPIED_KEYS);
            let mut panel = [0.0; COPIED_KEYS * PANEL];
            for (copy, key) in panel.chunks_exact_mut(PANEL).zip(keys.clone()) {
                copy[..self.columns.len()].copy_from_slice(&self.values.row(key)[self.columns.clone()]);
            }
            v.tile(&self.step(rows.clone(), keys, &panel, PANEL), sums);
        }
    }

    #[inline(always)]
    fn step<'b>(
        &'b self,
        rows: Range<usize>,
        keys: Range<usize>,
        panel: &'b [f32],
        stride: usize,
    ) -> Step<'b, f32> {
        let Pattern { values, first_key, stride: x_stride } = *self.pattern;
        let x = &values[rows.start * x_stride + keys.start - first_key..];
        Step {
            start: Start::Tile,
            rows: rows.len(),
            inputs: keys.len(),
            x,
            x_stride,
            panel,
            panel_stride: stride,
            next: Prefetch::NONE,
        }
    }
}
