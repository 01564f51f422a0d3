//! Decodes GGUF block types to `f32`, with the bits of the Python package `gguf` (gguf.quants.dequantize).
//!
//! Layouts: ggml's `ggml-common.h`. A block holds a half-precision scale (some have a minimum or a second level of
//! scales), then small integers. The order of operations below is part of the result: single precision throughout,
//! scale times integer first, then the minimum.

mod low_bits;

use crate::Encoding;
use crate::floats::{bf16_to_f32, f16_to_f32};
use low_bits::{iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, tq1_0, tq2_0};

/// Decodes whole blocks from `bytes` into `out`.
///
/// Both must hold the same number of blocks, which the caller has checked; anything beyond the shorter is ignored.
///
/// # Shapes
/// bytes: [n_blocks * block_bytes], out: [n_blocks * block_len]
pub(crate) fn decode(encoding: Encoding, bytes: &[u8], out: &mut [f32]) {
    match encoding {
        Encoding::F64 => {
            each(bytes, out, |b: &[u8; 8], o: &mut [f32; 1]| o[0] = f64::from_le_bytes(*b) as f32)
        }
        Encoding::F32 => each(bytes, out, |b: &[u8; 4], o: &mut [f32; 1]| o[0] = f32::from_le_bytes(*b)),
        Encoding::F16 => each(bytes, out, |b: &[u8; 2], o: &mut [f32; 1]| o[0] = half(b)),
        Encoding::Bf16 => {
            each(bytes, out, |b: &[u8; 2], o: &mut [f32; 1]| o[0] = bf16_to_f32(u16::from_le_bytes(*b)));
        }
        Encoding::Q4_0 => each(bytes, out, q4_0),
        Encoding::Q4_1 => each(bytes, out, q4_1),
        Encoding::Q5_0 => each(bytes, out, q5_0),
        Encoding::Q5_1 => each(bytes, out, q5_1),
        Encoding::Q8_0 => each(bytes, out, q8_0),
        Encoding::Q2K => each(bytes, out, q2_k),
        Encoding::Q3K => each(bytes, out, q3_k),
        Encoding::Q4K => each(bytes, out, q4_k),
        Encoding::Q5K => each(bytes, out, q5_k),
        Encoding::Q6K => each(bytes, out, q6_k),
        Encoding::Iq4Nl => each(bytes, out, iq4_nl),
        Encoding::Iq4Xs => each(bytes, out, iq4_xs),
        Encoding::Mxfp4 => each(bytes, out, mxfp4),
        Encoding::Tq1_0 => each(bytes, out, tq1_0),
        Encoding::Tq2_0 => each(bytes, out, tq2_0),
        // `StoredTensor` refuses these before it comes here.
        Encoding::I64
        | Encoding::I32
        | Encoding::I16
        | Encoding::I8
        | Encoding::U64
        | Encoding::U32
        | Encoding::U16
        | Encoding::U8
        | Encoding::Bool
        | Encoding::F8
        | Encoding::Complex64 => {}
    }
}

fn each<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    for (stored, numbers) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        block(stored, numbers);
    }
}

fn half(bytes: &[u8]) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// scale, then 16 bytes: the low nibbles are elements 0..16, the high ones 16..32; offset 8.
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = half(block);
    let (low, high) = out.split_at_mut(16);
    for ((&byte, low), high) in block[2..].iter().zip(low).zip(high) {
        *low = scale * (f32::from(byte & 15) - 8.0);
        *high = scale * (f32::from(byte >> 4) - 8.0);
    }
}

/// scale, minimum, then nibbles as in [`q4_0`].
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, minimum) = (half(block), half(&block[2..]));
    let (low, high) = out.split_at_mut(16);
    for ((&byte, low), high) in block[4..].iter().zip(low).zip(high) {
        *low = scale * f32::from(byte & 15) + minimum;
        *high = scale * f32::from(byte >> 4) + minimum;
    }
}

