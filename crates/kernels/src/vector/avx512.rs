//! The operations with AVX-512, and with AVX-512 BF16 where the processor has it.

use super::tile::{Place, Registers, fetch, load_sums, product, product_bf16, store_sums};
use super::{PANEL, Step, Vector, Work};
use crate::Simd;
use std::arch::x86_64::*;

/// Proof that the processor has AVX-512 F, BW, DQ and VL: only [`Avx512::detect`] makes one.
#[derive(Clone, Copy)]
pub(crate) struct Avx512 {
    /// Set only if the processor has AVX-512 BF16 and multiplies faster with it than with f32.
    bf16: bool,
    intel: bool,
}

/// From this many tiles on, a product on AMD prefetches the next panel. With fewer, Zen 4's own prefetcher keeps up,
/// and the requests only cost (1 to 16 rows take a tenth longer).
const TILES_TO_FETCH: usize = 4;

impl Avx512 {
    pub(super) fn detect() -> Option<Avx512> {
        let intel = is_of_intel();
        let bf16 = is_x86_feature_detected!("avx512bf16") && !intel;
        Simd::Avx512.is_available().then_some(Avx512 { bf16, intel })
    }

    pub(super) fn multiplies_bf16(self) -> bool {
        self.bf16
    }

    /// The same without bf16 instructions, as on the first processors with AVX-512.
    #[cfg(test)]
    pub(super) fn without_bf16(self) -> Avx512 {
        Avx512 { bf16: false, ..self }
    }

    pub(super) fn run<W: Work>(self, work: W) -> W::Out {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn inside<W: Work>(v: Avx512, work: W) -> W::Out {
            work.run(v)
        }
        // SAFETY: `self` proves that the processor has these instructions.
        unsafe { inside(self, work) }
    }
}

/// Intel's bf16 instruction is slower than the two f32 instructions that do the same: 85 GFLOP/s against 178 on
/// Sapphire Rapids, where Zen 4 has 236 against 118. Intel's matrix unit would be faster than either.
fn is_of_intel() -> bool {
    let vendor = __cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx] == [*b"Genu", *b"ineI", *b"ntel"].map(u32::from_le_bytes)
}

/// Calls one intrinsic.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: an `Avx512` proves that the processor has AVX-512; these intrinsics touch no memory.
        unsafe { $call }
    };
}

/// Calls a part of the micro-kernel with the number of rows as a constant.
macro_rules! with_rows {
    ($rows:expr, $part:ident, $($argument:expr),*) => {
        match $rows {
            1 => $part::<1>($($argument),*),
            2 => $part::<2>($($argument),*),
            3 => $part::<3>($($argument),*),
            4 => $part::<4>($($argument),*),
            5 => $part::<5>($($argument),*),
            6 => $part::<6>($($argument),*),
            7 => $part::<7>($($argument),*),
            8 => $part::<8>($($argument),*),
            9 => $part::<9>($($argument),*),
            10 => $part::<10>($($argument),*),
            11 => $part::<11>($($argument),*),
            _ => $part::<12>($($argument),*),
        }
    };
}

impl Vector for Avx512 {
    type F = __m512;
    type Table = __m512;

    const LANES: usize = 16;

