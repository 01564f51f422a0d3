//! Sums over a slice for lens and loss. Their order depends on the slice's length alone.

use crate::Cpu;
use crate::math;
use crate::vector::{MOST_LANES, Vector, Work};

/// Vectors that are summed in f32 before the sum goes on in f64: few enough that no digit is lost that matters.
const BLOCK: usize = 64;

impl Cpu {
    /// The largest value; minus infinity of no value, NaN if any is NaN.
    pub fn max(&self, x: &[f32]) -> f32 {
        self.run(Max(x))
    }

    /// The sum of e^(x - shift).
    pub fn sum_exp(&self, x: &[f32], shift: f32) -> f64 {
        self.run(SumExp { x, shift })
    }

    /// The sum of e^(x - shift) · y. An x of minus infinity with an infinite y gives NaN, as zero times infinity does.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn exp_dot(&self, x: &[f32], shift: f32, y: &[f32]) -> f64 {
        assert_eq!(x.len(), y.len(), "both sides of a dot product");
        self.run(ExpDot { x, shift, y })
    }
}

/// The largest value of a row, or NaN if it has one.
#[inline(always)]
pub(crate) fn max<V: Vector>(v: V, x: &[f32]) -> f32 {
    let low = v.splat(f32::NEG_INFINITY);
    let (mut largest, mut nan) = (low, low);
    for chunk in x.chunks(V::LANES) {
        let values = v.load_or(chunk, f32::NEG_INFINITY);
        largest = v.max(largest, values);
        // A maximum forgets a NaN at the next value.
        nan = v.keep_nan(nan, values);
    }
    let (largest, nan) = (v.lanes(largest), v.lanes(nan));
    if nan.iter().any(|lane| lane.is_nan()) {
        return f32::NAN;
    }
    largest[..V::LANES].iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

struct Max<'a>(&'a [f32]);

impl Work for Max<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> f32 {
        max(v, self.0)
    }
}

struct SumExp<'a> {
    x: &'a [f32],
    shift: f32,
}

impl Work for SumExp<'_> {
    type Out = f64;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> f64 {
        let shift = v.splat(self.shift);
        let mut total = 0.0;
        for block in self.x.chunks(BLOCK * V::LANES) {
            let mut sum = v.splat(0.0);
            for chunk in block.chunks(V::LANES) {
                // e to minus infinity is zero: a lane without a value adds nothing.
                let x = v.load_or(chunk, f32::NEG_INFINITY);
                sum = v.add(sum, math::exp(v, v.sub(x, shift)));
            }
            total += wide_sum(v.lanes(sum));
        }
        total
    }
}

struct ExpDot<'a> {
    x: &'a [f32],
    shift: f32,
    y: &'a [f32],
}

impl Work for ExpDot<'_> {
    type Out = f64;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> f64 {
        let shift = v.splat(self.shift);
        let mut total = 0.0;
        let blocks = self.x.chunks(BLOCK * V::LANES).zip(self.y.chunks(BLOCK * V::LANES));
        for (x, y) in blocks {
            let mut sum = v.splat(0.0);
            for (x, y) in x.chunks(V::LANES).zip(y.chunks(V::LANES)) {
                let e = math::exp(v, v.sub(v.load_or(x, f32::NEG_INFINITY), shift));
                sum = v.mul_add(e, v.load_or(y, 0.0), sum);
            }
            total += wide_sum(v.lanes(sum));
        }
        total
    }
}

#[inline(always)]
fn wide_sum(lanes: [f32; MOST_LANES]) -> f64 {
    lanes.into_iter().map(f64::from).sum()
}

#[cfg(test)]
mod tests {
    use crate::testing::{cpus, values};

    #[test]
    fn sums_are_right_whatever_the_length() {
        for len in [0, 1, 7, 16, 17, 1023, 1024, 5000] {
            let (x, y) = (values(1, len), values(2, len));
            let power = |x: &f32| f64::from(x - 0.25).exp();
            let sum: f64 = x.iter().map(power).sum();
            let dot: f64 = x.iter().zip(&y).map(|(x, y)| power(x) * f64::from(*y)).sum();
            for cpu in cpus() {
                // Two units of the last place for each power, less for their sum.
                assert!((cpu.sum_exp(&x, 0.25) - sum).abs() <= 5e-7 * sum);
                assert!((cpu.exp_dot(&x, 0.25, &y) - dot).abs() <= 5e-7 * sum);
                assert_eq!(cpu.max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            }
        }
    }

    #[test]
    fn minus_infinity_adds_nothing_and_nan_is_never_lost() {
        for cpu in cpus() {
            for place in [0, 20, 36] {
                let mut x = values(1, 37);
                x[place] = f32::NEG_INFINITY;
                let sum: f64 = x.iter().map(|x| f64::from(*x).exp()).sum();
                assert!((cpu.sum_exp(&x, 0.0) - sum).abs() < 1e-6 * sum);
                x[place] = f32::NAN;
                assert!(cpu.max(&x).is_nan());
                assert!(cpu.sum_exp(&x, 0.0).is_nan());
                assert!(cpu.exp_dot(&x, 0.0, &[1.0; 37]).is_nan());
            }
        }
    }
}
