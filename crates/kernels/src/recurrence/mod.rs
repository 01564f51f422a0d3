//! Recurrences: what mixes tokens by a state that is carried from one to the next.
//!
//! Each goes through the tokens one after another, in f32, as the papers write it. So a row gives the same bits in one
//! piece and in several, each with the state that the last one left.

mod convolve;
mod delta;
mod gate;
mod lru;
mod scan;
mod selective;
#[cfg(test)]
mod tests;

pub use convolve::Convolution;
pub use delta::GatedDelta;
pub use lru::RgLru;
pub use scan::StateSpace;
pub use selective::SelectiveScan;

use std::ops::Range;

use crate::vector::Vector;

/// Channels that one task goes through the tokens with.
const CHANNELS: usize = 64;

/// Vectors of a state's columns that are worked on at once, so that their sums do not wait for each other.
const AT_ONCE: usize = 4;

/// Blocks of some of so many channels: `(number of blocks, the channels of one)`.
fn blocks(channels: usize) -> (usize, impl Fn(usize) -> Range<usize>) {
    let count = channels.div_ceil(CHANNELS);
    (count, move |block| block * CHANNELS..channels.min((block + 1) * CHANNELS))
}

/// Some lanes of columns in each row of a state.
trait Columns {
    fn run<V: Vector, const N: usize>(&mut self, v: V, at: usize);
}

/// Calls `work` with all columns: [`AT_ONCE`] vectors together as far as they go, the rest one after another.
#[inline(always)]
fn each_columns<V: Vector>(v: V, columns: usize, work: &mut impl Columns) {
    let mut at = 0;
    while at + AT_ONCE * V::LANES <= columns {
        work.run::<V, AT_ONCE>(v, at);
        at += AT_ONCE * V::LANES;
    }
    while at < columns {
        work.run::<V, 1>(v, at);
        at += V::LANES;
    }
}

/// Vectors of a row from one of its columns on; where there are fewer values than lanes, zeros.
#[inline(always)]
fn load<V: Vector, const N: usize>(v: V, row: &[f32], at: usize) -> [V::F; N] {
    let mut lanes = [v.splat(0.0); N];
    for (i, lanes) in lanes.iter_mut().enumerate() {
        let start = at + i * V::LANES;
        let end = row.len().min(start + V::LANES);
        *lanes = v.load_or(&row[start..end], 0.0);
    }
    lanes
}

/// Writes what [`load`] read.
#[inline(always)]
fn store<V: Vector, const N: usize>(v: V, lanes: [V::F; N], row: &mut [f32], at: usize) {
    for (i, lanes) in lanes.into_iter().enumerate() {
        let start = at + i * V::LANES;
        let end = row.len().min(start + V::LANES);
        v.store_some(lanes, &mut row[start..end]);
    }
}