    #[inline(always)]
    fn fetches(self, tiles: usize) -> bool {
        self.intel || tiles >= TILES_TO_FETCH
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        intrinsic!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> __m512 {
        let values = &values[..16];
        // SAFETY: the slice holds sixteen values.
        unsafe { self.load_from(values.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, lanes: __m512, out: &mut [f32]) {
        let out = &mut out[..16];
        // SAFETY: the slice holds sixteen values.
        unsafe { self.store_to(lanes, out.as_mut_ptr()) }
    }

    #[inline(always)]
    fn store_bf16(self, lanes: __m512, out: &mut [u16]) {
        let out = &mut out[..16];
        // SAFETY: the slice holds sixteen values; an `Avx512` proves the instructions.
        unsafe {
            let bits = _mm512_castps_si512(lanes);
            let upper = _mm512_srli_epi32::<16>(bits);
            let even = _mm512_and_si512(upper, _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff));
            let nearest = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(lanes, lanes);
            let bits = _mm512_mask_or_epi32(nearest, nan, upper, _mm512_set1_epi32(0x40));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(bits));
        }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsic!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn neg_mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsic!(_mm512_fnmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn mul_add_one(self, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn product_error(self, a: __m512, b: __m512, product: __m512) -> __m512 {
        intrinsic!(_mm512_fmsub_ps(a, b, product))
    }

    #[inline(always)]
    fn max(self, a: __m512, x: __m512) -> __m512 {
        intrinsic!(_mm512_max_ps(a, x))
    }

    #[inline(always)]
    fn min(self, a: __m512, x: __m512) -> __m512 {
        intrinsic!(_mm512_min_ps(a, x))
    }

    #[inline(always)]
    fn where_negative(self, x: __m512, yes: __m512, no: __m512) -> __m512 {
        intrinsic!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_setzero_ps()), no, yes))
    }

    #[inline(always)]
    fn keep_nan(self, kept: __m512, x: __m512) -> __m512 {
        intrinsic!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), kept, x))
    }

    #[inline(always)]
    fn zip(self, a: __m512, b: __m512) -> (__m512, __m512) {
        // Lanes of b are numbered from 16.
        let first = intrinsic!(_mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
        let second =
            intrinsic!(_mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
        intrinsic!((_mm512_permutex2var_ps(a, first, b), _mm512_permutex2var_ps(a, second, b)))
    }

    #[inline(always)]
    fn widen_pairs(self, pairs: __m512) -> [__m512; 2] {
        intrinsic!({
            let pairs = _mm512_castps_si512(pairs);
            [widened::<false>(pairs), widened::<true>(pairs)]
        })
    }

    #[inline(always)]
    fn widen_u8(self, bytes: &[u8]) -> __m512 {
        let bytes = &bytes[..16];
        // SAFETY: the slice holds sixteen bytes; an `Avx512` proves the instructions.
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
        }
    }

    #[inline(always)]
    fn widen_i8(self, bytes: &[u8]) -> __m512 {
        let bytes = &bytes[..16];
        // SAFETY: as above.
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
        }
    }

    #[inline(always)]
    fn widen_f16(self, halves: &[u8]) -> __m512 {
        let halves = &halves[..32];
        // SAFETY: the slice holds sixteen halves; an `Avx512` proves the instructions.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast())) }
    }

    #[inline(always)]
    fn table(self, values: [f32; 16]) -> __m512 {
        self.load(&values)
    }

    #[inline(always)]
    fn look_up(self, table: __m512, words: __m512) -> __m512 {
        intrinsic!(_mm512_permutexvar_ps(_mm512_castps_si512(words), table))
    }

    #[inline(always)]
    fn shift_down<const PLACES: i32>(self, words: __m512) -> __m512 {
        intrinsic!({
            let places = _mm512_set1_epi32(PLACES);
            _mm512_castsi512_ps(_mm512_srlv_epi32(_mm512_castps_si512(words), places))
        })
    }

    #[inline(always)]
    fn scale_exp2(self, y: __m512, n: __m512) -> __m512 {
        intrinsic!(_mm512_scalef_ps(y, n))
    }

    fn tile(self, step: &Step<'_, f32>, tile: &mut [f32]) {
        step.check(tile);
        // SAFETY: the step is checked; `self` proves the instructions.
        unsafe { with_rows!(step.rows, part, self, step, tile) }
    }

    fn tile_bf16(self, step: &Step<'_, u16>, tile: &mut [f32]) {
        step.check_pairs(tile);
        // SAFETY: the step is checked; `self` proves the instructions, `bf16` those for bf16.
        unsafe {
            if self.bf16 {
                with_rows!(step.rows, part_bf16, self, step, tile)
            } else {
                with_rows!(step.rows, part_widened, self, step, tile)
            }
        }
    }
}

