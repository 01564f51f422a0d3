//! One task's part of a product.

use super::finish::Target;
use super::inputs::{Inputs, Values};
use super::tasks::{Part, Steps};
use crate::packed::{Panel, Panels};
use crate::vector::{Element, PANEL, Prefetch, Start, Step, TILE_ROWS, Vector, Work};
use crate::{Cpu, PackedMatrix, scratch};
use std::ops::Range;

/// Sums of a tile.
const TILE: usize = TILE_ROWS * PANEL;

/// Tiles whose unfinished sums may wait for the next step and still fit in the second-level cache.
const WAITING_TILES: usize = 128;

/// A range of rows times a range of panels, and where the results go.
pub(super) struct Block<'a, O> {
    pub(super) cpu: &'a Cpu,
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) w: &'a PackedMatrix,
    pub(super) panels: &'a Panels,
    pub(super) part: Part,
    pub(super) target: &'a Target<'a, O>,
}

/// Computes the block.
///
/// # Safety
/// The caller has exclusive access to the target in these rows and these panels' output columns.
pub(super) unsafe fn run<O: Element>(block: Block<'_, O>) {
    match block.inputs.values {
        Values::F32(x) | Values::Widened(x) => run_of::<f32, O>(x, block),
        Values::Bf16(x) => run_of::<u16, O>(x, block),
    }
}

/// With weights multiplied as `T`.
fn run_of<T: Element, O: Element>(x: &[T], block: Block<'_, O>) {
    let tiles = block.part.n_tiles();
    let are_decoded = block.panels.are_decoded();
    let steps = block.inputs.steps(block.w.depth(), tiles, are_decoded);
    // Sums of one tile, or of all tiles that wait for their next step.
    let waiting = if passes_at_once(&steps, tiles) { 1 } else { WAITING_TILES.max(tiles) };
    // A single row multiplies panels in their stored encoding.
    let takes_stored = are_decoded && block.inputs.rows == 1;
    let decodes = matches!(block.inputs.values, Values::Widened(_)) || are_decoded && !takes_stored;
    let room = if decodes { steps.len * PANEL } else { 0 };
    scratch::with(waiting * TILE, |sums: &mut [f32]| {
        scratch::with(room, |room: &mut [T]| {
            let Block { cpu, w, panels, .. } = block;
            let all = block.part.panels.clone();
            let mut block = BlockOf { x, block, steps, sums, decodes, takes_stored };
            match panels {
                Panels::Packed(packed) => {
                    let panel_of = |panel| packed.panel(panel);
                    cpu.run(Take { block: &mut block, panels: all, panel_of, room });
                }
                Panels::Passing(source) => scratch::with(w.panel_bytes(), |bytes: &mut [u8]| {
                    for panel in all {
                        w.lay_out(cpu, &**source, panel, bytes);
                        let panel_of = |_| Panel { encoding: w.dtype().into(), bytes: &*bytes };
                        cpu.run(Take { block: &mut block, panels: panel..panel + 1, panel_of, room });
                    }
                }),
            }
        });
    });
}

/// Whether each panel goes through all steps before the next begins: with one step, or with one tile, which needs a
/// panel's weights only once.
fn passes_at_once(steps: &Steps, tiles: usize) -> bool {
    steps.count == 1 || tiles <= 1
}

struct BlockOf<'a, T, O> {
    x: &'a [T],
    block: Block<'a, O>,
    steps: Steps,
    /// Whether weights are widened step by step.
    decodes: bool,
    /// Whether weights are multiplied in their stored encoding.
    takes_stored: bool,
    /// Room for one tile if each panel passes once, otherwise for all tiles that may wait.
    sums: &'a mut [f32],
}

/// The weights that one tile is multiplied with, and its share of the prefetch.
struct Weights<'a, T> {
    values: &'a [T],
    next: Prefetch,
}

/// The work of multiplying with a range of panels.
struct Take<'a, 'b, F, T, O> {
    block: &'a mut BlockOf<'b, T, O>,
    panels: Range<usize>,
    /// Their weights.
    panel_of: F,
    /// Room for the weights of one step, unless they are multiplied as stored.
    room: &'a mut [T],
}

