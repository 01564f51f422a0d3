//! The micro-kernels of x86-64, generic over the registers: a tile's sums stay in registers while the inputs pass.

use super::{PANEL, Prefetch, Start, Step, Vector};

/// Bytes of a cache line.
const LINE: usize = 64;

/// What the micro-kernels need besides [`Vector`]: access without bounds checks.
///
/// # Safety
/// `load_from` and `store_to` read and write exactly `LANES` values, `load_of_pairs` twice as many bf16,
/// `splat_of_pair` two.
pub(super) unsafe trait Registers: Vector {
    /// # Safety
    /// `LANES` values can be read there.
    unsafe fn load_from(self, values: *const f32) -> Self::F;
    /// Requests that the line come into the nearest cache.
    fn prefetch(self, line: *const u8);
    /// # Safety
    /// `LANES` values can be written there.
    unsafe fn store_to(self, lanes: Self::F, out: *mut f32);
    /// The first value of each of `LANES` bf16 pairs, or the second if `SECOND`.
    ///
    /// # Safety
    /// Twice `LANES` values can be read there.
    unsafe fn load_of_pairs<const SECOND: bool>(self, pairs: *const u16) -> Self::F;
    /// The first value of one pair, or the second, broadcast to all lanes.
    ///
    /// # Safety
    /// Two values can be read there.
    unsafe fn splat_of_pair<const SECOND: bool>(self, pair: *const u16) -> Self::F;
}

/// A part of a tile.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Its first row and column.
    pub(super) row: usize,
    pub(super) column: usize,
    /// Memory to prefetch meanwhile.
    pub(super) next: Prefetch,
}

/// `M` rows of a step and two registers of columns at a place.
///
/// # Safety
/// The step is checked against the tile; `row + M` is at most its rows, `column` plus two registers at most [`PANEL`].
#[inline(always)]
pub(super) unsafe fn product<V: Registers, const M: usize>(
    v: V,
    step: &Step<'_, f32>,
    Place { row, column, next }: Place,
    tile: &mut [f32],
) {
    let stride = step.x_stride;
    let (mut next, turn) = next.in_turns(step.inputs);
    // SAFETY: all reads and writes are within what `Step::check` has checked, by the caller's promise.
    unsafe {
        let tile = tile.as_mut_ptr().add(row * PANEL + column);
        let mut x = step.x.as_ptr().add(row * stride);
        let mut panel = step.panel.as_ptr().add(column);
        let mut sums = load_sums::<V, M>(v, step.start, tile);
        for k in 0..step.inputs {
            if k > 0 {
                x = x.add(1);
                panel = panel.add(step.panel_stride);
            }
            fetch(v, &mut next, turn);
            let weights = [v.load_from(panel), v.load_from(panel.add(V::LANES))];
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = v.splat(*x.add(r * stride));
                sums[0] = v.mul_add(x, weights[0], sums[0]);
                sums[1] = v.mul_add(x, weights[1], sums[1]);
            }
        }
        store_sums(v, tile, &sums);
    }
}

/// The same for bf16, widened as it is read.
///
/// # Safety
/// As for [`product`], and the step's inputs come in pairs without gaps.
#[inline(always)]
pub(super) unsafe fn product_bf16<V: Registers, const M: usize>(
    v: V,
    step: &Step<'_, u16>,
    Place { row, column, next }: Place,
    tile: &mut [f32],
) {
    let stride = step.x_stride;
    let (mut next, turn) = next.in_turns(step.inputs / 2);
    // SAFETY: all reads and writes are within what `Step::check_pairs` has checked, by the caller's promise.
    unsafe {
        let tile = tile.as_mut_ptr().add(row * PANEL + column);
        let x = step.x.as_ptr().add(row * stride);
        let panel = step.panel.as_ptr().add(2 * column);
        let mut sums = load_sums::<V, M>(v, step.start, tile);
        for pair in 0..step.inputs / 2 {
            fetch(v, &mut next, turn);
            let (x, weights) = (x.add(2 * pair), panel.add(pair * 2 * PANEL));
            // One value of the pair, then the other: weights of both would need more registers than there are.
            add_of_pairs::<V, M, false>(v, x, stride, weights, &mut sums);
            add_of_pairs::<V, M, true>(v, x, stride, weights, &mut sums);
        }
        store_sums(v, tile, &sums);
    }
}

/// One turn of a prefetch. With several tiles a turn fetches less than a line and requests some lines twice; with one
/// tile it fetches two lines.
#[inline(always)]
pub(super) fn fetch<V: Registers>(v: V, next: &mut *const u8, turn: usize) {
    if turn > 0 {
        v.prefetch(*next);
        if turn > LINE {
            v.prefetch(next.wrapping_add(LINE));
        }
        *next = next.wrapping_add(turn);
    }
}

/// # Safety
/// Two registers of pairs can be read from `weights`, and a pair from each of `M` rows from `x` on.
#[inline(always)]
unsafe fn add_of_pairs<V: Registers, const M: usize, const SECOND: bool>(
    v: V,
    x: *const u16,
    stride: usize,
    weights: *const u16,
    sums: &mut [[V::F; 2]; M],
) {
    // SAFETY: by the caller's promise.
    unsafe {
        let low = v.load_of_pairs::<SECOND>(weights);
        let high = v.load_of_pairs::<SECOND>(weights.add(2 * V::LANES));
        for (r, sums) in sums.iter_mut().enumerate() {
            let x = v.splat_of_pair::<SECOND>(x.add(r * stride));
            sums[0] = v.mul_add(x, low, sums[0]);
            sums[1] = v.mul_add(x, high, sums[1]);
        }
    }
}

/// # Safety
/// The tile's rows from here on have two registers of values each.
#[inline(always)]
pub(super) unsafe fn load_sums<V: Registers, const M: usize>(
    v: V,
    start: Start,
    tile: *const f32,
) -> [[V::F; 2]; M] {
    // SAFETY: by the caller's promise.
    unsafe {
        let mut sums = [[v.splat(0.0); 2]; M];
        if start == Start::Zero {
            return sums;
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            *sums = [v.load_from(tile.add(r * PANEL)), v.load_from(tile.add(r * PANEL + V::LANES))];
        }
        sums
    }
}

/// # Safety
/// As for [`load_sums`], and they may be written.
#[inline(always)]
pub(super) unsafe fn store_sums<V: Registers, const M: usize>(v: V, tile: *mut f32, sums: &[[V::F; 2]; M]) {
    // SAFETY: by the caller's promise.
    unsafe {
        for (r, sums) in sums.iter().enumerate() {
            v.store_to(sums[0], tile.add(r * PANEL));
            v.store_to(sums[1], tile.add(r * PANEL + V::LANES));
        }
    }
}
