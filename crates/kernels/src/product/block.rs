//! One task's part of a product.

use super::finish::Target;
use super::inputs::{Inputs, Values};
use super::tasks::{Part, Steps};
use crate::packed::Panels;
use crate::vector::{Element, Multiplied, PANEL, Prefetch, Start, Step, TILE_ROWS, Vector, Work};
use crate::{Cpu, PackedMatrix, scratch};
use std::ops::Range;

/// Sums of a tile.
const TILE: usize = TILE_ROWS * PANEL;

/// Tiles whose unfinished sums may wait for the next step: they stay in the second-level cache.
const WAITING_TILES: usize = 128;

/// Some rows times some panels, and where the results go.
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
/// No one else accesses these rows of the target in the columns of these panels' outputs.
pub(super) unsafe fn run<O: Element>(block: Block<'_, O>) {
    match block.inputs.values {
        Values::F32(x) => run_of::<f32, f32, O>(x, block),
        Values::Bf16(x) => run_of::<u16, u16, O>(x, block),
        Values::Widened(x) => run_of::<u16, f32, O>(x, block),
    }
}

/// With weights that are stored as `S` and multiplied as `T`.
fn run_of<S: Element, T: Multiplied<S>, O: Element>(x: &[T], block: Block<'_, O>) {
    let tiles = block.part.n_tiles();
    let steps = block.inputs.steps(block.w.depth(), tiles);
    // With one step each tile is finished at once. With several, the sums of all tiles wait between steps.
    let waiting = if steps.count == 1 { 1 } else { WAITING_TILES.max(tiles) };
    let room = T::room(steps.len * PANEL);
    scratch::with(waiting * TILE, |sums: &mut [f32]| {
        scratch::with(room, |room: &mut [T]| {
            let Block { cpu, w, panels, .. } = block;
            let all = block.part.panels.clone();
            let mut block = BlockOf { x, block, steps, sums };
            match panels {
                Panels::Packed(packed) => {
                    let len = w.panel_len();
                    let stored = &packed.values::<S>()[all.start * len..all.end * len];
                    cpu.run(Take { block: &mut block, panels: all, stored, room });
                }
                Panels::Passing(source) => scratch::with(w.panel_len(), |stored: &mut [S]| {
                    for panel in all {
                        w.lay_out(cpu, &**source, panel, stored);
                        cpu.run(Take { block: &mut block, panels: panel..panel + 1, stored, room });
                    }
                }),
            }
        });
    });
}

struct BlockOf<'a, T, O> {
    x: &'a [T],
    block: Block<'a, O>,
    steps: Steps,
    /// Room for one tile if there is one step, otherwise for as many as may wait.
    sums: &'a mut [f32],
}

/// What one tile is multiplied with, and its share of what is fetched for later.
struct Weights<'a, T> {
    values: &'a [T],
    next: Prefetch,
}

/// The work of multiplying with some panels.
struct Take<'a, 'b, S, T, O> {
    block: &'a mut BlockOf<'b, T, O>,
    panels: Range<usize>,
    /// Their weights.
    stored: &'a [S],
    /// For the weights of one step, if they are not multiplied as they are stored.
    room: &'a mut [T],
}

impl<S: Element, T: Multiplied<S>, O: Element> Work for Take<'_, '_, S, T, O> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Take { block, panels, stored, room } = self;
        let tiles = block.block.part.n_tiles();
        let panel_len = block.block.w.panel_len();
        let waiting = block.sums.len() / TILE;
        let fetches = v.fetches(tiles);
        let at_once = if block.steps.count == 1 { panels.len() } else { (waiting / tiles.max(1)).max(1) };
        let mut first = panels.start;
        while first < panels.end {
            let last = panels.end.min(first + at_once);
            for step in 0..block.steps.count {
                let inputs = block.inputs_of(step);
                for panel in first..last {
                    let weights_of = |panel: usize, inputs: &Range<usize>| {
                        let start = (panel - panels.start) * panel_len + inputs.start * PANEL;
                        &stored[start..start + inputs.len() * PANEL]
                    };
                    // What is multiplied after this panel: the next panel, the first in the next step, or the first of
                    // the next panels.
                    let next = if !fetches {
                        Prefetch::NONE
                    } else if panel + 1 < last {
                        Prefetch::of(weights_of(panel + 1, &inputs))
                    } else if step + 1 < block.steps.count {
                        Prefetch::of(weights_of(first, &block.inputs_of(step + 1)))
                    } else if last < panels.end {
                        Prefetch::of(weights_of(last, &block.inputs_of(0)))
                    } else {
                        Prefetch::NONE
                    };
                    let weights = T::weights(v, weights_of(panel, &inputs), room);
                    for tile in 0..tiles {
                        let number = (panel - first) * tiles + tile;
                        let place = if block.steps.count == 1 { 0 } else { number };
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
    /// The inputs that a step takes.
    #[inline(always)]
    fn inputs_of(&self, step: usize) -> Range<usize> {
        step * self.steps.len..self.block.w.depth().min((step + 1) * self.steps.len)
    }

    /// Takes one tile, whose sums stand at `place`, through one step with these weights, and finishes it after the last.
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
