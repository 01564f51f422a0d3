//! Sums over a slice for lens and loss. The order of summation depends on the slice's length alone.

use crate::Cpu;
use crate::math;
use crate::vector::{MOST_LANES, Vector, Work};

/// Vectors summed in f32 before the sum continues in f64: few enough to lose no significant digit.
const BLOCK: usize = 64;

impl Cpu {
    /// The largest value; minus infinity for an empty slice, NaN if any value is NaN.
    pub fn max(&self, x: &[f32]) -> f32 {
        self.run(Max(x))
    }

    /// The sums of e^(x - shift) and of e^(x - shift) · x. An x of minus infinity makes the second NaN, as zero times
    /// infinity is.
    pub fn exp_sums(&self, x: &[f32], shift: f32) -> [f64; 2] {
        self.run(ExpSums { x, shift })
    }

    /// Replaces x by e^(x - shift).
    pub fn exp(&self, x: &mut [f32], shift: f32) {
        self.run(Exp { x, shift });
    }

    /// The sum of x · y.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn dot(&self, x: &[f32], y: &[f32]) -> f64 {
        assert_eq!(x.len(), y.len(), "both sides of a dot product");
        self.run(Dot { x, y })
    }

    /// The number of values ranked before the `value` at index `place`: larger ones, and equal ones at lower indices.
    pub fn rank(&self, x: &[f32], value: f32, place: usize) -> usize {
        let before = place.min(x.len());
        self.run(Count { x: &x[..before], least: value, equal: 1 })
            + self.run(Count { x: &x[before..], least: value, equal: 0 })
    }

    /// The `k` largest values with their indices, descending, ties to the lower index. NaNs come last.
    pub fn largest(&self, x: &[f32], k: usize) -> Vec<(usize, f32)> {
        self.largest_from(x, k, f32::NEG_INFINITY)
    }

    /// As [`Cpu::largest`], without values below `least`: for a part of an array known to have `k` values that reach
    /// it.
    pub fn largest_from(&self, x: &[f32], k: usize, least: f32) -> Vec<(usize, f32)> {
        self.run(Largest { x, k, least })
    }
}

/// The largest value of a row, or NaN if there is one.
#[inline(always)]
pub(crate) fn max<V: Vector>(v: V, x: &[f32]) -> f32 {
    let low = v.splat(f32::NEG_INFINITY);
    let (mut largest, mut nan) = (low, low);
    let mut start = 0;
    while start < x.len() {
        let values = v.load_or(&x[start..x.len().min(start + V::LANES)], f32::NEG_INFINITY);
        largest = v.max(largest, values);
        // A maximum forgets a NaN at the next value.
        nan = v.keep_nan(nan, values);
        start += V::LANES;
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

struct ExpSums<'a> {
    x: &'a [f32],
    shift: f32,
}

impl Work for ExpSums<'_> {
    type Out = [f64; 2];

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> [f64; 2] {
        let shift = v.splat(self.shift);
        let mut totals = [0.0; 2];
        let mut start = 0;
        while start < self.x.len() {
            let end = self.x.len().min(start + BLOCK * V::LANES);
            let mut sums = [v.splat(0.0); 2];
            while start < end {
                let x = &self.x[start..end.min(start + V::LANES)];
                // e to minus infinity is zero: a padding lane adds nothing.
                let e = math::exp(v, v.sub(v.load_or(x, f32::NEG_INFINITY), shift));
                sums = [v.add(sums[0], e), v.mul_add(e, v.load_or(x, 0.0), sums[1])];
                start += V::LANES;
            }
            totals = [totals[0] + wide_sum(v.lanes(sums[0])), totals[1] + wide_sum(v.lanes(sums[1]))];
        }
        totals
    }
}

struct Exp<'a> {
    x: &'a mut [f32],
    shift: f32,
}

impl Work for Exp<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let mut start = 0;
        while start < self.x.len() {
            let end = self.x.len().min(start + V::LANES);
            let x = &mut self.x[start..end];
            let e = math::exp(v, v.sub(v.load_or(x, 0.0), v.splat(self.shift)));
            v.store_some(e, x);
            start = end;
        }
    }
}

struct Dot<'a> {
    x: &'a [f32],
    y: &'a [f32],
}

impl Work for Dot<'_> {
    type Out = f64;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> f64 {
        let mut total = 0.0;
        let mut start = 0;
        while start < self.x.len() {
            let end = self.x.len().min(start + BLOCK * V::LANES);
            let mut sum = v.splat(0.0);
            while start < end {
                let place = start..end.min(start + V::LANES);
                let (x, y) = (&self.x[place.clone()], &self.y[place]);
                sum = v.mul_add(v.load_or(x, 0.0), v.load_or(y, 0.0), sum);
                start += V::LANES;
            }
            total += wide_sum(v.lanes(sum));
        }
        total
    }
}

/// Counts values above `least`, plus those equal to it if `equal` is one.
struct Count<'a> {
    x: &'a [f32],
    least: f32,
    equal: usize,
}

impl Work for Count<'_> {
    type Out = usize;

    /// Plain Rust, which the compiler vectorises.
    #[inline(always)]
    fn run<V: Vector>(self, _v: V) -> usize {
        let (mut above, mut equal) = (0_u32, 0_u32);
        for value in self.x {
            above += u32::from(*value > self.least);
            equal += u32::from(*value == self.least);
        }
        above as usize + self.equal * equal as usize
    }
}