// SAFETY: each function reads and writes exactly what the trait says.
unsafe impl Registers for Avx512 {
    #[inline(always)]
    unsafe fn load_from(self, values: *const f32) -> __m512 {
        // SAFETY: by the caller's promise; `self` proves the instruction.
        unsafe { _mm512_loadu_ps(values) }
    }

    #[inline(always)]
    unsafe fn store_to(self, lanes: __m512, out: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(out, lanes) }
    }

    #[inline(always)]
    fn prefetch(self, line: *const u8) {
        intrinsic!(_mm_prefetch::<_MM_HINT_T0>(line.cast()));
    }

    #[inline(always)]
    unsafe fn load_of_pairs<const SECOND: bool>(self, pairs: *const u16) -> __m512 {
        // SAFETY: as above.
        unsafe { widened::<SECOND>(_mm512_loadu_si512(pairs.cast())) }
    }

    #[inline(always)]
    unsafe fn splat_of_pair<const SECOND: bool>(self, pair: *const u16) -> __m512 {
        // SAFETY: as above.
        unsafe { widened::<SECOND>(splat_bits(pair)) }
    }
}

/// # Safety
/// The processor has AVX-512, and two values can be read there.
#[inline(always)]
unsafe fn splat_bits(pair: *const u16) -> __m512i {
    // SAFETY: by the caller's promise; two u16 are one i32 without its alignment.
    unsafe { _mm512_set1_epi32(pair.cast::<i32>().read_unaligned()) }
}

/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn widened<const SECOND: bool>(pairs: __m512i) -> __m512 {
    // SAFETY: by the caller's promise.
    unsafe {
        _mm512_castsi512_ps(if SECOND {
            _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32))
        } else {
            _mm512_slli_epi32::<16>(pairs)
        })
    }
}

/// The whole tile.
fn whole<T>(step: &Step<'_, T>) -> Place {
    Place { row: 0, column: 0, next: step.next }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn part<const M: usize>(v: Avx512, step: &Step<'_, f32>, tile: &mut [f32]) {
    // SAFETY: by the caller's promise, which is the same.
    unsafe { product::<Avx512, M>(v, step, whole(step), tile) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn part_widened<const M: usize>(v: Avx512, step: &Step<'_, u16>, tile: &mut [f32]) {
    // SAFETY: by the caller's promise, which is the same.
    unsafe { product_bf16::<Avx512, M>(v, step, whole(step), tile) }
}

/// Uses the instruction that adds two bf16 products to each sum.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn part_bf16<const M: usize>(v: Avx512, step: &Step<'_, u16>, tile: &mut [f32]) {
    let stride = step.x_stride;
    let (mut next, turn) = step.next.in_turns(step.inputs / 2);
    // SAFETY: all reads and writes are within what `Step::check_pairs` has checked, by the caller's promise. Vectors of
    // one size hold any bits.
    unsafe {
        let tile = tile.as_mut_ptr();
        let mut x = step.x.as_ptr();
        let mut panel = step.panel.as_ptr();
        let mut sums = load_sums::<Avx512, M>(v, step.start, tile);
        for pair in 0..step.inputs / 2 {
            if pair > 0 {
                x = x.add(2);
                panel = panel.add(2 * PANEL);
            }
            fetch(v, &mut next, turn);
            let low: __m512bh = std::mem::transmute(_mm512_loadu_si512(panel.cast()));
            let high: __m512bh = std::mem::transmute(_mm512_loadu_si512(panel.add(PANEL).cast()));
            for (r, sums) in sums.iter_mut().enumerate() {
                let x: __m512bh = std::mem::transmute(splat_bits(x.add(r * stride)));
                sums[0] = _mm512_dpbf16_ps(sums[0], x, low);
                sums[1] = _mm512_dpbf16_ps(sums[1], x, high);
            }
        }
        store_sums(v, tile, &sums);
    }
}
