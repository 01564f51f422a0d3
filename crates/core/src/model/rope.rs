//! Frequencies of rotary embeddings. Formulas and the order of operations in f32: transformers 5.23,
//! `modeling_rope_utils.py` (the functions named below).

use std::f64::consts::PI;

use crate::arch::{RampBounds, Rope, RopeScaling};

/// Frequencies (radians per position, one per pair of columns) and the factor on cos and sin, for a row of `row_length`
/// tokens. Only `Dynamic` and `LongRope` depend on the length.
pub(crate) fn frequencies(rope: &Rope, row_length: usize) -> (Vec<f32>, f32) {
    let dim = rope.rotary_dim;
    match &rope.scaling {
        // `compute_default_rope_parameters` of every model
        RopeScaling::None => (plain(rope.theta as f32, dim), 1.0),
        // `_compute_linear_scaling_rope_parameters`
        RopeScaling::Linear { factor } => {
            let factor = *factor as f32;
            (plain(rope.theta as f32, dim).into_iter().map(|f| f / factor).collect(), 1.0)
        }
        RopeScaling::Dynamic { factor, original } => {
            (plain(dynamic_base(rope, *factor, *original, row_length), dim), 1.0)
        }
        // `_compute_proportional_rope_parameters`
        RopeScaling::Proportional { pairs } => {
            let turns = |(i, f)| if i < *pairs { f } else { 0.0 };
            (plain(rope.theta as f32, dim).into_iter().enumerate().map(turns).collect(), 1.0)
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
            let scaled = |f| llama3(f, *factor, *low_freq_factor, *high_freq_factor, *original);
            (plain(rope.theta as f32, dim).into_iter().map(scaled).collect(), 1.0)
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original, attention_factor, bounds } => {
            let ramp = Ramp::new(rope, *beta_fast, *beta_slow, *original, *bounds);
            let factor = *factor as f32;
            let scaled = |(i, wave): (usize, f32)| {
                // There it has `dim / 2` numbers; a single one is that of all frequencies.
                let extrapolated = 1.0 - ramp.at(i.min((dim / 2).saturating_sub(1)));
                (1.0 / (factor * wave)) * (1.0 - extrapolated) + (1.0 / wave) * extrapolated
            };
            (waves(rope.theta as f32, dim).enumerate().map(scaled).collect(), *attention_factor as f32)
        }
        // `_compute_longrope_parameters`; the list is chosen as in `longrope_frequency_update`
        RopeScaling::LongRope { short, long, original, attention_factor } => {
            let divisors = if row_length > *original { long } else { short };
            let scaled =
                waves(rope.theta as f32, dim).zip(divisors).map(|(wave, d)| 1.0 / (*d as f32 * wave));
            (scaled.collect(), *attention_factor as f32)
        }
    }
}

/// A class of row lengths that have the same frequencies.
pub(crate) fn length_class(rope: &Rope, row_length: usize) -> usize {
    match &rope.scaling {
        RopeScaling::Dynamic { original, .. } => row_length.max(*original),
        RopeScaling::LongRope { original, .. } => usize::from(row_length > *original),
        RopeScaling::None
        | RopeScaling::Proportional { .. }
        | RopeScaling::Linear { .. }
        | RopeScaling::Llama3 { .. }
        | RopeScaling::Yarn { .. } => 0,
    }
}

/// `base ** (2i / dim)` for every pair of columns.
fn waves(base: f32, dim: usize) -> impl Iterator<Item = f32> {
    // The exponent is rounded to f32 first, as in torch; the power is exact up to the final rounding.
    (0..dim.div_ceil(2)).map(move |i| {
        let exponent = (2 * i) as f32 / dim as f32;
        f64::from(base).powf(f64::from(exponent)) as f32
    })
}

fn plain(base: f32, dim: usize) -> Vec<f32> {
    waves(base, dim).map(|wave| 1.0 / wave).collect()
}

/// `_compute_dynamic_ntk_parameters`: a row up to `original` uses the base computed in f64 at model creation, a longer
/// one a base computed in f32 tensors (`dynamic_frequency_update`).
fn dynamic_base(rope: &Rope, factor: f64, original: usize, row_length: usize) -> f32 {
    let dim = rope.rotary_dim as f64;
    let exponent = dim / (dim - 2.0);
    if row_length <= original {
        let length = original as f64;
        return (rope.theta * (factor * length / length - (factor - 1.0)).powf(exponent)) as f32;
    }
    let stretch = factor as f32 * row_length as f32 / original as f32 - (factor - 1.0) as f32;
    rope.theta as f32 * f64::from(stretch).powf(f64::from(exponent as f32)) as f32
}

/// `_compute_llama3_parameters`
fn llama3(frequency: f32, factor: f64, low: f64, high: f64, original: usize) -> f32 {
    let original = original as f64;
    let wavelength = (2.0 * PI) as f32 / frequency;
    let factor = factor as f32;
    if wavelength > (original / low) as f32 {
        return frequency / factor;
    }
    if wavelength < (original / high) as f32 {
        return frequency;
    }
    let smooth = (original as f32 / wavelength - low as f32) / (high - low) as f32;
    (1.0 - smooth) * frequency / factor + smooth * frequency
}

/// YaRN's ramp from extrapolated (0) to interpolated (1) frequencies (`_compute_yarn_parameters`).
struct Ramp {
    low: f32,
    width: f32,
}

