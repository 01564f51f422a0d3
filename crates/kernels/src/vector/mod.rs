//! One set of vector operations, three implementations, and the choice between them.
//!
//! Algorithms are written once, generic over [`Vector`], as a [`Work`]. [`Path::run`] calls them inside a function
//! compiled for the path's instructions; everything in between is `#[inline(always)]`, so the operations become single
//! instructions there. An implementation's type proves that the processor has its instructions, because only detection
//! creates it. So the operations are safe to call.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod element;
mod portable;
mod step;
#[cfg(target_arch = "x86_64")]
mod tile;

#[cfg(target_arch = "x86_64")]
use self::{avx2::Avx2, avx512::Avx512};
use crate::Simd;
pub(crate) use element::{Convert, Element, Widen};
use portable::Portable;
pub(crate) use step::{PANEL, Prefetch, Start, Step, TILE_ROWS};

/// The most lanes of any implementation.
pub(crate) const MOST_LANES: usize = 16;

/// The operations. Each lane's result depends on that lane alone, so a value's result does not depend on its index in a
/// slice.
pub(crate) trait Vector: Copy {
    /// Some lanes of f32.
    type F: Copy;
    /// Sixteen values for [`Vector::look_up`].
    type Table: Copy;

    /// Number of lanes.
    const LANES: usize;

    /// Whether a product that passes this many tiles over each panel gains from prefetching the next panel.
    fn fetches(self, tiles: usize) -> bool;