impl<'p, F: Fn(usize) -> Panel<'p>, T: Element, O: Element> Work for Take<'_, '_, F, T, O> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Take { block, panels, panel_of, room } = self;
        let tiles = block.block.part.n_tiles();
        let (cpu, depth) = (block.block.cpu, block.block.w.depth());
        let waiting = block.sums.len() / TILE;
        // Widening reads a whole step at once, and would stall on all of it.
        let fetches = block.decodes || v.fetches(tiles);
        let at_once = match (block.steps.count, passes_at_once(&block.steps, tiles)) {
            (1, _) => panels.len(),
            (_, true) => 1,
            _ => (waiting / tiles.max(1)).max(1),
        };
        let mut first = panels.start;
        while first < panels.end {
            let last = panels.end.min(first + at_once);
            for step in 0..block.steps.count {
                let inputs = block.inputs_of(step);
                for panel in first..last {
                    if block.multiplies_row(v, panel, panel_of(panel)) {
                        continue;
                    }
                    // What comes after this panel: the next panel, the first one of the next step, or the first of the
                    // next group.
                    let following = if panel + 1 < last {
                        Some((panel + 1, inputs.clone()))
                    } else if step + 1 < block.steps.count {
                        Some((first, block.inputs_of(step + 1)))
                    } else {
                        (last < panels.end).then(|| (last, block.inputs_of(0)))
                    };
                    let next = match following.filter(|_| fetches) {
                        Some((panel, inputs)) => Prefetch::of(panel_of(panel).bytes_of(inputs, depth)),
                        None => Prefetch::NONE,
                    };
                    let weights = T::weights(cpu, panel_of(panel), inputs.clone(), room);
                    for tile in 0..tiles {
                        let number = (panel - first) * tiles + tile;
                        let place = if waiting == 1 { 0 } else { number };
                        let weights = Weights { values: weights, next: next.part(tile, tiles) };
                        block.advance(v, panel, weights, tile, step, place);
                    }
                }
            }
            first = last;
        }
    }
}

impl<T: Element, O: Element> BlockOf<'_, T, O> {
    /// The inputs of one step.
    #[inline(always)]
    fn inputs_of(&self, step: usize) -> Range<usize> {
        step * self.steps.len..self.block.w.depth().min((step + 1) * self.steps.len)
    }

    /// Multiplies with a panel as stored if there is one row and the panel would otherwise be widened.
    #[inline(always)]
    fn multiplies_row<V: Vector>(&mut self, v: V, number: usize, panel: Panel<'_>) -> bool {
        if !self.takes_stored {
            return false;
        }
        let Block { cpu, w, part, target, .. } = &self.block;
        let sums = &mut self.sums[..TILE];
        let is_done = T::multiply_row(cpu, panel, &self.x[..w.depth()], sums);
        if is_done {
            target.finish(v, w, number, part.rows.clone(), sums);
        }
        is_done
    }

    /// Adds one step to the tile whose sums are at `place`, and finishes the tile after the last step.
    #[inline(always)]
    fn advance<V: Vector>(
        &mut self,
        v: V,
        panel: usize,
        weights: Weights<'_, T>,
        tile: usize,
        step: usize,
        place: usize,
    ) {
        let depth = self.inputs_of(step);
        let Block { inputs, w, part, target, .. } = &self.block;
        let rows = part.rows_of_tile(tile);
        let sums = &mut self.sums[place * TILE..][..TILE];
        if depth.is_empty() {
            // A matrix without inputs.
            sums.fill(0.0);
        } else {
            let step = Step {
                start: if step == 0 { Start::Zero } else { Start::Tile },
                rows: rows.len(),
                inputs: depth.len(),
                x: &self.x[rows.start * inputs.stride + depth.start..],
                x_stride: inputs.stride,
                panel: weights.values,
                panel_stride: PANEL,
                next: weights.next,
            };
            T::tile(v, &step, sums);
        }
        if step + 1 == self.steps.count {
            target.finish(v, w, panel, rows, sums);
        }
    }
}
