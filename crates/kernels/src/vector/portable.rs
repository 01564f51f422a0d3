//! The operations in safe Rust, written so that the compiler vectorises them for any processor.

use super::{PANEL, Start, Step, Vector};
use crate::{bf16, f16};

/// Needs nothing of the processor.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// Rows and columns of a tile's part, which fit in 16 registers of four lanes.
const ROWS: usize = 4;
const COLUMNS: usize = 8;

type F = [f32; 8];

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> F {
    std::array::from_fn(f)
}

/// 2^n for a whole n between -126 and 127; an arbitrary number for NaN.
#[inline(always)]
fn exp2(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

impl Vector for Portable {
    type F = F;
    type Table = [f32; 16];

    const LANES: usize = 8;

    #[inline(always)]
    fn fetches(self, _tiles: usize) -> bool {
        false
    }

    #[inline(always)]
    fn splat(self, value: f32) -> F {
        [value; 8]
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> F {
        let values = &values[..8];
        each(|i| values[i])
    }

    #[inline(always)]
    fn store(self, lanes: F, out: &mut [f32]) {
        out[..8].copy_from_slice(&lanes);
    }

    #[inline(always)]
    fn store_bf16(self, lanes: F, out: &mut [u16]) {
        out[..8].copy_from_slice(&lanes.map(bf16::round));
    }

    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        each(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        each(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        each(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        each(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn mul_add(self, a: F, b: F, c: F) -> F {
        each(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn neg_mul_add(self, a: F, b: F, c: F) -> F {
        each(|i| c[i] - a[i] * b[i])
    }

    #[inline(always)]
    fn mul_add_one(self, a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }

    #[inline(always)]
    fn product_error(self, a: F, b: F, product: F) -> F {
        // The product of two f32 is exact in f64.
        each(|i| (f64::from(a[i]) * f64::from(b[i]) - f64::from(product[i])) as f32)
    }

    #[inline(always)]
    fn max(self, a: F, x: F) -> F {
        each(|i| if a[i] > x[i] { a[i] } else { x[i] })
    }

    #[inline(always)]
    fn min(self, a: F, x: F) -> F {
        each(|i| if a[i] < x[i] { a[i] } else { x[i] })
    }

    #[inline(always)]
    fn where_negative(self, x: F, yes: F, no: F) -> F {
        each(|i| if x[i] < 0.0 { yes[i] } else { no[i] })
    }

    #[inline(always)]
    fn keep_nan(self, kept: F, x: F) -> F {
        each(|i| if x[i].is_nan() { x[i] } else { kept[i] })
    }

    #[inline(always)]
    fn zip(self, a: F, b: F) -> (F, F) {
        let turn = |i: usize| if i.is_multiple_of(2) { a[i / 2] } else { b[i / 2] };
        (each(turn), each(|i| turn(i + 8)))
    }

    #[inline(always)]
    fn widen_pairs(self, pairs: F) -> [F; 2] {
        [
            each(|i| f32::from_bits(pairs[i].to_bits() << 16)),
            each(|i| f32::from_bits(pairs[i].to_bits() & 0xffff_0000)),
        ]
    }

    #[inline(always)]
    fn widen_u8(self, bytes: &[u8]) -> F {
        let bytes = &bytes[..8];
        each(|i| f32::from(bytes[i]))
    }

    #[inline(always)]
    fn widen_i8(self, bytes: &[u8]) -> F {
        let bytes = &bytes[..8];
        each(|i| f32::from(bytes[i] as i8))
    }

    #[inline(always)]
    fn widen_f16(self, halves: &[u8]) -> F {
        let halves = &halves[..16];
        each(|i| f16::widen(u16::from_le_bytes([halves[2 * i], halves[2 * i + 1]])))
    }

    #[inline(always)]
    fn table(self, values: [f32; 16]) -> [f32; 16] {
        values
    }

    #[inline(always)]
    fn look_up(self, table: [f32; 16], words: F) -> F {
        each(|i| table[(words[i].to_bits() & 15) as usize])
    }

    #[inline(always)]
    fn shift_down<const PLACES: i32>(self, words: F) -> F {
        each(|i| f32::from_bits(words[i].to_bits() >> PLACES))
    }

    #[inline(always)]
    fn scale_exp2(self, y: F, n: F) -> F {
        // Two factors, since 2^n alone may not be an f32 while y * 2^n is. The first product is exact.
        each(|i| {
            let n = n[i] as i32;
            let half = n >> 1;
            y[i] * exp2(half) * exp2(n - half)
        })
    }

    fn tile(self, step: &Step<'_, f32>, tile: &mut [f32]) {
        step.check(tile);
        in_parts(step.rows, |row, rows| match rows {
            4 => part::<4>(step, row, tile),
            3 => part::<3>(step, row, tile),
            2 => part::<2>(step, row, tile),
            _ => part::<1>(step, row, tile),
        });
    }

    fn tile_bf16(self, step: &Step<'_, u16>, tile: &mut [f32]) {
        step.check_pairs(tile);
        in_parts(step.rows, |row, rows| match rows {
            4 => part_bf16::<4>(step, row, tile),
            3 => part_bf16::<3>(step, row, tile),
            2 => part_bf16::<2>(step, row, tile),
            _ => part_bf16::<1>(step, row, tile),
        });
    }
}

/// Calls `f` with a first row and a number of rows, at most [`ROWS`], until all rows are covered.
fn in_parts(rows: usize, mut f: impl FnMut(usize, usize)) {
    let mut row = 0;
    while row < rows {
        let count = ROWS.min(rows - row);
        f(row, count);
        row += count;
    }
}

fn load<const M: usize>(start: Start, tile: &[f32], row: usize, column: usize) -> [[f32; COLUMNS]; M] {
    match start {
        Start::Zero => [[0.0; COLUMNS]; M],
        Start::Tile => std::array::from_fn(|r| std::array::from_fn(|c| tile[(row + r) * PANEL + column + c])),
    }
}

fn store<const M: usize>(tile: &mut [f32], row: usize, column: usize, sums: [[f32; COLUMNS]; M]) {
    for (r, sums) in sums.iter().enumerate() {
        tile[(row + r) * PANEL + column..][..COLUMNS].copy_from_slice(sums);
    }
}

fn part<const M: usize>(step: &Step<'_, f32>, row: usize, tile: &mut [f32]) {
    let x: [&[f32]; M] = std::array::from_fn(|r| &step.x[(row + r) * step.x_stride..][..step.inputs]);
    for column in (0..PANEL).step_by(COLUMNS) {
        let mut sums = load::<M>(step.start, tile, row, column);
        for k in 0..step.inputs {
            let weights = &step.panel[k * step.panel_stride + column..][..COLUMNS];
            for (sums, x) in sums.iter_mut().zip(x) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum += x[k] * weight;
                }
            }
        }
        store(tile, row, column, sums);
    }
}

fn part_bf16<const M: usize>(step: &Step<'_, u16>, row: usize, tile: &mut [f32]) {
    let x: [&[u16]; M] = std::array::from_fn(|r| &step.x[(row + r) * step.x_stride..][..step.inputs]);
    for column in (0..PANEL).step_by(COLUMNS) {
        let mut sums = load::<M>(step.start, tile, row, column);
        for pair in 0..step.inputs / 2 {
            let weights = &step.panel[(pair * PANEL + column) * 2..][..COLUMNS * 2];
            for odd in 0..2 {
                let weights: [f32; COLUMNS] = std::array::from_fn(|c| bf16::widen(weights[2 * c + odd]));
                for (sums, x) in sums.iter_mut().zip(x) {
                    let x = bf16::widen(x[2 * pair + odd]);
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum += x * weight;
                    }
                }
            }
        }
        store(tile, row, column, sums);
    }
}