    fn splat(self, value: f32) -> Self::F;
    /// The first values of a slice.
    fn load(self, values: &[f32]) -> Self::F;
    /// Writes to the start of a slice.
    fn store(self, lanes: Self::F, out: &mut [f32]);
    /// Writes the nearest bf16 to the start of a slice, with the bits of [`crate::bf16::round`].
    fn store_bf16(self, lanes: Self::F, out: &mut [u16]);

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c, with a single rounding where the processor can.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// c - a * b, with a single rounding where the processor can.
    fn neg_mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// [`Vector::mul_add`] of single values.
    fn mul_add_one(self, a: f32, b: f32, c: f32) -> f32;
    /// a * b - product: the exact rounding error of the product of a and b.
    fn product_error(self, a: Self::F, b: Self::F, product: Self::F) -> Self::F;
    /// The larger, or x if either is NaN.
    fn max(self, a: Self::F, x: Self::F) -> Self::F;
    /// The smaller, or x if either is NaN.
    fn min(self, a: Self::F, x: Self::F) -> Self::F;
    /// `yes` where x is below zero, otherwise `no`.
    fn where_negative(self, x: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// x where it is NaN, otherwise `kept`.
    fn keep_nan(self, kept: Self::F, x: Self::F) -> Self::F;
    /// Interleaves two vectors: first the lanes of the first halves, then those of the second. Moves bits unchanged.
    fn zip(self, a: Self::F, b: Self::F) -> (Self::F, Self::F);
    /// The first and the second value of each lane's bf16 pair.
    fn widen_pairs(self, pairs: Self::F) -> [Self::F; 2];
    /// The first bytes of a slice, unsigned.
    fn widen_u8(self, bytes: &[u8]) -> Self::F;
    /// The first bytes of a slice, signed.
    fn widen_i8(self, bytes: &[u8]) -> Self::F;
    /// The first f16 of a slice, little-endian.
    fn widen_f16(self, halves: &[u8]) -> Self::F;
    fn table(self, values: [f32; 16]) -> Self::Table;
    /// The table's value at the index in each lane's lowest four bits.
    fn look_up(self, table: Self::Table, words: Self::F) -> Self::F;
    /// Shifts each lane's bits down by `PLACES`.
    fn shift_down<const PLACES: i32>(self, words: Self::F) -> Self::F;
    /// y * 2^n for a whole n between -250 and 250, rounded once.
    fn scale_exp2(self, y: Self::F, n: Self::F) -> Self::F;

    /// Adds a piece of a product to a tile: see [`Step`].
    fn tile(self, step: &Step<'_, f32>, tile: &mut [f32]);
    /// The same for bf16, with adjacent pairs of inputs: see [`Step`].
    fn tile_bf16(self, step: &Step<'_, u16>, tile: &mut [f32]);

    /// The first values of a slice; `fill` in the lanes beyond its end.
    #[inline(always)]
    fn load_or(self, values: &[f32], fill: f32) -> Self::F {
        if values.len() >= Self::LANES {
            return self.load(values);
        }
        let mut padded = [fill; MOST_LANES];
        padded[..values.len()].copy_from_slice(values);
        self.load(&padded)
    }

    /// Writes as many lanes as the slice holds.
    #[inline(always)]
    fn store_some(self, lanes: Self::F, out: &mut [f32]) {
        if out.len() >= Self::LANES {
            return self.store(lanes, out);
        }
        let mut padded = [0.0; MOST_LANES];
        self.store(lanes, &mut padded);
        let count = out.len();
        out.copy_from_slice(&padded[..count]);
    }

    /// The lanes as an array, zero beyond the last.
    #[inline(always)]
    fn lanes(self, lanes: Self::F) -> [f32; MOST_LANES] {
        let mut array = [0.0; MOST_LANES];
        self.store(lanes, &mut array);
        array
    }

    /// The sum of all lanes, by halving: the first half is added to the second until one is left.
    #[inline(always)]
    fn sum(self, lanes: Self::F) -> f32 {
        let mut array = self.lanes(lanes);
        let mut half = MOST_LANES / 2;
        while half > 0 {
            for lane in 0..half {
                array[lane] += array[lane + half];
            }
            half /= 2;
        }
        array[0]
    }
}

/// Work on vectors. `run` must be `#[inline(always)]`, and so must every function that it calls with vectors. Closures
/// must hold no vectors, since they cannot be forced inline. Code that is not inlined is correct, but many times
/// slower.
pub(crate) trait Work {
    type Out;
    fn run<V: Vector>(self, v: V) -> Self::Out;
}

/// The implementation in use.
#[derive(Clone, Copy)]
pub(crate) enum Path {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Path {
    /// The implementation of `simd`, or of the best path below it that the processor has.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn new(simd: Simd) -> Path {
        let wide = if simd == Simd::Avx512 { Avx512::detect() } else { None };
        let middle = if simd == Simd::Portable { None } else { Avx2::detect() };
        match (wide, middle) {
            (Some(wide), _) => Path::Avx512(wide),
            (None, Some(middle)) => Path::Avx2(middle),
            (None, None) => Path::Portable(Portable),
        }
    }

    /// The implementation of `simd`, or of the best path below it that the processor has.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn new(_simd: Simd) -> Path {
        Path::Portable(Portable)
    }

    pub(crate) fn simd(self) -> Simd {
        match self {
            Path::Portable(_) => Simd::Portable,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2(_) => Simd::Avx2,
            #[cfg(target_arch = "x86_64")]
            Path::Avx512(_) => Simd::Avx512,
        }
    }

    /// Whether bf16 instructions multiply bf16 directly. Otherwise it is widened to f32, for many rows at once where
    /// that pays.
    pub(crate) fn multiplies_bf16(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Path::Avx512(v) => v.multiplies_bf16(),
            _ => false,
        }
    }

    /// Every implementation that this machine can run; one `Simd` may have several.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Path> {
        let mut paths: Vec<Path> = Simd::available().into_iter().map(Path::new).collect();
        #[cfg(target_arch = "x86_64")]
        paths.extend(Avx512::detect().map(|wide| Path::Avx512(wide.without_bf16())));
        paths
    }

    /// Runs the work with this implementation's instructions.
    #[inline]
    pub(crate) fn run<W: Work>(self, work: W) -> W::Out {
        match self {
            Path::Portable(v) => work.run(v),
            #[cfg(target_arch = "x86_64")]
            Path::Avx2(v) => v.run(work),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512(v) => v.run(work),
        }
    }
}

#[cfg(test)]
mod tests;
