//! Recurrences: mixers that carry a state from token to token.
//!
//! Each takes the tokens in order, in f32, as the papers write it. So a row gives the same bits in one piece and in
//! several, each starting from the state that the last one left.

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
pub(crate) use delta::to_length_one;
pub use lru::RgLru;
pub use scan::StateSpace;
pub use selective::SelectiveScan;

use std::ops::Range;

use crate::shared::SharedRows;
use crate::vector::Vector;
use crate::{Cpu, RowsMut};

/// Channels per task.
const CHANNELS: usize = 64;

/// Vectors of a state's columns in flight at a time, so that their sums do not wait for each other.
const AT_ONCE: usize = 4;

/// Divides channels into blocks: `(number of blocks, the channels of one)`.
fn blocks(channels: usize) -> (usize, impl Fn(usize) -> Range<usize>) {
    let count = channels.div_ceil(CHANNELS);
    (count, move |block| block * CHANNELS..channels.min((block + 1) * CHANNELS))
}

/// Walks the tokens of each sequence in order. States and outputs are divided into parts of these widths, which are
/// independent of each other: `work` gets the indices of sequence and part, the token's row, and its part of state and
/// output.
///
/// # Panics
/// If sequences overlap or do not ascend, or states and outputs differ in their number of parts.
fn each_token(
    cpu: &Cpu,
    sequences: &[Range<usize>],
    (states, out): (RowsMut<'_>, RowsMut<'_>),
    [of_state, of_out]: [usize; 2],
    work: impl Fn([usize; 2], usize, &mut [f32], &mut [f32]) + Sync,
) {
    assert_apart(sequences);
    let (states, out) = (SharedRows::new(states), SharedRows::new(out));
    let parts = out.n_columns().div_ceil(of_out);
    assert_eq!(states.n_columns().div_ceil(of_state), parts, "parts of states and of outputs");
    let columns = |width: usize, part: usize, all: usize| part * width..all.min((part + 1) * width);
    cpu.for_each(sequences.len() * parts, |task| {
        let (number, part) = (task / parts, task % parts);
        // SAFETY: parts do not overlap, and each task has its own part of its own sequence.
        let state = unsafe { states.part(number, columns(of_state, part, states.n_columns())) };
        for row in sequences[number].clone() {
            // SAFETY: as above; sequences do not overlap.
            let out = unsafe { out.part(row, columns(of_out, part, out.n_columns())) };
            work([number, part], row, state, out);
        }
    });
}

/// Tasks write the rows of their sequences concurrently, which is sound only if no row belongs to two sequences.
pub(crate) fn assert_apart(sequences: &[Range<usize>]) {
    let ascend = sequences.iter().all(|rows| rows.start <= rows.end);
    let are_apart = sequences.windows(2).all(|pair| pair[0].end <= pair[1].start);
    assert!(ascend && are_apart, "sequences that ascend and do not overlap");
}

/// Work on a few lanes of columns in each row of a state.
trait Columns {
    fn run<V: Vector, const N: usize>(&mut self, v: V, at: usize);
}

/// Calls `work` with all columns: [`AT_ONCE`] vectors together while they last, then one by one.
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

/// Loads vectors from a column of a row on, padded with zeros.
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

/// Writes back what [`load`] read.
#[inline(always)]
fn store<V: Vector, const N: usize>(v: V, lanes: [V::F; N], row: &mut [f32], at: usize) {
    for (i, lanes) in lanes.into_iter().enumerate() {
        let start = at + i * V::LANES;
        let end = row.len().min(start + V::LANES);
        v.store_some(lanes, &mut row[start..end]);
    }
}
