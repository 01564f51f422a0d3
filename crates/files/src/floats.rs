//! The 16-bit floats, widened exactly.

/// IEEE half precision to single: exact, NaN payloads kept.
///
/// One multiplication by 2^112 rebiases the exponent: exact, and correct for subnormals without a branch.
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    const REBASE: f32 = f32::from_bits((127 + 112) << 23);
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7FFF) << 13;
    let finite = (f32::from_bits(magnitude) * REBASE).to_bits();
    let not_finite = magnitude | 0x7F80_0000;
    f32::from_bits(sign | if half & 0x7C00 == 0x7C00 { not_finite } else { finite })
}

/// bfloat16 to single: its 16 bits are the upper half.
pub(crate) fn bf16_to_f32(brain: u16) -> f32 {
    f32::from_bits(u32::from(brain) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_widen_to_the_value_that_the_definition_gives() {
        for half in 0..=u16::MAX {
            let (exponent, fraction) = (i32::from(half >> 10 & 31), f64::from(half & 1023));
            let magnitude = match exponent {
                0 => fraction * 2f64.powi(-24),
                31 if half & 1023 == 0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
            };
            let wide = f16_to_f32(half);
            assert_eq!(wide.is_sign_negative(), half & 0x8000 != 0, "{half:#06x}");
            assert!(
                f64::from(wide.abs()) == magnitude || wide.is_nan() && magnitude.is_nan(),
                "{half:#06x}: {wide} is not {magnitude}"
            );
        }
    }
}
