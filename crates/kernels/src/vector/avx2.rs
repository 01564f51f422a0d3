//! The operations with AVX2, FMA and F16C.

use super::tile::{Place, Registers, product, product_bf16};
use super::{PANEL, Prefetch, Step, Vector, Work};
use crate::Simd;
use std::arch::x86_64::*;

/// Proof that the processor has AVX2, FMA and F16C: only [`Avx2::detect`] makes one.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Rows of a tile's part: six rows of two registers leave four of the 16 registers for weights and input.
const ROWS: usize = 6;

impl Avx2 {
    pub(super) fn detect() -> Option<Avx2> {
        Simd::Avx2.is_available().then_some(Avx2(()))
    }

    pub(super) fn run<W: Work>(self, work: W) -> W::Out {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inside<W: Work>(v: Avx2, work: W) -> W::Out {
            work.run(v)
        }
        // SAFETY: `self` proves that the processor has these instructions.
        unsafe { inside(self, work) }
    }
}

/// Calls one intrinsic.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: an `Avx2` proves that the processor has AVX2, FMA and F16C; these intrinsics touch no memory.
        unsafe { $call }
    };
}

impl Vector for Avx2 {
    type F = __m256;
    /// The first eight values, and the last eight.
    type Table = [__m256; 2];

    const LANES: usize = 8;

    #[inline(always)]
    fn fetches(self, _tiles: usize) -> bool {
        true
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        intrinsic!(_mm256_set1_ps(value))
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> __m256 {
        let values = &values[..8];
        // SAFETY: the slice holds eight values.
        unsafe { self.load_from(values.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, lanes: __m256, out: &mut [f32]) {
        let out = &mut out[..8];
        // SAFETY: the slice holds eight values.
        unsafe { self.store_to(lanes, out.as_mut_ptr()) }
    }

    #[inline(always)]
    fn store_bf16(self, lanes: __m256, out: &mut [u16]) {
        let out = &mut out[..8];
        // SAFETY: the slice holds eight values; an `Avx2` proves the instructions.
        unsafe {
            let bits = _mm256_castps_si256(lanes);
            let upper = _mm256_srli_epi32::<16>(bits);
            let even = _mm256_and_si256(upper, _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff));
            let nearest = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
            let quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(lanes, lanes));
            let bits = _mm256_blendv_epi8(nearest, quiet, nan);
            // Each half of the register packs on its own; then the third quarter moves next to the first.
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(bits, bits));
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_castsi256_si128(packed));
        }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        intrinsic!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn neg_mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        intrinsic!(_mm256_fnmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn mul_add_one(self, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn product_error(self, a: __m256, b: __m256, product: __m256) -> __m256 {
        intrinsic!(_mm256_fmsub_ps(a, b, product))
    }

    #[inline(always)]
    fn max(self, a: __m256, x: __m256) -> __m256 {
        intrinsic!(_mm256_max_ps(a, x))
    }

    #[inline(always)]
    fn min(self, a: __m256, x: __m256) -> __m256 {
        intrinsic!(_mm256_min_ps(a, x))
    }

    #[inline(always)]
    fn where_negative(self, x: __m256, yes: __m256, no: __m256) -> __m256 {
        intrinsic!(_mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_setzero_ps())))
    }

