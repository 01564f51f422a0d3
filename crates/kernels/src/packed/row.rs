//! One row times a panel, widened in registers: only the stored weights pass through memory.

use super::decode::{Kind, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Sink, Tables, decode};
use super::encoding::{Encoding, GROUP};
use super::panel::Panel;
use crate::aligned::cast;
use crate::bf16;
use crate::vector::{PANEL, Vector, Work};

/// The work of multiplying one row by all inputs of a panel, each sum in ascending order as everywhere.
pub(crate) struct MultiplyRow<'a> {
    pub(crate) panel: Panel<'a>,
    /// # Shapes
    /// `[inputs]`.
    pub(crate) x: &'a [f32],
    /// # Shapes
    /// `[PANEL]` at least.
    pub(crate) sums: &'a mut [f32],
}

impl Work for MultiplyRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let MultiplyRow { panel: Panel { encoding, bytes }, x, sums } = self;
        for column in (0..PANEL).step_by(2 * V::LANES) {
            let sums = &mut sums[column..column + 2 * V::LANES];
            match encoding {
                Encoding::F32 => f32(v, cast(bytes), x, column, sums),
                Encoding::F16 => f16(v, bytes, x, column, sums),
                Encoding::Bf16 => bf16(v, cast(bytes), x, column, sums),
                Encoding::Q4_0 => blocks::<V, Q4_0>(v, bytes, x, column, sums),
                Encoding::Q4_1 => blocks::<V, Q4_1>(v, bytes, x, column, sums),
                Encoding::Q5_0 => blocks::<V, Q5_0>(v, bytes, x, column, sums),
                Encoding::Q5_1 => blocks::<V, Q5_1>(v, bytes, x, column, sums),
                Encoding::Q8_0 => blocks::<V, Q8_0>(v, bytes, x, column, sums),
                Encoding::Q4K => blocks::<V, Q4K>(v, bytes, x, column, sums),
                Encoding::Q5K => blocks::<V, Q5K>(v, bytes, x, column, sums),
                Encoding::Q6K => blocks::<V, Q6K>(v, bytes, x, column, sums),
            }
        }
    }
}

/// Two registers of sums, and a group's inputs.
struct Sums<'a, V: Vector> {
    x: &'a [f32],
    sums: [V::F; 2],
}

impl<V: Vector> Sink<V> for Sums<'_, V> {
    #[inline(always)]
    fn take(&mut self, v: V, input: usize, register: usize, weights: V::F) {
        self.sums[register] = v.mul_add(v.splat(self.x[input]), weights, self.sums[register]);
    }
}

impl<V: Vector> Sums<'_, V> {
    #[inline(always)]
    fn store(self, v: V, out: &mut [f32]) {
        v.store(self.sums[0], out);
        v.store(self.sums[1], &mut out[V::LANES..]);
    }
}

#[inline(always)]
fn blocks<V: Vector, K: Kind>(v: V, bytes: &[u8], x: &[f32], column: usize, out: &mut [f32]) {
    let blocks = K::BLOCKS;
    let tables = Tables::new::<K>(v);
    let mut sums = Sums { x, sums: [v.splat(0.0); 2] };
    let stored = bytes.chunks_exact(blocks.bytes());
    for (block, x) in stored.zip(x.chunks_exact(blocks.groups() * GROUP)) {
        let (head, groups) = block.split_at(blocks.head());
        for (group, x) in groups.chunks_exact(blocks.group()).zip(x.chunks_exact(GROUP)) {
            sums.x = x;
            decode::<V, K, _>(v, tables, head, group, column, &mut sums);
        }
    }
    sums.store(v, out);
}

#[inline(always)]
fn f32<V: Vector>(v: V, weights: &[f32], x: &[f32], column: usize, out: &mut [f32]) {
    let mut sums = Sums { x, sums: [v.splat(0.0); 2] };
    for (input, weights) in weights.chunks_exact(PANEL).enumerate() {
        sums.take(v, input, 0, v.load(&weights[column..]));
        sums.take(v, input, 1, v.load(&weights[column + V::LANES..]));
    }
    sums.store(v, out);
}

#[inline(always)]
fn f16<V: Vector>(v: V, halves: &[u8], x: &[f32], column: usize, out: &mut [f32]) {
    let mut sums = Sums { x, sums: [v.splat(0.0); 2] };
    for (input, halves) in halves.chunks_exact(2 * PANEL).enumerate() {
        sums.take(v, input, 0, v.widen_f16(&halves[2 * column..]));
        sums.take(v, input, 1, v.widen_f16(&halves[2 * (column + V::LANES)..]));
    }
    sums.store(v, out);
}

#[inline(always)]
fn bf16<V: Vector>(v: V, pairs: &[f32], x: &[f32], column: usize, out: &mut [f32]) {
    let mut sums = Sums { x, sums: [v.splat(0.0); 2] };
    let (twos, last) = x.as_chunks::<2>();
    let mut rows = pairs.chunks_exact(PANEL);
    for (two, pairs) in twos.iter().zip(rows.by_ref()) {
        sums.x = two;
        let [low, high] = [v.load(&pairs[column..]), v.load(&pairs[column + V::LANES..])];
        let (low, high) = (v.widen_pairs(low), v.widen_pairs(high));
        sums.take(v, 0, 0, low[0]);
        sums.take(v, 0, 1, high[0]);
        sums.take(v, 1, 0, low[1]);
        sums.take(v, 1, 1, high[1]);
    }
    sums.store(v, out);
    // For an odd last input, only the first weight of each pair counts.
    if let (Some(x), Some(pairs)) = (last.first(), rows.next()) {
        for (out, pair) in out.iter_mut().zip(&pairs[column..]) {
            let weight = [bf16::widen(pair.to_bits() as u16)];
            let mut one = [*out];
            v.store_some(v.mul_add(v.splat(*x), v.load_or(&weight, 0.0), v.load_or(&one, 0.0)), &mut one);
            *out = one[0];
        }
    }
}
