//! Blocks in file order, laid out as panels.

use super::encoding::{Blocks, Encoding, GROUP};
use crate::vector::PANEL;

/// Lays out rows of blocks as columns of a panel, from a given column on. Other columns stay unchanged.
///
/// # Shapes
/// rows: in file format, `stride` bytes from one to the next; panel: all of its bytes.
pub(super) fn lay_out(
    encoding: Encoding,
    blocks: Blocks,
    rows: &[u8],
    stride: usize,
    first: usize,
    panel: &mut [u8],
) {
    for (column, row) in (first..).zip(rows.chunks_exact(stride)) {
        let stored = row.chunks_exact(encoding.block_bytes());
        for (block, to) in stored.zip(panel.chunks_exact_mut(blocks.bytes())) {
            let (head, groups) = to.split_at_mut(blocks.head());
            let place = Place { encoding, blocks, block, column };
            place.head(head);
            for (number, group) in groups.chunks_exact_mut(blocks.group()).enumerate() {
                place.scales(number, group);
                place.numbers(number, group);
            }
        }
    }
}

/// One block and its column.
struct Place<'a> {
    encoding: Encoding,
    blocks: Blocks,
    block: &'a [u8],
    column: usize,
}

impl Place<'_> {
    fn halves(&self, index: usize, at: usize, to: &mut [u8]) {
        to[(index * PANEL + self.column) * 2..][..2].copy_from_slice(&self.block[at..at + 2]);
    }

    fn word(&self, index: usize, word: u32, to: &mut [u8]) {
        to[(index * PANEL + self.column) * 4..][..4].copy_from_slice(&word.to_le_bytes());
    }

    /// Writes what the block's groups share.
    fn head(&self, to: &mut [u8]) {
        match self.encoding {
            Encoding::Q4K | Encoding::Q5K => {
                self.halves(0, 0, to);
                self.halves(1, 2, to);
            }
            Encoding::Q6K => self.halves(0, 208, to),
            _ => {}
        }
    }

    fn scales(&self, number: usize, group: &mut [u8]) {
        match self.encoding {
            Encoding::Q4K | Encoding::Q5K => {
                let [scale, minimum] = six_bits(&self.block[4..16], number);
                (group[self.column], group[PANEL + self.column]) = (scale, minimum);
            }
            Encoding::Q6K => {
                group[self.column] = self.block[192 + 2 * number];
                group[PANEL + self.column] = self.block[193 + 2 * number];
            }
            Encoding::Q4_1 | Encoding::Q5_1 => {
                self.halves(0, 0, group);
                self.halves(1, 2, group);
            }
            _ => self.halves(0, 0, group),
        }
    }

    fn numbers(&self, number: usize, group: &mut [u8]) {
        let (low, high) = group[self.blocks.numbers()..].split_at_mut(GROUP * PANEL / 2);
        if self.blocks.bits == 8 {
            let numbers = &mut group[self.blocks.numbers()..];
            for (input, byte) in self.block[2..].iter().enumerate() {
                numbers[input * PANEL + self.column] = *byte;
            }
            return;
        }
        for word in 0..4 {
            let (at, shift) = self.nibbles(number, word);
            self.word(word, low_nibbles(eight(&self.block[at..]) >> shift), low);
        }
        match self.encoding {
            Encoding::Q5_0 => self.word(0, four(&self.block[2..]), high),
            Encoding::Q5_1 => self.word(0, four(&self.block[4..]), high),
            Encoding::Q5K => {
                let bits = |i: usize| low_bits(eight(&self.block[16 + 8 * i..]) >> number) << (8 * i);
                self.word(0, bits(0) | bits(1) | bits(2) | bits(3), high);
            }
            Encoding::Q6K => {
                let (side, shift) = (number / 4, number % 4 * 2);
                for word in 0..2 {
                    let at = 128 + side * 32 + word * 16;
                    let pairs = |i: usize| low_pairs(eight(&self.block[at + 8 * i..]) >> shift) << (16 * i);
                    self.word(word, pairs(0) | pairs(1), high);
                }
            }
            _ => {}
        }
    }

    /// The position of the low bits of eight numbers of a group: the first of eight bytes, and the shift within each.
    fn nibbles(&self, group: usize, word: usize) -> (usize, usize) {
        let in_halves = |start: usize| (start + word % 2 * 8, word / 2 * 4);
        let in_groups = |start: usize| (start + group / 2 * 32 + word * 8, group % 2 * 4);
        match self.encoding {
            Encoding::Q4_1 => in_halves(4),
            Encoding::Q5_0 => in_halves(6),
            Encoding::Q5_1 => in_halves(8),
            Encoding::Q4K => in_groups(16),
            Encoding::Q5K => in_groups(48),
            Encoding::Q6K => {
                let (side, within) = (group / 4, group % 4);
                (side * 64 + within % 2 * 32 + word * 8, within / 2 * 4)
            }
            _ => in_halves(2),
        }
    }
}

/// The scale and minimum of one of eight groups. Groups 0 to 3 have their six bits in bytes 0 to 3 (scale) and 4 to 7
/// (minimum). Groups 4 to 7 have four bits in bytes 8 to 11 (scale low, minimum high), and their upper two in the top
/// bits of bytes 0 to 7.
fn six_bits(packed: &[u8], group: usize) -> [u8; 2] {
    if group < 4 {
        return [packed[group] & 63, packed[group + 4] & 63];
    }
    let both = packed[group + 4];
    [both & 15 | packed[group - 4] >> 2 & 48, both >> 4 | packed[group] >> 2 & 48]
}

fn four(bytes: &[u8]) -> u32 {
    bytes.first_chunk().copied().map_or(0, u32::from_le_bytes)
}

fn eight(bytes: &[u8]) -> u64 {
    bytes.first_chunk().copied().map_or(0, u64::from_le_bytes)
}

/// Packs the low four bits of each byte.
fn low_nibbles(bytes: u64) -> u32 {
    let bytes = bytes & 0x0f0f_0f0f_0f0f_0f0f;
    let pairs = (bytes | bytes >> 4) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    (fours | fours >> 16) as u32
}

/// Packs the low two bits of each byte.
fn low_pairs(bytes: u64) -> u32 {
    let bytes = bytes & 0x0303_0303_0303_0303;
    let pairs = (bytes | bytes >> 6) & 0x000f_000f_000f_000f;
    let fours = (pairs | pairs >> 12) & 0x0000_00ff_0000_00ff;
    (fours | fours >> 24) as u32 & 0xffff
}

/// Packs the lowest bit of each byte.
fn low_bits(bytes: u64) -> u32 {
    let bytes = bytes & 0x0101_0101_0101_0101;
    (bytes.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32
}
