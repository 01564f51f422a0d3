//! The elementary functions against f64, and the micro-kernels at the very end of their slices.

use super::*;
use crate::testing::{bits, single_cpus, values};
use crate::{Activation, Cpu, math};

/// Exponentials of vectors, for tests of functions that are not activations.
struct Each<'a, const TANH: bool>(&'a mut [f32]);

impl<const TANH: bool> Work for Each<'_, TANH> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for chunk in self.0.chunks_mut(V::LANES) {
            let x = v.load_or(chunk, 0.0);
            v.store_some(if TANH { math::tanh(v, x) } else { math::exp(v, x) }, chunk);
        }
    }
}

/// The normal distribution's lower tail, Φ(x): by its series near zero, by a continued fraction further out
/// (Abramowitz and Stegun 26.2.11 and 26.2.14).
fn normal(x: f64) -> f64 {
    let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x.abs() < 3.0 {
        let mut term = x;
        let mut sum = x;
        for n in 1..100 {
            term *= x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 0.5 + density * sum;
    }
    let t = x.abs();
    let fraction = (1..=200).rev().fold(t, |rest, n| t + f64::from(n) / rest);
    let tail = density / fraction;
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// The largest relative error of values no smaller than `floor`; smaller values are measured relative to the floor.
fn relative_error(
    f: impl Fn(&Cpu, &mut [f32]),
    expected: impl Fn(f64) -> f64,
    range: f32,
    floor: f64,
) -> f64 {
    let mut worst = 0.0_f64;
    let steps = 200_003;
    let xs: Vec<f32> = (0..=steps).map(|i| range * (2.0 * i as f32 / steps as f32 - 1.0)).collect();
    for cpu in single_cpus() {
        let mut found = xs.clone();
        f(&cpu, &mut found);
        for (x, found) in xs.iter().zip(&found) {
            let expected = expected(f64::from(*x));
            let error = (f64::from(*found) - expected).abs() / expected.abs().max(floor);
            assert!(error < 1e-3, "{} of {x}: {found} for {expected}", cpu.simd());
            worst = worst.max(error);
        }
    }
    worst
}

/// Two units in the last place of f32 are 2.4e-7 at most.
const TWO_UNITS: f64 = 2.4e-7;

#[test]
fn the_exponential_is_right_to_two_units_in_the_last_place() {
    let exp = |cpu: &Cpu, x: &mut [f32]| cpu.run(Each::<false>(x));
    assert!(relative_error(exp, f64::exp, 87.0, 0.0) < TWO_UNITS);
}

#[test]
fn the_tangent_is_right_to_two_units_in_the_last_place() {
    let tanh = |cpu: &Cpu, x: &mut [f32]| cpu.run(Each::<true>(x));
    assert!(relative_error(tanh, f64::tanh, 12.0, 0.0) < TWO_UNITS);
    assert!(relative_error(tanh, f64::tanh, 1e-3, 0.0) < TWO_UNITS);
}

#[test]
fn activations_are_right_relative_to_their_own_size_even_in_their_tails() {
    type Formula = fn(f64) -> f64;
    let cases: [(Activation, Formula); 8] = [
        (Activation::Relu, |x| x.max(0.0)),
        (Activation::Gelu, |x| x * normal(x)),
        (Activation::GeluTanh, |x| {
            x / (1.0 + (-2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).exp())
        }),
        (Activation::Silu, |x| x / (1.0 + (-x).exp())),
        (Activation::QuickGelu, |x| x / (1.0 + (-1.702 * x).exp())),
        (Activation::SquaredRelu, |x| x.max(0.0) * x.max(0.0)),
        (Activation::Tanh, f64::tanh),
        (Activation::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
    ];
    for (activation, expected) in cases {
        for range in [0.01, 3.0, 12.0, 80.0] {
            let apply = |cpu: &Cpu, values: &mut [f32]| {
                cpu.run(crate::activation::Apply { activation, values });
            };
            // Beyond e^88.7, which overflows on the way, results of up to 4e-37 become zero.
            let error = relative_error(apply, expected, range, 1e-30);
            // Roundings of products, sums and a quotient, on top of the exponential's.
            assert!(error < 4e-7, "{activation:?} to {range}: {error:.2e}");
        }
    }
}

#[test]
fn extremes_of_functions_are_what_they_must_be() {
    for cpu in single_cpus() {
        let of = |activation, x: f32| {
            let mut values = [x];
            cpu.run(crate::activation::Apply { activation, values: &mut values });
            values[0]
        };
        // Limits at zero, for large values and for small ones; `None` means the value itself.
        let limits = |activation| match activation {
            Activation::SquaredRelu => (0.0, Some(f32::INFINITY), 0.0),
            Activation::Tanh => (0.0, Some(1.0), -1.0),
            Activation::Sigmoid => (0.5, Some(1.0), 0.0),
            _ => (0.0, None, 0.0),
        };
        for activation in Activation::ALL {
            let (zero, large, small) = limits(activation);
            assert!(of(activation, f32::NAN).is_nan(), "{activation:?}");
            assert_eq!(of(activation, 0.0), zero);
            for x in [1e30, f32::INFINITY] {
                assert_eq!(of(activation, x), large.unwrap_or(x), "{activation:?}");
            }
            assert_eq!(of(activation, -1e30) + 0.0, small, "{activation:?}");
        }
        let mut x = [f32::NEG_INFINITY, -200.0, 0.0, 89.0, f32::INFINITY, f32::NAN];
        cpu.run(Each::<false>(&mut x));
        assert_eq!(x[..5], [0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY]);
        assert!(x[5].is_nan());
        let mut x = [f32::NEG_INFINITY, 0.0, f32::INFINITY, f32::NAN];
        cpu.run(Each::<true>(&mut x));
        assert_eq!(x[..3], [-1.0, 0.0, 1.0]);
        assert!(x[3].is_nan());
    }
}

#[test]
fn a_value_gives_the_same_bits_wherever_it_stands() {
    let x = values(1, 40);
    for cpu in single_cpus() {
        for activation in Activation::ALL {
            let mut together = x.clone();
            cpu.run(crate::activation::Apply { activation, values: &mut together });
            for (x, together) in x.iter().zip(&together) {
                let mut alone = [*x];
                cpu.run(crate::activation::Apply { activation, values: &mut alone });
                assert_eq!(bits(&alone), bits(&[*together]));
            }
        }
    }
}

struct OneTile<'a, T> {
    step: Step<'a, T>,
    tile: &'a mut [f32],
}

impl<T: Element> Work for OneTile<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        T::tile(v, &self.step, self.tile);
    }
}

