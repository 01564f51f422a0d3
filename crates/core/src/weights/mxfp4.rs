//! Weights in blocks of MXFP4 (OCP Microscaling Formats 1.0): 32 four-bit numbers with one power of two.

use super::checkpoint::Checkpoint;

/// The value of a four-bit number: a sign, two exponent bits, one mantissa bit.
const VALUES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Numbers per block.
const BLOCK: usize = 32;

/// One expert's rows in two tensors of bytes.
#[derive(Debug)]
pub(super) struct Mxfp4 {
    /// Two numbers per byte, the lower half first.
    pub(super) blocks: String,
    /// One power of two per block, stored as its exponent plus 127.
    pub(super) scales: String,
    /// The expert's first row.
    pub(super) first: usize,
}

impl Mxfp4 {
    /// Decodes a row as in transformers (`convert_moe_packed_tensors`).
    pub(super) fn read(&self, files: &Checkpoint, row: usize, out: &mut [f32]) {
        let first = (self.first + row) * out.len() / BLOCK;
        let blocks = files.raw(&self.blocks).chunks_exact(BLOCK / 2).skip(first);
        let scales = files.raw(&self.scales).iter().skip(first);
        decode(blocks.zip(scales), out);
    }
}

fn decode<'a>(blocks: impl Iterator<Item = (&'a [u8], &'a u8)>, out: &mut [f32]) {
    for (out, (block, scale)) in out.chunks_exact_mut(BLOCK).zip(blocks) {
        let scale = f64::from(i32::from(*scale) - 127).exp2() as f32;
        for (pair, byte) in out.chunks_exact_mut(2).zip(block) {
            pair[0] = VALUES[usize::from(byte & 15)] * scale;
            pair[1] = VALUES[usize::from(byte >> 4)] * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_half_of_a_byte_comes_first() {
        let (mut out, mut block) = ([9.0; 32], [0_u8; 16]);
        (block[0], block[15]) = (0xa1, 0x7f);
        decode([(block.as_slice(), &129_u8)].into_iter(), &mut out);
        assert_eq!((out[0], out[1], out[2], out[30], out[31]), (2.0, -4.0, 0.0, -24.0, 24.0));
    }
}
