//! Block types of two to four bits, and those whose integers are indices into a table.

use super::half;

/// What the four-bit numbers of [`iq4_nl`] and [`iq4_xs`] mean (`kvalues_iq4nl`).
const NON_LINEAR: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// Twice what the four-bit floats of [`mxfp4`] mean: a sign, two bits of exponent, one of mantissa.
const E2M1: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// 16 bytes of scales (low nibble) and minima (high nibble) of 16 elements each, 64 bytes of bit pairs, the scale of
/// scales, the scale of minima.
///
/// Each half of 128 elements takes 32 bytes of pairs: elements 32 p .. 32 p + 32 of the half are pair p.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scale, minimum) = (half(&block[80..]), half(&block[82..]));
    for (sixteen, numbers) in out.chunks_exact_mut(16).enumerate() {
        let both = block[sixteen];
        let (scale, minimum) = (scale * f32::from(both & 15), minimum * f32::from(both >> 4));
        let (pairs, shift) = pairs_of(&block[16..80], sixteen);
        for (&pair, number) in pairs.iter().zip(numbers) {
            *number = scale * f32::from(pair >> shift & 3) - minimum;
        }
    }
}

/// 32 bytes of third bits, 64 bytes of bit pairs as in [`q2_k`], 12 bytes of 6-bit scales, the scale of scales.
///
/// Bit g of third byte i is for element i of group g of 32; where it is 0, 4 is taken off. Scales have an offset of 32: their
/// lower four bits are the nibbles of the first eight bytes, low ones first, their upper two are in the last four bytes.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let scale = half(&block[108..]);
    let packed = &block[96..108];
    for (sixteen, numbers) in out.chunks_exact_mut(16).enumerate() {
        let low = packed[sixteen % 8] >> (sixteen / 8 * 4) & 15;
        let high = packed[8 + sixteen % 4] >> (sixteen / 4 * 2) & 3;
        let scale = scale * (f32::from(low | high << 4) - 32.0);
        let (pairs, shift) = pairs_of(&block[32..96], sixteen);
        let thirds = &block[sixteen % 2 * 16..][..16];
        for ((&pair, &third), number) in pairs.iter().zip(thirds).zip(numbers) {
            let offset = if third >> (sixteen / 2) & 1 == 1 { 0.0 } else { 4.0 };
            *number = scale * (f32::from(pair >> shift & 3) - offset);
        }
    }
}

/// The bytes that hold the pairs of a group of 16 elements, and where in them.
fn pairs_of(pairs: &[u8], sixteen: usize) -> (&[u8], usize) {
    let (side, within) = (sixteen / 8, sixteen % 8);
    (&pairs[side * 32 + within % 2 * 16..][..16], within / 2 * 2)
}

/// scale, then nibbles: the low ones are elements 0..16, the high ones 16..32; each is an index.
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    by_index(&NON_LINEAR, half(block), &block[2..], out);
}

/// scale of scales, 16 bits with the upper two of each scale, 4 bytes with the lower four (low nibbles first), then eight
/// groups of nibbles as in [`iq4_nl`]. Scales have an offset of 32.
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let scale = half(block);
    let upper = u16::from_le_bytes([block[2], block[3]]);
    for (group, (numbers, nibbles)) in out.chunks_exact_mut(32).zip(block[8..].chunks_exact(16)).enumerate() {
        let low = block[4 + group / 2] >> (group % 2 * 4) & 15;
        let high = (upper >> (2 * group) & 3) as u8;
        by_index(&NON_LINEAR, scale * (f32::from(low | high << 4) - 32.0), nibbles, numbers);
    }
}

/// The exponent of a power of two, 127 above it, then nibbles as in [`iq4_nl`].
pub(super) fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    // Half of the power, since the table holds twice the values; the two smallest are subnormal.
    let exponent = u32::from(block[0]);
    let bits = if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 };
    by_index(&E2M1, f32::from_bits(bits), &block[1..], out);
}

fn by_index(table: &[f32; 16], scale: f32, nibbles: &[u8], out: &mut [f32]) {
    let (low, high) = out.split_at_mut(16);
    for ((&byte, low), high) in nibbles.iter().zip(low).zip(high) {
        *low = scale * table[usize::from(byte & 15)];
        *high = scale * table[usize::from(byte >> 4)];
    }
}

/// 52 bytes of digits to the base of three, then the scale. A byte is a fraction: its first digit is the whole part of three
/// times it. Bytes 0..32 and 32..48 hold five digits each, the others four; the first digits of a run come first.
pub(super) fn tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    let scale = half(&block[52..]);
    let mut numbers = out.iter_mut();
    for (bytes, digits) in [(&block[..32], 5), (&block[32..48], 5), (&block[48..52], 4)] {
        let mut power = 1_u8;
        for _ in 0..digits {
            for (&byte, number) in bytes.iter().zip(&mut numbers) {
                let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
                *number = scale * (f32::from(digit) - 1.0);
            }
            power = power.wrapping_mul(3);
        }
    }
}

/// 64 bytes of bit pairs as in [`q2_k`], then the scale; offset 1.
pub(super) fn tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let scale = half(&block[64..]);
    for (sixteen, numbers) in out.chunks_exact_mut(16).enumerate() {
        let (pairs, shift) = pairs_of(&block[..64], sixteen);
        for (&pair, number) in pairs.iter().zip(numbers) {
            *number = scale * (f32::from(pair >> shift & 3) - 1.0);
        }
    }
}