impl Ramp {
    fn new(rope: &Rope, beta_fast: f64, beta_slow: f64, original: usize, bounds: RampBounds) -> Self {
        let dim = rope.rotary_dim as f64;
        let at =
            |rotations: f64| dim * (original as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * rope.theta.ln());
        let (mut low, mut high) = (at(beta_fast), at(beta_slow));
        if bounds == RampBounds::Whole {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        Ramp { low: low as f32, width: (high - low) as f32 }
    }

    fn at(&self, pair: usize) -> f32 {
        ((pair as f32 - self.low) / self.width).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{Pairing, Turn};

    fn rope(theta: f64, rotary_dim: usize, scaling: RopeScaling) -> Rope {
        Rope { theta, first: 0, rotary_dim, pairing: Pairing::Halves, turn: Turn::Forward, scaling }
    }

    /// `inv_freq` and `attention_scaling` of `LlamaRotaryEmbedding` in transformers 5.23 after a row of that length,
    /// with `max_position_embeddings` 64.
    #[track_caller]
    fn check(rope: &Rope, row_length: usize, expected: &[f32], attention_factor: f64) {
        let (got, factor) = frequencies(rope, row_length);
        assert_eq!(got.len(), expected.len());
        for (a, b) in got.iter().zip(expected) {
            // torch's powers are sometimes off by a unit in the last place; divisions and sums follow.
            assert!((a - b).abs() <= 4.0 * f32::EPSILON * b, "{a} against {b} in {:?}", rope.scaling);
        }
        assert_eq!(factor, attention_factor as f32);
    }

    const PLAIN: [f32; 6] = [1.0, 0.215_443_45, 0.046_415_884, 0.01, 0.002_154_434_3, 0.000_464_158_95];

    #[test]
    fn plain_and_linear() {
        check(&rope(1e4, 12, RopeScaling::None), 8, &PLAIN, 1.0);
        // The first half of the pairs of an odd width: frequencies from 3 columns, which take 4.
        check(&rope(1e4, 3, RopeScaling::None), 8, &[1.0, 0.002_154_434_6], 1.0);
        let third = PLAIN.map(|f| f / 3.0);
        check(&rope(1e4, 12, RopeScaling::Linear { factor: 3.0 }), 8, &third, 1.0);
    }

    #[test]
    fn dynamic_grows_with_the_row_beyond_the_original_context() {
        let rope = rope(1e4, 12, RopeScaling::Dynamic { factor: 2.5, original: 64 });
        check(&rope, 8, &PLAIN, 1.0);
        check(&rope, 64, &PLAIN, 1.0);
        let one_more = [1.0, 0.213_798_67, 0.045_709_87, 0.009_772_711, 0.002_089_392, 0.000_446_709_4];
        check(&rope, 65, &one_more, 1.0);
        let long = [1.0, 0.149_036_63, 0.022_211_917, 0.003_310_39, 0.000_493_369_3, 0.000_073_530_14];
        check(&rope, 200, &long, 1.0);
    }

    #[test]
    fn llama3_leaves_short_waves_and_divides_long_ones() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 64 };
        let expected = [
            1.0,
            0.459_863_28,
            0.097_616_63,
            0.012_156_156,
            0.005_590_17,
            0.002_570_714,
            0.001_182_177,
            0.000_543_639_8,
        ];
        check(&rope(500.0, 16, scaling), 8, &expected, 1.0);
    }

    #[test]
    fn yarn_ramps_between_the_bounds() {
        let yarn = |beta_fast, beta_slow, original, attention_factor, bounds| {
            let scaling =
                RopeScaling::Yarn { factor: 4.0, beta_fast, beta_slow, original, attention_factor, bounds };
            rope(1e4, 12, scaling)
        };
        let tail = [0.011_603_971, 0.0025, 0.000_538_608_6, 0.000_116_039_74];
        let whole = yarn(16.0, 2.0, 256, 1.138_629_436_111_989, RampBounds::Whole);
        let with = |second| [[1.0, second].as_slice(), &tail].concat();
        check(&whole, 8, &with(0.134_652_15), 1.138_629_436_111_989);
        let exact = yarn(16.0, 2.0, 256, 1.064_821_625_369_571_5, RampBounds::Exact);
        check(&exact, 8, &with(0.168_793_75), 1.064_821_625_369_571_5);
        // Both bounds below the first pair: nothing is interpolated.
        check(&yarn(1.0, 1.0, 4, 1.0, RampBounds::Exact), 8, &PLAIN, 1.0);
        // Of three columns the ramp has one number, which is 0 here; a second one would be 1.
        let odd = Rope { rotary_dim: 3, ..yarn(16.0, 2.0, 256, 1.0, RampBounds::Whole) };
        check(&odd, 8, &[1.0, 0.002_154_434_6], 1.0);
    }

    #[test]
    fn longrope_chooses_its_divisors_by_the_row() {
        let rope = rope(
            1e4,
            12,
            RopeScaling::LongRope {
                short: vec![1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
                long: vec![1.5, 1.9, 2.3, 2.7, 3.1, 3.5],
                original: 16,
                attention_factor: 1.224_744_871_391_589,
            },
        );
        let short = [1.0, 0.195_857_69, 0.038_679_9, 0.007_692_307_7, 0.001_538_881_6, 0.000_309_439_32];
        check(&rope, 16, &short, 1.224_744_871_391_589);
        let long =
            [0.666_666_7, 0.113_391_295, 0.020_180_82, 0.003_703_703_6, 0.000_694_978_87, 0.000_132_616_84];
        check(&rope, 17, &long, 1.224_744_871_391_589);
    }
}
