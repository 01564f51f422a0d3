//! Slopes of linear biases (arXiv:2108.12409), as transformers computes them (`modeling_bloom.py`,
//! `_get_alibi_slopes`). A key at position `j` has the bias `slope * j` for every query: the softmax cancels any term
//! that depends on the query alone.

use easyroutine_kernels::Alibi;

use super::embed::round_to_bf16;
use crate::arch::Slopes;

/// The biases of a layer whose scores have this scale.
pub(crate) fn biases(slopes: Slopes, n_heads: usize, scale: f32) -> Alibi {
    let of_lower = || of_lower_power(n_heads);
    match slopes {
        Slopes::OfLowerPower => Alibi { slopes: of_lower(), rounded: None },
        // modeling_falcon.py, `build_alibi_tensor` and `FalconAttention.forward`
        Slopes::OfLowerPowerRounded => {
            Alibi { slopes: of_lower().into_iter().map(round_to_bf16).collect(), rounded: Some(scale) }
        }
        Slopes::OfHigherPower => Alibi { slopes: of_higher_power(n_heads), rounded: None },
    }
}

/// `2^(-8 i / n)` for i from 1 to n, the next power of two; if n exceeds the number of heads, the second, the fourth
/// and so on come first (modeling_mpt.py, `build_mpt_alibi_tensor`).
fn of_higher_power(n_heads: usize) -> Vec<f32> {
    let n = n_heads.next_power_of_two();
    // The exponent is rounded to f32 first, as in torch.
    let slope = |i: usize| (-f64::from(i as f32 * (8.0 / n as f32))).exp2() as f32;
    if n == n_heads {
        return (1..=n).map(slope).collect();
    }
    (2..=n).step_by(2).chain((1..=n).step_by(2)).take(n_heads).map(slope).collect()
}

/// One slope per head.
///
/// For a power of two, `2^(-8/n)` and its powers; otherwise those of the next lower power of two, then every other
/// slope of the next higher one.
fn of_lower_power(n_heads: usize) -> Vec<f32> {
    let Some(exponent) = n_heads.checked_ilog2() else { return Vec::new() };
    let lower = 1_usize << exponent;
    // 2^(-2^-(log2(n) - 3)), rounded to f32 before its powers are taken.
    let base = |log2: u32| (-(3.0 - f64::from(log2)).exp2()).exp2() as f32;
    let power = |base: f32, exponent: usize| f64::from(base).powi(exponent as i32) as f32;
    let first = (1..=lower).map(|k| power(base(exponent), k));
    let rest = (0..n_heads - lower).map(|k| power(base(exponent + 1), 2 * k + 1));
    first.chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `_get_alibi_slopes` of transformers 5.23.
    #[test]
    fn slopes_are_those_of_transformers() {
        let two = [0.0625, 0.003_906_25];
        let four = [0.25, 0.0625, 0.015_625, 0.003_906_25];
        let eight = [0.5, 0.25, 0.125, 0.0625, 0.031_25, 0.015_625, 0.007_812_5, 0.003_906_25];
        // The base for 16 heads is no power of two; powers are taken of its f32 value.
        let sixteen = [
            0.707_106_77,
            0.499_999_97,
            0.353_553_38,
            0.249_999_99,
            0.176_776_68,
            0.124_999_985,
            0.088_388_34,
            0.062_499_993,
            0.044_194_166,
            0.031_249_994,
            0.022_097_083,
            0.015_624_997,
            0.011_048_541,
            0.007_812_498,
            0.005_524_27,
            0.003_906_249,
        ];
        let after_sixteen = [0.840_896_4, 0.594_603_6, 0.420_448_24, 0.297_301_8];
        let answers: &[(usize, &[f32])] = &[
            (1, &[0.003_906_25]),
            (2, &two),
            (3, &[two.as_slice(), &[0.25]].concat()),
            (6, &[four.as_slice(), &[0.5, 0.125]].concat()),
            (8, &eight),
            (12, &[eight.as_slice(), &[0.707_106_77, 0.353_553_38, 0.176_776_68, 0.088_388_34]].concat()),
            (16, &sixteen),
            (20, &[sixteen.as_slice(), &after_sixteen].concat()),
        ];
        for (n_heads, expected) in answers {
            let got = of_lower_power(*n_heads);
            assert_eq!(got.len(), expected.len());
            for (a, b) in got.iter().zip(*expected) {
                // The numbers above are truncated after eight digits.
                assert!((a - b).abs() <= 2.0 * f32::EPSILON * b, "{n_heads} heads: {a} against {b}");
            }
        }
    }

    #[test]
    fn no_heads_have_no_slopes() {
        assert!(of_lower_power(0).is_empty());
    }
}
