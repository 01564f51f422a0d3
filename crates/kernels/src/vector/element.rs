//! The value types that products multiply.

use super::{PANEL, Step, Vector, Work};
use crate::aligned::{Plain, cast};
use crate::packed::{Decode, MultiplyRow, Panel};
use crate::{Cpu, Encoding, bf16, scratch};
use std::ops::Range;

/// A value type that products multiply.
pub(crate) trait Element: Plain {
    /// Inputs of a column that are adjacent in a panel.
    const TOGETHER: usize;

    /// The nearest value of this type.
    fn nearest(value: f32) -> Self;
    fn widened(self) -> f32;
    fn tile<V: Vector>(v: V, step: &Step<'_, Self>, tile: &mut [f32]);
    /// Writes the nearest values to the start of a slice.
    fn store<V: Vector>(v: V, lanes: V::F, out: &mut [Self]);

    /// Calls `f` with rows of the nearest values as 32-bit words; zeros pad each row's last word.
    ///
    /// # Shapes
    /// rows: `[rows, columns]`, at least one column; `f` gets `[rows, columns / TOGETHER rounded up]`.
    fn in_words(cpu: &Cpu, rows: &[f32], columns: usize, f: impl FnOnce(&[f32]));

    /// The weights of a range of a panel's inputs, in the layout of this type: as stored, or widened into `room`.
    ///
    /// # Shapes
    /// room: `[inputs, PANEL]` at least.
    ///
    /// # Panics
    /// If panels of this kind are not multiplied in this type.
    fn weights<'a>(cpu: &Cpu, panel: Panel<'a>, inputs: Range<usize>, room: &'a mut [Self]) -> &'a [Self];

    /// If the panel is stored as another type, multiplies one row with all of it into [`PANEL`] sums and returns
    /// `true`.
    fn multiply_row(_cpu: &Cpu, _panel: Panel<'_>, _x: &[Self], _sums: &mut [f32]) -> bool {
        false
    }

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

    fn weights<'a>(cpu: &Cpu, panel: Panel<'a>, inputs: Range<usize>, room: &'a mut [f32]) -> &'a [f32] {
        if panel.encoding == Encoding::F32 {
            return &cast(panel.bytes)[inputs.start * PANEL..inputs.end * PANEL];
        }
        let room = &mut room[..inputs.len() * PANEL];
        cpu.run(Decode { panel, inputs, room });
        room
    }

    fn multiply_row(cpu: &Cpu, panel: Panel<'_>, x: &[f32], sums: &mut [f32]) -> bool {
        let is_decoded = panel.encoding != Encoding::F32;
        if is_decoded {
            cpu.run(MultiplyRow { panel, x, sums });
        }
        is_decoded
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
            f(cast(nearest));
        });
    }

    fn weights<'a>(_cpu: &Cpu, panel: Panel<'a>, inputs: Range<usize>, _room: &'a mut [u16]) -> &'a [u16] {
        assert_eq!(panel.encoding, Encoding::Bf16, "weights that are multiplied as bf16");
        &cast(panel.bytes)[inputs.start * PANEL..inputs.end * PANEL]
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

/// The work of rounding a row; the rest of `to` becomes zero.
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
