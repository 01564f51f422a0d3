//! IEEE half precision, widened.

/// The f32 of the same value; a NaN keeps its bits.
///
/// One multiplication by 2^112 rebiases the exponent: exact, and correct for subnormals without a branch.
#[inline(always)]
pub(crate) fn widen(bits: u16) -> f32 {
    const REBASE: f32 = f32::from_bits((127 + 112) << 23);
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let finite = (f32::from_bits(magnitude) * REBASE).to_bits();
    let is_finite = bits & 0x7c00 != 0x7c00;
    f32::from_bits(sign | if is_finite { finite } else { magnitude | 0x7f80_0000 })
}
