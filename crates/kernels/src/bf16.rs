//! bf16: the upper half of an f32.

/// The nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub(crate) fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    // Rounding up may carry into infinity, as it should, but from a NaN it could carry out of the NaNs.
    let quiet = (bits >> 16) | 0x40;
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if value.is_nan() { quiet as u16 } else { nearest as u16 }
}

/// The f32 of the nearest bf16.
#[inline(always)]
pub fn nearest(value: f32) -> f32 {
    widen(round(value))
}

/// The f32 of the same value.
#[inline(always)]
pub(crate) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bf16_is_its_own_nearest() {
        for bits in 0..=u16::MAX {
            let value = widen(bits);
            assert!(round(value) == bits || (value.is_nan() && widen(round(value)).is_nan()));
        }
    }

    #[test]
    fn ties_go_to_the_even_neighbour_and_all_else_to_the_nearest() {
        let cases = [
            (0x3f80_8000, 0x3f80),
            (0x3f81_8000, 0x3f82),
            (0x3f80_8001, 0x3f81),
            (0x3f80_7fff, 0x3f80),
            (0x7f7f_ffff, 0x7f80),
            (0xff7f_ffff, 0xff80),
            (0x7f80_0001, 0x7fc0),
            (0xffff_ffff, 0xffff),
            (0x8000_0001, 0x8000),
        ];
        for (from, to) in cases {
            assert_eq!(round(f32::from_bits(from)), to, "{from:#x}");
        }
    }
}