/// scale, 32 fifth bits, then nibbles as in [`q4_0`]; offset 16.
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = half(block);
    let fifths = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for (i, number) in out.iter_mut().enumerate() {
        *number = scale * (five_bits(&block[6..], fifths, i) - 16.0);
    }
}

/// scale, minimum, 32 fifth bits, nibbles.
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, minimum) = (half(block), half(&block[2..]));
    let fifths = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for (i, number) in out.iter_mut().enumerate() {
        *number = scale * five_bits(&block[8..], fifths, i) + minimum;
    }
}

fn five_bits(nibbles: &[u8], fifths: u32, i: usize) -> f32 {
    let low = nibbles[i % 16] >> (i / 16 * 4) & 15;
    f32::from(low | ((fifths >> i & 1) as u8) << 4)
}

/// scale, 32 signed bytes.
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = half(block);
    for (&byte, number) in block[2..].iter().zip(out) {
        *number = f32::from(byte as i8) * scale;
    }
}

/// scale of scales, scale of minima, 12 bytes of 6-bit scales and minima, then eight groups of 32 nibbles: each 32
/// bytes hold two groups, the low nibbles first.
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let groups = scales_and_minima(block);
    for (group, numbers) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = groups[group];
        let nibbles = &block[16 + group / 2 * 32..][..32];
        let shift = group % 2 * 4;
        for (&byte, number) in nibbles.iter().zip(numbers) {
            *number = scale * f32::from(byte >> shift & 15) - minimum;
        }
    }
}

/// As [`q4_k`], with 32 bytes between scales and nibbles that hold the fifth bits: bit g of byte i for element i of group g.
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let groups = scales_and_minima(block);
    let fifths = &block[16..48];
    for (group, numbers) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = groups[group];
        let nibbles = &block[48 + group / 2 * 32..][..32];
        let shift = group % 2 * 4;
        for ((&byte, &fifth), number) in nibbles.iter().zip(fifths).zip(numbers) {
            *number = scale * f32::from(byte >> shift & 15 | (fifth >> group & 1) << 4) - minimum;
        }
    }
}

/// The scale and minimum of each of the eight groups of a `Q4_K` or `Q5_K` block, from its first 16 bytes.
///
/// Groups 0..4 have their six bits in bytes 0..4 (scale) and 4..8 (minimum); groups 4..8 have four bits in bytes 8..12
/// (scale low, minimum high) and their upper two bits above those of groups 0..4.
fn scales_and_minima(block: &[u8]) -> [(f32, f32); 8] {
    let (scale, minimum) = (half(block), half(&block[2..]));
    let packed = &block[4..16];
    std::array::from_fn(|group| {
        let (s, m) = if group < 4 {
            (packed[group] & 63, packed[group + 4] & 63)
        } else {
            let both = packed[group + 4];
            (both & 15 | (packed[group - 4] >> 2 & 48), both >> 4 | (packed[group] >> 2 & 48))
        };
        (scale * f32::from(s), minimum * f32::from(m))
    })
}

/// 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed scales of 16 elements each, the scale of scales.
///
/// Each half of 128 elements takes 64 bytes of nibbles (elements 0..64 low, 64..128 high) and 32 bytes of pairs
/// (elements 32 p .. 32 p + 32 in pair p); offset 32.
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let scale = half(&block[208..]);
    for (sixteen, numbers) in out.chunks_exact_mut(16).enumerate() {
        let scale = scale * f32::from(block[192 + sixteen] as i8);
        let (side, within) = (sixteen / 8, sixteen % 8 * 16);
        let nibbles = &block[side * 64 + within % 64..][..16];
        let pairs = &block[128 + side * 32 + within % 32..][..16];
        let (nibble_shift, pair_shift) = (within / 64 * 4, within / 32 * 2);
        for ((&nibble, &pair), number) in nibbles.iter().zip(pairs).zip(numbers) {
            let six = nibble >> nibble_shift & 15 | (pair >> pair_shift & 3) << 4;
            *number = scale * (f32::from(six) - 32.0);
        }
    }
}
