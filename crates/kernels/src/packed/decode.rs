//! Panels as f32, whatever their encoding. The bits are those of decoding the file: a scale of 11 bits times a number
//! of at most 8, or one of 17 times one of 5, is exact in f32, so adding a minimum rounds once, fused or not.

use super::encoding::{Blocks, Encoding, GROUP, Scales};
use super::panel::Panel;
use crate::aligned::cast;
use crate::bf16;
use crate::vector::{PANEL, Vector, Work};
use std::ops::Range;

/// The work of widening a range of a panel's inputs.
pub(crate) struct Decode<'a> {
    pub(crate) panel: Panel<'a>,
    /// Whole groups of blocks, starting at an even input.
    pub(crate) inputs: Range<usize>,
    /// # Shapes
    /// `[inputs, PANEL]`.
    pub(crate) room: &'a mut [f32],
}

impl Work for Decode<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Decode { panel: Panel { encoding, bytes }, inputs, room } = self;
        match encoding {
            Encoding::F32 => room.copy_from_slice(&cast(bytes)[inputs.start * PANEL..inputs.end * PANEL]),
            Encoding::F16 => f16(v, &bytes[inputs.start * 2 * PANEL..inputs.end * 2 * PANEL], room),
            Encoding::Bf16 => bf16(v, &cast(bytes)[inputs.start / 2 * PANEL..], room),
            Encoding::Q4_0 => blocks::<V, Q4_0>(v, bytes, inputs, room),
            Encoding::Q4_1 => blocks::<V, Q4_1>(v, bytes, inputs, room),
            Encoding::Q5_0 => blocks::<V, Q5_0>(v, bytes, inputs, room),
            Encoding::Q5_1 => blocks::<V, Q5_1>(v, bytes, inputs, room),
            Encoding::Q8_0 => blocks::<V, Q8_0>(v, bytes, inputs, room),
            Encoding::Q4K => blocks::<V, Q4K>(v, bytes, inputs, room),
            Encoding::Q5K => blocks::<V, Q5K>(v, bytes, inputs, room),
            Encoding::Q6K => blocks::<V, Q6K>(v, bytes, inputs, room),
        }
    }
}

#[inline(always)]
fn f16<V: Vector>(v: V, halves: &[u8], room: &mut [f32]) {
    for (halves, out) in halves.chunks_exact(2 * V::LANES).zip(room.chunks_exact_mut(V::LANES)) {
        v.store(v.widen_f16(halves), out);
    }
}

/// Each word holds a pair of inputs: the first goes to one row, the second to the next.
#[inline(always)]
fn bf16<V: Vector>(v: V, pairs: &[f32], room: &mut [f32]) {
    let mut pairs = pairs.chunks_exact(PANEL);
    let mut rows = room.chunks_exact_mut(2 * PANEL);
    for (rows, pairs) in rows.by_ref().zip(pairs.by_ref()) {
        let (first, second) = rows.split_at_mut(PANEL);
        for column in (0..PANEL).step_by(V::LANES) {
            let [a, b] = v.widen_pairs(v.load(&pairs[column..]));
            v.store(a, &mut first[column..]);
            v.store(b, &mut second[column..]);
        }
    }
    // An odd last input.
    let rest = rows.into_remainder();
    if let (false, Some(pairs)) = (rest.is_empty(), pairs.next()) {
        rest.iter_mut().zip(pairs).for_each(|(out, pair)| *out = bf16::widen(pair.to_bits() as u16));
    }
}

/// A kind of block as a type, so that each compiles to its own code.
pub(super) trait Kind {
    const BLOCKS: Blocks;
}

macro_rules! kinds {
    ($($kind:ident),*) => {$(
        pub(super) struct $kind;

        impl Kind for $kind {
            const BLOCKS: Blocks = match Encoding::$kind.blocks() {
                Some(blocks) => blocks,
                None => panic!("no type of block"),
            };
        }
    )*};
}

kinds!(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K);

/// Decodes groups of a panel of blocks.
#[inline(always)]
fn blocks<V: Vector, K: Kind>(v: V, bytes: &[u8], inputs: Range<usize>, room: &mut [f32]) {
    let blocks = K::BLOCKS;
    let tables = Tables::new::<K>(v);
    for (group, out) in (inputs.start / GROUP..).zip(room.chunks_exact_mut(GROUP * PANEL)) {
        let block = &bytes[group / blocks.groups() * blocks.bytes()..][..blocks.bytes()];
        let start = blocks.head() + group % blocks.groups() * blocks.group();
        let (head, group) = (&block[..blocks.head()], &block[start..][..blocks.group()]);
        for column in (0..PANEL).step_by(2 * V::LANES) {
            decode::<V, K, _>(v, tables, head, group, column, &mut Room { out: &mut *out, column });
        }
    }
}