fn tile<T: Element>(cpu: &Cpu, rows: usize, inputs: usize, x: &[T], stride: usize, panel: &[T]) -> Vec<f32> {
    let mut tile = vec![0.5; rows * PANEL];
    // Arbitrary memory: it is prefetched, never read.
    let next = Prefetch::of(panel);
    let step =
        Step { start: Start::Tile, rows, inputs, x, x_stride: stride, panel, panel_stride: PANEL, next };
    cpu.run(OneTile { step, tile: &mut tile });
    tile
}

#[test]
#[should_panic(expected = "beyond its slices")]
fn a_step_beyond_its_inputs_is_refused() {
    tile(&Cpu::new(Simd::best(), 1), 2, 8, &[0.0; 15], 8, &[0.0; 8 * PANEL]);
}

#[test]
#[should_panic(expected = "beyond its slices")]
fn a_step_beyond_its_panel_is_refused() {
    tile(&Cpu::new(Simd::best(), 1), 1, 8, &[0.0; 8], 8, &[0.0; 8 * PANEL - 1]);
}

#[cfg(target_os = "linux")]
mod guarded {
    //! Slices that end where memory ends: a read past them stops the test.

    use super::*;
    use crate::bf16;
    use std::ffi::{c_int, c_void};

    unsafe extern "C" {
        fn mmap(
            at: *mut c_void,
            len: usize,
            protection: c_int,
            flags: c_int,
            file: c_int,
            offset: i64,
        ) -> *mut c_void;
        fn mprotect(at: *mut c_void, len: usize, protection: c_int) -> c_int;
        fn munmap(at: *mut c_void, len: usize) -> c_int;
    }

    const PAGE: usize = 4096;

    /// A copy of values that ends at a page that cannot be read.
    struct Guarded<T> {
        start: *mut u8,
        bytes: usize,
        values: *const T,
        len: usize,
    }

    impl<T: Element> Guarded<T> {
        fn new(values: &[T]) -> Guarded<T> {
            let size = size_of_val(values);
            let bytes = size.next_multiple_of(PAGE) + PAGE;
            // SAFETY: fresh private memory (PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS) whose last page is
            // made unreadable; the values fit before it and are copied there.
            unsafe {
                let start = mmap(std::ptr::null_mut(), bytes, 3, 0x22, -1, 0).cast::<u8>();
                assert_ne!(start as isize, -1);
                let guard = start.add(bytes - PAGE);
                assert_eq!(mprotect(guard.cast(), PAGE, 0), 0);
                let place = guard.sub(size).cast::<T>();
                place.copy_from_nonoverlapping(values.as_ptr(), values.len());
                Guarded { start, bytes, values: place, len: values.len() }
            }
        }

