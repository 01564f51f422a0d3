//! One task's part of a product.

use super::finish::Target;
use super::inputs::{Inputs, Values};
use super::tasks::{even_part, steps};
use crate::vector::{Element, PANEL, Step, TILE_ROWS, Vector, Work};
use crate::{Cpu, PackedMatrix, scratch};
use std::ops::Range;

/// Sums of a tile.
const TILE: usize = TILE_ROWS * PANEL;

/// Tiles whose unfinished sums may wait for the next step: they stay in the second-level cache.
const WAITING_TILES: usize = 128;

/// Some rows times some panels, and where the results go.
pub(super) struct Block<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) w: &'a PackedMatrix,
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
    pub(super) target: &'a Target<'a>,
}

/// Computes the block.
///
/// # Safety
/// No one else accesses these rows of the target in the columns of these panels' outputs.
pub(super) unsafe fn run(cpu: &Cpu, block: Block<'_>) {
    match block.inputs.values {
        Values::F32(x) => cpu.run(BlockOf { x, block }),
        Values::Bf16(x) => cpu.run(BlockOf { x, block }),
    }
}

struct BlockOf<'a, T> {
    x: &'a [T],
    block: Block<'a>,
}

impl<T: Element> Work for BlockOf<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Block { rows, panels, w, .. } = &self.block;
        let tiles = rows.len().div_ceil(TILE_ROWS);
        let steps = steps(w.depth(), size_of::<T>(), tiles);
        // With one step each tile is finished at once. With several, the sums of all tiles wait between steps.
        let waiting = if steps.count == 1 { 1 } else { WAITING_TILES.max(tiles) };
        let panels_at_once = if steps.count == 1 { panels.len() } else { (waiting / tiles).max(1) };
        scratch::with(waiting * TILE, |sums: &mut [f32]| {
            let mut first = panels.start;
            while first < panels.end {
                let at_once = first..panels.end.min(first + panels_at_once);
                for step in 0..steps.count {
                    let depth = step * steps.len..w.depth().min((step + 1) * steps.len);
                    let is_last = step + 1 == steps.count;
                    for panel in at_once.clone() {
                        for tile in 0..tiles {
                            let place = if steps.count == 1 { 0 } else { (panel - first) * tiles + tile };
                            let sums = &mut sums[place * TILE..][..TILE];
                            let part = even_part(rows.len(), tiles, tile);
                            let rows = rows.start + part.start..rows.start + part.end;
                            self.add(v, panel, rows.clone(), depth.clone(), sums);
                            if is_last {
                                self.block.target.finish(v, w, panel, rows, sums);
                            }
                        }
                    }
                }
                first = at_once.end;
            }
        });
    }
}

impl<T: Element> BlockOf<'_, T> {
    /// Adds the products of one step to a tile, which starts at zero.
    #[inline(always)]
    fn add<V: Vector>(&self, v: V, panel: usize, rows: Range<usize>, depth: Range<usize>, sums: &mut [f32]) {
        if depth.start == 0 {
            sums.fill(0.0);
        }
        if depth.is_empty() {
            return;
        }
        let stride = self.block.inputs.stride;
        let step = Step {
            rows: rows.len(),
            inputs: depth.len(),
            x: &self.x[rows.start * stride + depth.start..],
            x_stride: stride,
            panel: &self.block.w.panel::<T>(panel)[depth.start * PANEL..],
            panel_stride: PANEL,
        };
        T::tile(v, &step, sums);
    }
}