    #[inline(always)]
    fn keep_nan(self, kept: __m256, x: __m256) -> __m256 {
        intrinsic!(_mm256_blendv_ps(kept, x, _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x)))
    }

    #[inline(always)]
    fn zip(self, a: __m256, b: __m256) -> (__m256, __m256) {
        // Each half of a register zips on its own.
        let (even, odd) = intrinsic!((_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)));
        intrinsic!((_mm256_permute2f128_ps::<0x20>(even, odd), _mm256_permute2f128_ps::<0x31>(even, odd)))
    }

    #[inline(always)]
    fn widen_pairs(self, pairs: __m256) -> [__m256; 2] {
        intrinsic!({
            let pairs = _mm256_castps_si256(pairs);
            [widened::<false>(pairs), widened::<true>(pairs)]
        })
    }

    #[inline(always)]
    fn widen_u8(self, bytes: &[u8]) -> __m256 {
        let bytes = &bytes[..8];
        // SAFETY: the slice holds eight bytes; an `Avx2` proves the instructions.
        unsafe {
            let bytes = _mm_loadl_epi64(bytes.as_ptr().cast());
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
        }
    }

    #[inline(always)]
    fn widen_i8(self, bytes: &[u8]) -> __m256 {
        let bytes = &bytes[..8];
        // SAFETY: as above.
        unsafe {
            let bytes = _mm_loadl_epi64(bytes.as_ptr().cast());
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
        }
    }

    #[inline(always)]
    fn widen_f16(self, halves: &[u8]) -> __m256 {
        let halves = &halves[..16];
        // SAFETY: the slice holds eight halves; an `Avx2` proves the instructions.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast())) }
    }

    #[inline(always)]
    fn table(self, values: [f32; 16]) -> [__m256; 2] {
        [self.load(&values), self.load(&values[8..])]
    }

    #[inline(always)]
    fn look_up(self, table: [__m256; 2], words: __m256) -> __m256 {
        intrinsic!({
            let words = _mm256_castps_si256(words);
            let first = _mm256_permutevar8x32_ps(table[0], words);
            let second = _mm256_permutevar8x32_ps(table[1], words);
            // The fourth bit, as the sign, selects one of the two.
            let fourth = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(words));
            _mm256_blendv_ps(first, second, fourth)
        })
    }

    #[inline(always)]
    fn shift_down<const PLACES: i32>(self, words: __m256) -> __m256 {
        intrinsic!(_mm256_castsi256_ps(_mm256_srli_epi32::<PLACES>(_mm256_castps_si256(words))))
    }

    #[inline(always)]
    fn scale_exp2(self, y: __m256, n: __m256) -> __m256 {
        // Two factors, since 2^n alone may not be an f32 while y * 2^n is. The first product is exact.
        intrinsic!({
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            _mm256_mul_ps(_mm256_mul_ps(y, exp2(half)), exp2(_mm256_sub_epi32(n, half)))
        })
    }

    fn tile(self, step: &Step<'_, f32>, tile: &mut [f32]) {
        step.check(tile);
        in_parts(step.rows, step.next, |rows, place| {
            // SAFETY: the step is checked, and parts stay within its rows and the panel; `self` proves the instructions.
            unsafe {
                match rows {
                    1 => part::<1>(self, step, place, tile),
                    2 => part::<2>(self, step, place, tile),
                    3 => part::<3>(self, step, place, tile),
                    4 => part::<4>(self, step, place, tile),
                    5 => part::<5>(self, step, place, tile),
                    _ => part::<6>(self, step, place, tile),
                }
            }
        });
    }

    fn tile_bf16(self, step: &Step<'_, u16>, tile: &mut [f32]) {
        step.check_pairs(tile);
        in_parts(step.rows, step.next, |rows, place| {
            // SAFETY: as in `tile`.
            unsafe {
                match rows {
                    1 => part_bf16::<1>(self, step, place, tile),
                    2 => part_bf16::<2>(self, step, place, tile),
                    3 => part_bf16::<3>(self, step, place, tile),
                    4 => part_bf16::<4>(self, step, place, tile),
                    5 => part_bf16::<5>(self, step, place, tile),
                    _ => part_bf16::<6>(self, step, place, tile),
                }
            }
        });
    }
}

// SAFETY: each function reads and writes exactly what the trait says.
unsafe impl Registers for Avx2 {
    #[inline(always)]
    unsafe fn load_from(self, values: *const f32) -> __m256 {
        // SAFETY: by the caller's promise; `self` proves the instruction.
        unsafe { _mm256_loadu_ps(values) }
    }

    #[inline(always)]
    unsafe fn store_to(self, lanes: __m256, out: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(out, lanes) }
    }

    #[inline(always)]
    fn prefetch(self, line: *const u8) {
        intrinsic!(_mm_prefetch::<_MM_HINT_T0>(line.cast()));
    }

    #[inline(always)]
    unsafe fn load_of_pairs<const SECOND: bool>(self, pairs: *const u16) -> __m256 {
        // SAFETY: as above.
        unsafe { widened::<SECOND>(_mm256_loadu_si256(pairs.cast())) }
    }

    #[inline(always)]
    unsafe fn splat_of_pair<const SECOND: bool>(self, pair: *const u16) -> __m256 {
        // SAFETY: as above; two u16 are one i32 without its alignment.
        unsafe { widened::<SECOND>(_mm256_set1_epi32(pair.cast::<i32>().read_unaligned())) }
    }
}

/// 2^n for a whole n between -126 and 127.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn exp2(n: __m256i) -> __m256 {
    // SAFETY: by the caller's promise.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127)))) }
}

/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn widened<const SECOND: bool>(pairs: __m256i) -> __m256 {
    // SAFETY: by the caller's promise.
    unsafe {
        _mm256_castsi256_ps(if SECOND {
            _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32))
        } else {
            _mm256_slli_epi32::<16>(pairs)
        })
    }
}

/// Calls `f` with the number of rows and the place of parts that cover the tile: of even height, columns innermost, so
/// that a part's inputs stay in the cache. Each part does its share of the prefetch.
#[inline(always)]
fn in_parts(rows: usize, next: Prefetch, mut f: impl FnMut(usize, Place)) {
    const WIDTH: usize = 2 * Avx2::LANES;
    const ACROSS: usize = PANEL / WIDTH;
    let parts = rows.div_ceil(ROWS);
    for part in 0..parts {
        let (start, end) = (part * rows / parts, (part + 1) * rows / parts);
        for across in 0..ACROSS {
            let next = next.part(part * ACROSS + across, parts * ACROSS);
            f(end - start, Place { row: start, column: across * WIDTH, next });
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn part<const M: usize>(v: Avx2, step: &Step<'_, f32>, place: Place, tile: &mut [f32]) {
    // SAFETY: by the caller's promise, which is the same.
    unsafe { product::<Avx2, M>(v, step, place, tile) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn part_bf16<const M: usize>(v: Avx2, step: &Step<'_, u16>, place: Place, tile: &mut [f32]) {
    // SAFETY: by the caller's promise, which is the same.
    unsafe { product_bf16::<Avx2, M>(v, step, place, tile) }
}
