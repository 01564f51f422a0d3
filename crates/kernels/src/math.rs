//! Elementary functions on vectors, each within about two units in the last place.
//!
//! The polynomials were fitted for this file (weighted least squares on Chebyshev nodes, reweighted towards minimal
//! relative error); their errors are below f32's rounding.

use crate::vector::Vector;
use std::f32::consts::LOG2_E;

/// Adding and subtracting 1.5 * 2^23 rounds to a whole number: the sum has no bits left for a fraction.
const ROUND: f32 = 12_582_912.0;

/// ln 2 in two parts. The first is so short that its product with a small whole number is exact.
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// (e^r - 1 - r) / r^2 for |r| up to (ln 2) / 2, relative error of e^r 3e-9; highest power first.
const EXP: [f32; 5] = [0.001_381_454, 0.008_368_745, 0.041_668_39, 0.166_665_21, 0.499_999_94];

/// e^(t^2/2) times the normal distribution's upper tail beyond t, divided by u = 1 / (1 + t/4), as a polynomial in u;
/// relative error 3e-8 for t from 0 to 14.6; highest power first.
const NORMAL_TAIL: [f32; 10] = [
    0.016_951_445,
    -0.064_865_716,
    0.056_672_994,
    0.021_521_108,
    0.018_670_866,
    0.083_330_58,
    0.073_199_935,
    0.095_246_02,
    0.099_526_73,
    0.099_746_04,
];

/// atanh(s) / s in powers of s^2, for s up to 1/3; the next term is below 2e-10; highest power first.
const ATANH: [f32; 9] =
    [1.0 / 17.0, 1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0];

#[inline(always)]
fn polynomial<V: Vector, const N: usize>(v: V, x: V::F, coefficients: [f32; N]) -> V::F {
    let mut value = v.splat(coefficients[0]);
    for coefficient in &coefficients[1..] {
        value = v.mul_add(value, x, v.splat(*coefficient));
    }
    value
}

/// The p and the whole n for which e^x = 2^n (1 + p), with |p| below one half.
#[inline(always)]
fn exp_parts<V: Vector>(v: V, x: V::F) -> (V::F, V::F) {
    let round = v.splat(ROUND);
    let n = v.sub(v.mul_add(x, v.splat(LOG2_E), round), round);
    let r = v.neg_mul_add(n, v.splat(LN2_HIGH), x);
    let r = v.neg_mul_add(n, v.splat(LN2_LOW), r);
    let p = v.mul_add(v.mul(polynomial(v, r, EXP), r), r, r);
    (p, n)
}

/// e^x; NaN of NaN.
#[inline(always)]
pub(crate) fn exp<V: Vector>(v: V, x: V::F) -> V::F {
    // Beyond these bounds the result is zero or infinite; the clamp prevents overflow on the way.
    let x = v.max(v.splat(-105.0), v.min(v.splat(100.0), x));
    let (p, n) = exp_parts(v, x);
    v.scale_exp2(v.add(p, v.splat(1.0)), n)
}

/// e^(high + low), for a low much smaller than one.
#[inline(always)]
fn exp_sum<V: Vector>(v: V, high: V::F, low: V::F) -> V::F {
    // Not e + e * low: an infinite e would become NaN.
    v.mul(exp(v, high), v.add(v.splat(1.0), low))
}

/// ln(1 + e^x).
#[inline(always)]
pub(crate) fn softplus<V: Vector>(v: V, x: V::F) -> V::F {
    let zero = v.splat(0.0);
    // The part above max(x, 0): ln(1 + u) = 2 atanh(u / (2 + u)), u from 0 to 1.
    let u = exp(v, v.where_negative(x, x, v.sub(zero, x)));
    let s = v.div(u, v.add(u, v.splat(2.0)));
    let series = polynomial(v, v.mul(s, s), ATANH);
    v.add(v.max(zero, x), v.mul(v.add(s, s), series))
}

/// The hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh<V: Vector>(v: V, x: V::F) -> V::F {
    let negative = v.sub(v.splat(0.0), x);
    // Beyond 10 the result is one.
    let size = v.min(v.splat(10.0), v.where_negative(x, negative, x));
    let (p, n) = exp_parts(v, v.add(size, size));
    let power = v.scale_exp2(v.splat(1.0), n);
    // tanh x = (e^2x - 1) / (e^2x + 1); e^2x - 1 from its parts, without the cancellation near zero.
    let minus_one = v.mul_add(power, p, v.sub(power, v.splat(1.0)));
    let tanh = v.div(minus_one, v.add(minus_one, v.splat(2.0)));
    v.where_negative(x, v.sub(v.splat(0.0), tanh), tanh)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid<V: Vector>(v: V, x: V::F) -> V::F {
    let one = v.splat(1.0);
    v.div(one, v.add(one, exp(v, v.sub(v.splat(0.0), x))))
}