struct Largest<'a> {
    x: &'a [f32],
    k: usize,
    least: f32,
}

/// Values skipped at a time if none of them is large enough.
const PASSED: usize = 128;

impl Work for Largest<'_> {
    type Out = Vec<(usize, f32)>;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> Vec<(usize, f32)> {
        let bound = lower_bound(v, self.x, self.k);
        let bound = if bound < self.least { self.least } else { bound };
        let mut top: Vec<(usize, f32)> = Vec::with_capacity(self.k.saturating_add(1).min(self.x.len() + 1));
        let mut start = 0;
        while start < self.x.len() {
            let part = &self.x[start..self.x.len().min(start + PASSED)];
            // If the maximum is NaN, other values may be large: do not skip the part.
            let largest = max(v, part);
            if largest >= bound || largest.is_nan() || bound.is_nan() {
                offer(&mut top, self.k, bound, start, part);
            }
            start += PASSED;
        }
        top
    }
}

/// A value that at least `k` values reach: the `k`th largest of the maxima of groups, or minus infinity.
#[inline(always)]
fn lower_bound<V: Vector>(v: V, x: &[f32], k: usize) -> f32 {
    const CHAINS: usize = 4;
    let mut largest = [v.splat(f32::NEG_INFINITY); CHAINS];
    let mut start = 0;
    while start < x.len() {
        for largest in &mut largest {
            let place = x.len().min(start)..x.len().min(start + V::LANES);
            // If a NaN makes it forget a larger value, it still keeps a value of its group.
            *largest = v.max(*largest, v.load_or(&x[place], f32::NEG_INFINITY));
            start += V::LANES;
        }
    }
    let mut groups = [f32::NEG_INFINITY; CHAINS * MOST_LANES];
    for (chain, largest) in largest.into_iter().enumerate() {
        v.store(largest, &mut groups[chain * V::LANES..]);
    }
    for group in &mut groups {
        *group = if group.is_nan() { f32::NEG_INFINITY } else { *group };
    }
    if !(1..=groups.len()).contains(&k) {
        return f32::NEG_INFINITY;
    }
    *groups.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// Inserts values that reach the bound into the `k` largest.
fn offer(top: &mut Vec<(usize, f32)>, k: usize, bound: f32, start: usize, values: &[f32]) {
    for (index, value) in values.iter().enumerate() {
        let is_full = top.len() == k;
        if *value < bound || is_full && top.last().is_none_or(|(_, least)| value <= least || value.is_nan()) {
            continue;
        }
        let at = top.partition_point(|(_, other)| other >= value || value.is_nan());
        top.insert(at, (start + index, *value));
        top.truncate(k);
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
                // Two units in the last place per power, less for their sum.
                let [found, with_x] = cpu.exp_sums(&x, 0.25);
                assert!((found - sum).abs() <= 5e-7 * sum);
                let expected: f64 = x.iter().map(|x| power(x) * f64::from(*x)).sum();
                assert!((with_x - expected).abs() <= 5e-7 * sum);
                let mut powers = x.clone();
                cpu.exp(&mut powers, 0.25);
                assert!((cpu.dot(&powers, &y) - dot).abs() <= 5e-7 * sum);
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
                assert!((cpu.exp_sums(&x, 0.0)[0] - sum).abs() < 1e-6 * sum);
                x[place] = f32::NAN;
                assert!(cpu.max(&x).is_nan());
                assert!(cpu.exp_sums(&x, 0.0).iter().all(|sum| sum.is_nan()));
                assert!(cpu.dot(&x, &[1.0; 37]).is_nan());
            }
        }
    }

    #[test]
    fn the_largest_are_those_of_a_stable_sort() {
        for len in [0, 1, 5, 127, 128, 129, 1000] {
            let mut x = values(3, len);
            // Ties and NaNs.
            x.iter_mut().for_each(|x| *x = (*x * 8.0).round() + 0.0);
            (0..len).step_by(7).for_each(|i| x[i] = f32::NAN);
            (0..len).step_by(11).for_each(|i| x[i] = f32::NEG_INFINITY);
            let mut sorted: Vec<(usize, f32)> = x.iter().copied().enumerate().collect();
            let key = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x };
            sorted.sort_by(|a, b| a.1.is_nan().cmp(&b.1.is_nan()).then(key(b.1).total_cmp(&key(a.1))));
            for cpu in cpus() {
                for k in [0, 1, 10, 2000] {
                    let places = |pairs: &[(usize, f32)]| pairs.iter().map(|pair| pair.0).collect::<Vec<_>>();
                    assert_eq!(places(&cpu.largest(&x, k)), places(&sorted[..k.min(len)]), "{k} of {len}");
                    let Some(least) = sorted.get(k / 2).map(|pair| pair.1).filter(|x| !x.is_nan()) else {
                        continue;
                    };
                    let reach = |pair: &(usize, f32)| pair.1.is_nan() || pair.1 >= least;
                    let expected: Vec<(usize, f32)> = sorted.iter().copied().filter(reach).take(k).collect();
                    assert_eq!(places(&cpu.largest_from(&x, k, least)), places(&expected), "{k} of {len}");
                }
                for place in (0..len).step_by(5) {
                    let value = x[place];
                    let before = |(i, x): (usize, &f32)| *x > value || *x == value && i < place;
                    let expected = x.iter().enumerate().filter(|pair| before(*pair)).count();
                    assert_eq!(cpu.rank(&x, value, place), expected);
                }
            }
        }
    }
}
