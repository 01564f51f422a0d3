//! The types of value that products are made of.

use super::{PANEL, Step, Vector, Work};
use crate::aligned::{Plain, words};
use crate::{Cpu, bf16, scratch};

/// A type of value that products are made of.
pub(crate) trait Element: Plain {
    /// Inputs of a column that stand side by side in a panel.
    const TOGETHER: usize;

    /// The nearest value of this type.
    fn nearest(value: f32) -> Self;
    fn widened(self) -> f32;
    fn tile<V: Vector>(v: V, step: &Step<'_, Self>, tile: &mut [f32]);
    /// Writes the nearest values over the first of a slice.
    fn store<V: Vector>(v: V, lanes: V::F, out: &mut [Self]);

    /// Calls `f` with rows of the nearest values as words of 32 bits; zeros fill each row's last word.
    ///
    /// # Shapes
    /// rows: `[some, columns]`, at least one column; what `f` gets: `[some, columns / TOGETHER rounded up]`.
    fn in_words(cpu: &Cpu, rows: &[f32], columns: usize, f: impl FnOnce(&[f32]));

    /// Writes as many of the nearest values as the slice holds.
    #[inline(always)]
    fn store_some<V: Vector>(v: V, lanes: V::F, out: &mut [Self]) {
        if out.len() >= V::LANES {
            return Self::store(v, lanes, out);
        }
        for (out, lane) in out.iter_mut().zip(v.lanes(lanes)) {
            *out = Self::nearest(lane);
        }
    }
}

/// A type that products multiply weights in which are stored as `S`.
pub(crate) trait Multiplied<S>: Element {
    /// How much room [`Multiplied::weights`] needs for so many weights.
    fn room(weights: usize) -> usize;

    /// Weights of a panel, in the order that panels of this type have.
    fn weights<'a, V: Vector>(v: V, stored: &'a [S], room: &'a mut [Self]) -> &'a [Self];
}

impl<T: Element> Multiplied<T> for T {
    fn room(_weights: usize) -> usize {
        0
    }

    #[inline(always)]
    fn weights<'a, V: Vector>(_v: V, stored: &'a [T], _room: &'a mut [T]) -> &'a [T] {
        stored
    }
}

impl Multiplied<u16> for f32 {
    fn room(weights: usize) -> usize {
        weights
    }

    #[inline(always)]
    fn weights<'a, V: Vector>(v: V, stored: &'a [u16], room: &'a mut [f32]) -> &'a [f32] {
        let room = &mut room[..stored.len()];
        // A pair of inputs in each word; the first of each goes to one row, the second to the next.
        for (pairs, rows) in words(stored).chunks_exact(PANEL).zip(room.chunks_exact_mut(2 * PANEL)) {
            let (first, second) = rows.split_at_mut(PANEL);
            for column in (0..PANEL).step_by(V::LANES) {
                let [a, b] = v.widen_pairs(v.load(&pairs[column..]));
                v.store(a, &mut first[column..]);
                v.store(b, &mut second[column..]);
            }
        }
        room
    }
}

impl Element for f32 {
    const TOGETHER: usize = 1;

    #[inline(always)]
    fn nearest(value: f32) -> f32 {
        value
    }

    #[inline(always)]
    fn widened(self) -> f32 {
        self
    }

    #[inline(always)]
    fn tile<V: Vector>(v: V, step: &Step<'_, f32>, tile: &mut [f32]) {
        v.tile(step, tile);
    }

    #[inline(always)]
    fn store<V: Vector>(v: V, lanes: V::F, out: &mut [f32]) {
        v.store(lanes, out);
    }

    fn in_words(_cpu: &Cpu, rows: &[f32], _columns: usize, f: impl FnOnce(&[f32])) {
        f(rows);
    }
}

/// The bits of bf16.
impl Element for u16 {
    const TOGETHER: usize = 2;

    #[inline(always)]
    fn nearest(value: f32) -> u16 {
        bf16::round(value)
    }

    #[inline(always)]
    fn widened(self) -> f32 {
        bf16::widen(self)
    }

    #[inline(always)]
    fn tile<V: Vector>(v: V, step: &Step<'_, u16>, tile: &mut [f32]) {
        v.tile_bf16(step, tile);
    }

    #[inline(always)]
    fn store<V: Vector>(v: V, lanes: V::F, out: &mut [u16]) {
        v.store_bf16(lanes, out);
    }

    fn in_words(cpu: &Cpu, rows: &[f32], columns: usize, f: impl FnOnce(&[f32])) {
        let stride = columns.next_multiple_of(2);
        scratch::with(rows.len() / columns * stride, |nearest: &mut [u16]| {
            for (to, from) in nearest.chunks_exact_mut(stride).zip(rows.chunks_exact(columns)) {
                cpu.run(Convert { from, to });
            }
            f(words(nearest));
        });
    }
}

/// The work of widening a row of bf16.
pub(crate) struct Widen<'a> {
    pub(crate) from: &'a [u16],
    pub(crate) to: &'a mut [f32],
}

impl Work for Widen<'_> {
    type Out = ();

    /// Plain Rust, which the compiler vectorises.
    #[inline(always)]
    fn run<V: Vector>(self, _v: V) {
        for (to, from) in self.to.iter_mut().zip(self.from) {
            *to = bf16::widen(*from);
        }
    }
}

/// The work of rounding a row; what `to` has beyond it becomes zero.
pub(crate) struct Convert<'a, T> {
    pub(crate) from: &'a [f32],
    pub(crate) to: &'a mut [T],
}

impl<T: Element> Work for Convert<'_, T> {
    type Out = ();

    /// Plain Rust, which the compiler vectorises.
    #[inline(always)]
    fn run<V: Vector>(self, _v: V) {
        let (to, rest) = self.to.split_at_mut(self.from.len());
        for (to, from) in to.iter_mut().zip(self.from) {
            *to = T::nearest(*from);
        }
        rest.fill(T::nearest(0.0));
    }
}