/// x / (1 + e^-x).
#[inline(always)]
pub(crate) fn silu<V: Vector>(v: V, x: V::F) -> V::F {
    let e = exp(v, v.sub(v.splat(0.0), x));
    v.div(x, v.add(v.splat(1.0), e))
}

/// x / (1 + e^-(high + low)).
#[inline(always)]
fn gated_by<V: Vector>(v: V, x: V::F, high: V::F, low: V::F) -> V::F {
    let zero = v.splat(0.0);
    let e = exp_sum(v, v.sub(zero, high), v.sub(zero, low));
    v.div(x, v.add(v.splat(1.0), e))
}

/// x / (1 + e^(-1.702 x)), with the product kept in two parts because the exponential magnifies its error.
#[inline(always)]
pub(crate) fn quick_gelu<V: Vector>(v: V, x: V::F) -> V::F {
    const FACTOR: f32 = 1.702;
    const FACTOR_LOW: f32 = (1.702_f64 - FACTOR as f64) as f32;
    // Beyond these bounds the exponential is zero or infinite anyway; an infinite product has no error.
    let t = v.max(v.splat(-70.0), v.min(v.splat(70.0), x));
    let high = v.mul(t, v.splat(FACTOR));
    let low = v.mul_add(t, v.splat(FACTOR_LOW), v.product_error(t, v.splat(FACTOR), high));
    gated_by(v, x, high, low)
}

/// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), which is x / (1 + e^-w) with w twice the tanh's argument. Here w = a
/// x + b x^3 is kept in two parts because the exponential magnifies its error.
#[inline(always)]
pub(crate) fn gelu_tanh<V: Vector>(v: V, x: V::F) -> V::F {
    const A: f64 = 1.595_769_121_605_730_7;
    const B: f64 = A * 0.044715;
    const PARTS: [(f32, f32); 2] =
        [(A as f32, (A - A as f32 as f64) as f32), (B as f32, (B - B as f32 as f64) as f32)];
    let [(a, a_low), (b, b_low)] = PARTS.map(|(high, low)| (v.splat(high), v.splat(low)));
    // Beyond these bounds the exponential is zero or infinite anyway; an infinite product has no error.
    let t = v.max(v.splat(-12.0), v.min(v.splat(12.0), x));
    let first = v.mul(a, t);
    let first_low = v.mul_add(a_low, t, v.product_error(a, t, first));
    let square = v.mul(t, t);
    let square_low = v.product_error(t, t, square);
    let cube = v.mul(square, t);
    let cube_low = v.mul_add(square_low, t, v.product_error(square, t, cube));
    let second = v.mul(b, cube);
    let second_low = v.mul_add(b, cube_low, v.mul_add(b_low, cube, v.product_error(b, cube, second)));
    let high = v.add(first, second);
    // The sum's rounding error (Knuth's two-sum).
    let second_part = v.sub(high, first);
    let sum_low = v.add(v.sub(first, v.sub(high, second_part)), v.sub(second, second_part));
    gated_by(v, x, high, v.add(sum_low, v.add(first_low, second_low)))
}

/// x times the normal distribution below x: x/2 (1 + erf(x / sqrt 2)).
#[inline(always)]
pub(crate) fn gelu<V: Vector>(v: V, x: V::F) -> V::F {
    v.mul(x, normal(v, x))
}

/// The normal distribution below x: 1/2 (1 + erf(x / sqrt 2)).
#[inline(always)]
pub(crate) fn normal<V: Vector>(v: V, x: V::F) -> V::F {
    let one = v.splat(1.0);
    // Beyond 15 the tail is zero in f32.
    let t = v.min(v.splat(15.0), v.where_negative(x, v.sub(v.splat(0.0), x), x));
    let quarter = v.splat(0.25);
    let divisor = v.mul_add(quarter, t, one);
    let u = v.div(one, divisor);
    // The tail grows faster than u, about 1 + 2.19 u times u's relative error, so correct for that error.
    let lost = v.product_error(quarter, t, v.sub(divisor, one));
    let error = v.neg_mul_add(u, lost, v.sub(v.splat(0.0), v.product_error(u, divisor, one)));
    let correction = v.mul_add(error, v.mul_add(v.splat(2.19), u, one), one);
    let square = v.mul(t, t);
    let half = v.splat(-0.5);
    let e = exp_sum(v, v.mul(half, square), v.mul(half, v.product_error(t, t, square)));
    let tail = v.mul(v.mul(e, correction), v.mul(u, polynomial(v, u, NORMAL_TAIL)));
    v.where_negative(x, tail, v.sub(one, tail))
}