/// Receives widened weights, one register at a time.
pub(super) trait Sink<V: Vector> {
    /// Takes the weights of one input of the group, for the first (0) or second (1) register of columns.
    fn take(&mut self, v: V, input: usize, register: usize, weights: V::F);
}

/// Memory.
struct Room<'a> {
    /// # Shapes
    /// `[GROUP, PANEL]`.
    out: &'a mut [f32],
    column: usize,
}

impl<V: Vector> Sink<V> for Room<'_> {
    #[inline(always)]
    fn take(&mut self, v: V, input: usize, register: usize, weights: V::F) {
        v.store(weights, &mut self.out[input * PANEL + self.column + register * V::LANES..]);
    }
}

/// Tables that map bits to values, without the offset of each number's highest bits.
#[derive(Clone, Copy)]
pub(super) struct Tables<V: Vector> {
    low: V::Table,
    high: V::Table,
}

impl<V: Vector> Tables<V> {
    #[inline(always)]
    pub(super) fn new<K: Kind>(v: V) -> Self {
        let Blocks { bits, offset, .. } = K::BLOCKS;
        let (mut low, mut high) = ([0.0; 16], [0.0; 16]);
        for i in 0..16_u8 {
            low[usize::from(i)] = f32::from(i) - if bits == 4 { offset } else { 0.0 };
            let above = if bits == 5 { i & 1 } else { i & 3 };
            high[usize::from(i)] = 16.0 * f32::from(above) - offset;
        }
        Tables { low: v.table(low), high: v.table(high) }
    }
}

/// Decodes two registers of columns of a group.
#[inline(always)]
pub(super) fn decode<V: Vector, K: Kind, S: Sink<V>>(
    v: V,
    tables: Tables<V>,
    head: &[u8],
    group: &[u8],
    column: usize,
    sink: &mut S,
) {
    let Blocks { bits, .. } = K::BLOCKS;
    let columns = [column, column + V::LANES];
    let mut high = [v.splat(0.0); 2];
    for eight in 0..GROUP / 8 {
        let scales = [
            scales::<V, K>(v, head, group, columns[0], eight / 2),
            scales::<V, K>(v, head, group, columns[1], eight / 2),
        ];
        let mut low = [v.splat(0.0); 2];
        if bits < 8 {
            let words: &[f32] = cast(&group[K::BLOCKS.numbers()..]);
            low =
                [v.load(&words[eight * PANEL + columns[0]..]), v.load(&words[eight * PANEL + columns[1]..])];
        }
        if bits == 5 && eight == 0 || bits == 6 && eight % 2 == 0 {
            let words: &[f32] = cast(&group[K::BLOCKS.high()..]);
            let row = eight / 2 * PANEL;
            high = [v.load(&words[row + columns[0]..]), v.load(&words[row + columns[1]..])];
        }
        for input in 8 * eight..8 * eight + 8 {
            for i in 0..2 {
                let number = if bits == 8 {
                    v.widen_i8(&group[K::BLOCKS.numbers() + input * PANEL + columns[i]..])
                } else {
                    let number = v.look_up(tables.low, low[i]);
                    low[i] = v.shift_down::<4>(low[i]);
                    if bits == 4 { number } else { v.add(number, v.look_up(tables.high, high[i])) }
                };
                if bits == 5 {
                    high[i] = v.shift_down::<1>(high[i]);
                } else if bits == 6 {
                    high[i] = v.shift_down::<2>(high[i]);
                }
                let [scale, minimum] = scales[i];
                let weight = match K::BLOCKS.scales {
                    Scales::One | Scales::OfHalves => v.mul(number, scale),
                    Scales::WithMinimum | Scales::Bytes => v.mul_add(number, scale, minimum),
                };
                sink.take(v, input, i, weight);
            }
        }
    }
}

/// The factor and the addend of a register of numbers, in one half of a group.
#[inline(always)]
fn scales<V: Vector, K: Kind>(v: V, head: &[u8], group: &[u8], column: usize, half: usize) -> [V::F; 2] {
    let (first, second) = (2 * column, 2 * (PANEL + column));
    match K::BLOCKS.scales {
        Scales::One => [v.widen_f16(&group[first..]), v.splat(0.0)],
        Scales::WithMinimum => [v.widen_f16(&group[first..]), v.widen_f16(&group[second..])],
        Scales::Bytes => {
            let scale = v.mul(v.widen_f16(&head[first..]), v.widen_u8(&group[column..]));
            let minimum = v.mul(v.widen_f16(&head[second..]), v.widen_u8(&group[PANEL + column..]));
            [scale, v.mul(minimum, v.splat(-1.0))]
        }
        Scales::OfHalves => {
            let scale = v.widen_i8(&group[half * PANEL + column..]);
            [v.mul(v.widen_f16(&head[first..]), scale), v.splat(0.0)]
        }
    }
}
