//! How a product is cut: into blocks of rows, and groups of panels.

use super::TileShape;
use super::inputs::{Inputs, Values};
use crate::vector::{PANEL, TILE_ROWS};
use crate::{Cpu, PackedMatrix};
use std::ops::Range;

/// Bytes of inputs that a block of rows has in one step: they stay in the second-level cache while panels pass.
const BLOCK_BYTES: usize = 384 * 1024;

/// Bytes of a panel that are used in one step: they stay there beside the block while its tiles pass. Short steps let a
/// block have more rows, so that panels, which come from further away, are read for more of them.
const STEP_BYTES: usize = 64 * 1024;

/// Bytes of a panel that are still used at once: three steps cost more than they gain.
const WHOLE_BYTES: usize = 192 * 1024;

/// Bytes of weights that a single tile widens at once: they stay in the first-level cache beside its inputs.
const PIECE_BYTES: usize = 16 * 1024;

/// Inputs that are widened together at least.
const GROUP: usize = 32;

/// Multiplications that one task should have at least: below, handing it to another thread costs more than it gains.
const WORK_PER_TASK: usize = 256 * 1024;

/// Tasks that a thread should have, so that one late thread does not hold up all.
const TASKS_PER_THREAD: usize = 8;

/// A product's tasks: every block of rows with every group of panels.
pub(super) struct Tasks {
    rows: usize,
    /// Rows that no block parts are one unit.
    units: usize,
    blocks: usize,
    panels: usize,
    panels_per_group: usize,
    groups: usize,
}

/// What one task computes.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
}

/// How many steps the inputs are cut into, and how long each but the last is.
pub(super) struct Steps {
    pub(super) count: usize,
    pub(super) len: usize,
}

impl Tasks {
    /// Cuts a product as suits the threads, or into tiles of a shape, whose rows divide the product's.
    pub(super) fn new(cpu: &Cpu, inputs: &Inputs<'_>, w: &PackedMatrix, tile: Option<TileShape>) -> Tasks {
        let (rows, panels, depth) = (inputs.rows, w.n_panels(), w.depth());
        let tiles = rows.div_ceil(TILE_ROWS);
        let step = inputs.steps(depth, tiles, w.is_decoded()).len.max(1);
        let rows_per_block = (BLOCK_BYTES / (step * inputs.value_bytes())).max(TILE_ROWS);
        let unit = tile.map_or(TILE_ROWS, |tile| tile.rows.max(1));
        let units = rows.div_ceil(unit);
        let blocks = units.div_ceil((rows_per_block / unit).max(1));
        let panels_per_group = tile.map_or_else(
            || {
                let work = rows.saturating_mul(depth).saturating_mul(panels * PANEL);
                let wanted = (TASKS_PER_THREAD * cpu.threads()).min(work / WORK_PER_TASK);
                panels.div_ceil(wanted.div_ceil(blocks.max(1)).max(1))
            },
            |tile| tile.columns.div_ceil(PANEL),
        );
        let panels_per_group = panels_per_group.clamp(1, panels.max(1));
        let groups = panels.div_ceil(panels_per_group);
        Tasks { rows, units, blocks, panels, panels_per_group, groups }
    }

    pub(super) fn count(&self) -> usize {
        self.blocks * self.groups
    }

    /// Whether no two tasks share a panel.
    pub(super) fn use_panels_once(&self) -> bool {
        self.blocks <= 1
    }

    /// What a task computes. Tasks in sequence share rows.
    pub(super) fn part(&self, task: usize) -> Part {
        let (block, group) = (task / self.groups, task % self.groups);
        let units = even_part(self.units, self.blocks, block);
        let panel = group * self.panels_per_group;
        Part {
            rows: even_part(self.rows, self.units, units.start).start
                ..even_part(self.rows, self.units, units.end - 1).end,
            panels: panel..self.panels.min(panel + self.panels_per_group),
        }
    }
}

impl Part {
    /// How many tiles of nearly the same height the rows are cut into.
    pub(super) fn n_tiles(&self) -> usize {
        self.rows.len().div_ceil(TILE_ROWS)
    }

    /// The rows of one tile.
    pub(super) fn rows_of_tile(&self, tile: usize) -> Range<usize> {
        let Range { start, end } = even_part(self.rows.len(), self.n_tiles(), tile);
        self.rows.start + start..self.rows.start + end
    }
}

impl Inputs<'_> {
    /// How so many inputs are cut for a product of so many tiles, with panels that are widened first or not.
    pub(super) fn steps(&self, depth: usize, tiles: usize, are_decoded: bool) -> Steps {
        let decodes = matches!(self.values, Values::Widened(_)) || are_decoded && self.rows > 1;
        steps(depth, self.value_bytes(), decodes, tiles)
    }

    fn value_bytes(&self) -> usize {
        match self.values {
            Values::F32(_) | Values::Widened(_) => size_of::<f32>(),
            Values::Bf16(_) => size_of::<u16>(),
        }
    }
}

/// Cuts the inputs into even steps of whole pairs, or of whole groups of blocks if weights are widened. A single tile takes
/// all at once, since it uses each panel only once and there is nothing to keep in a cache, unless the panel is widened
/// first: then in pieces that stay in the nearest one. What is widened is never used at once if it is longer than a step.
fn steps(depth: usize, value_bytes: usize, decodes: bool, tiles: usize) -> Steps {
    let row = PANEL * value_bytes;
    let (whole, step) = match (decodes, tiles <= 1) {
        (true, true) => (PIECE_BYTES, PIECE_BYTES),
        (true, false) => (STEP_BYTES + STEP_BYTES / 2, STEP_BYTES),
        (false, true) => (usize::MAX, STEP_BYTES),
        (false, false) => (WHOLE_BYTES, STEP_BYTES),
    };
    if depth.saturating_mul(row) <= whole {
        return Steps { count: 1, len: depth };
    }
    let unit = if decodes { GROUP } else { 2 };
    let len = depth.div_ceil(depth.div_ceil(step / row)).next_multiple_of(unit);
    Steps { count: depth.div_ceil(len), len }
}

/// One of `parts` parts of nearly the same size.
fn even_part(len: usize, parts: usize, part: usize) -> Range<usize> {
    part * len / parts..(part + 1) * len / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_cover_all_inputs_in_whole_pairs_or_groups() {
        for (tiles, decodes) in [(1, false), (2, false), (50, false), (1, true), (2, true)] {
            for depth in [0, 2, 1536, 1538, 3000, 4096, 10_002] {
                let Steps { count, len } = steps(depth, 4, decodes, tiles);
                assert!(count * len >= depth && (count - 1) * len <= depth);
                let unit = if decodes { GROUP } else { 2 };
                assert!(count == 1 || len.is_multiple_of(unit) && len <= 512);
            }
        }
    }
}