        fn values(&self) -> &[T] {
            // SAFETY: written in `new`.
            unsafe { std::slice::from_raw_parts(self.values, self.len) }
        }
    }

    impl<T> Drop for Guarded<T> {
        fn drop(&mut self) {
            // SAFETY: mapped in `new`, not used again.
            unsafe { munmap(self.start.cast(), self.bytes) };
        }
    }

    fn check<T: Element>(place: impl Fn(usize, usize) -> usize) {
        for cpu in single_cpus() {
            for rows in 1..=TILE_ROWS {
                for (inputs, gap) in [(2, 0), (4, 3), (34, 1)] {
                    let stride = inputs + gap;
                    let x: Vec<T> = narrowed(values(3, (rows - 1) * stride + inputs));
                    let panel: Vec<T> = narrowed(values(4, inputs * PANEL));
                    let (x_end, panel_end) = (Guarded::new(&x), Guarded::new(&panel));
                    let found = tile(&cpu, rows, inputs, x_end.values(), stride, panel_end.values());
                    for row in 0..rows {
                        for column in 0..PANEL {
                            let term = |k: usize| {
                                f64::from(x[row * stride + k].widened())
                                    * f64::from(panel[place(k, column)].widened())
                            };
                            let expected: f64 = 0.5 + (0..inputs).map(term).sum::<f64>();
                            let error = (f64::from(found[row * PANEL + column]) - expected).abs();
                            // About ten roundings of sums of order ten.
                            assert!(error < 1e-5, "{} rows {rows} inputs {inputs}: {error}", cpu.simd());
                        }
                    }
                }
            }
        }
    }

    fn narrowed<T: Element>(values: Vec<f32>) -> Vec<T> {
        values.into_iter().map(|value| T::nearest(bf16::widen(bf16::round(value)))).collect()
    }

    #[test]
    fn f32_kernels_read_nothing_past_their_slices() {
        check::<f32>(|k, column| k * PANEL + column);
    }

    #[test]
    fn bf16_kernels_read_nothing_past_their_slices() {
        check::<u16>(|k, column| (k / 2 * PANEL + column) * 2 + k % 2);
    }
}

struct Rounded<'a> {
    values: &'a [f32],
    out: &'a mut [u16],
}

impl Work for Rounded<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for (values, out) in self.values.chunks_exact(V::LANES).zip(self.out.chunks_exact_mut(V::LANES)) {
            v.store_bf16(v.load(values), out);
        }
    }
}

#[test]
fn every_path_rounds_to_the_same_bf16() {
    // All upper halves, with the lower halves at which rounding changes direction.
    let bits = (0..=u16::MAX).flat_map(|upper| {
        [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|lower| f32::from_bits(u32::from(upper) << 16 | lower))
    });
    let values: Vec<f32> = bits.collect();
    let expected: Vec<u16> = values.iter().map(|value| crate::bf16::round(*value)).collect();
    for cpu in single_cpus() {
        let mut out = vec![0; values.len()];
        cpu.run(Rounded { values: &values, out: &mut out });
        assert!(out == expected, "{:?}", cpu.simd());
    }
}

/// Every f16, widened.
struct Halves<'a>(&'a [u8], &'a mut [f32]);

impl Work for Halves<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for (halves, out) in self.0.chunks_exact(2 * V::LANES).zip(self.1.chunks_exact_mut(V::LANES)) {
            v.store(v.widen_f16(halves), out);
        }
    }
}

#[test]
fn every_half_widens_to_its_value() {
    let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for cpu in single_cpus() {
        let mut found = vec![0.0; 1 << 16];
        cpu.run(Halves(&halves, &mut found));
        for (bits, found) in (0..=u16::MAX).zip(found) {
            let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
            let magnitude = match exponent {
                0 => fraction * 2_f64.powi(-24),
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
            };
            let is_right = f64::from(found.abs()) == magnitude || found.is_nan() && magnitude.is_nan();
            assert!(is_right && found.is_sign_negative() == (bits >> 15 == 1), "{}: {bits:#x}", cpu.simd());
        }
    }
}
