//! How a product is divided into blocks of rows and groups of panels.

use super::TileShape;
use super::inputs::{Inputs, Values};
use crate::vector::{PANEL, TILE_ROWS};
use crate::{Cpu, PackedMatrix};
use std::ops::Range;

/// Bytes of inputs per step in a block of rows: they stay in the second-level cache while panels pass.
const BLOCK_BYTES: usize = 384 * 1024;

/// Bytes of a panel per step: they stay in the second-level cache next to the block while its tiles pass. Short steps
/// allow blocks of more rows, so that panels, which come from further away, are each read for more rows.
const STEP_BYTES: usize = 64 * 1024;

/// A panel of at most this many bytes is used whole: three steps would cost more than they gain.
const WHOLE_BYTES: usize = 192 * 1024;

/// Bytes of weights that a single tile widens at a time: they stay in the first-level cache next to its inputs.
const PIECE_BYTES: usize = 16 * 1024;

/// Fewest inputs widened together.
const GROUP: usize = 32;

/// Minimum multiplications per task: below this, handing a task to another thread costs more than it gains.
const WORK_PER_TASK: usize = 256 * 1024;

/// Tasks per thread, so that one late thread does not delay the rest.
const TASKS_PER_THREAD: usize = 8;

/// A product's tasks: every block of rows with every group of panels.
pub(super) struct Tasks {
    rows: usize,
    /// Rows that stay in one block form a unit.
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

/// Into how many steps the inputs are divided, and the length of each but the last.
pub(super) struct Steps {
    pub(super) count: usize,
    pub(super) len: usize,
}

impl Tasks {
    /// Divides a product to suit the threads, or into tiles whose rows divide the product's.
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

    /// One task's part of the product. Consecutive tasks share rows.
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
    /// Number of tiles of nearly equal height.
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
    /// How the inputs are divided for a product of this many tiles.
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

/// Divides the inputs into even steps of whole pairs, or of whole groups of blocks if weights are widened. A single
/// tile takes all inputs at once, since it uses each panel once and keeps nothing in a cache; if the panel is widened
/// first, it goes in pieces that stay in the nearest cache. For several tiles, widened weights of more than one and a
/// half steps are divided.
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

/// Part `part` of `parts` nearly equal parts.
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
