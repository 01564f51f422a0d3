//! How weights are written, in files and in panels.

use crate::vector::PANEL;

/// How weights are written in their file, and stay in memory until a product reads them. Each value is exactly what
/// widening it first would give.
///
/// Names and layouts of the types of block: ggml's `ggml-common.h`.
#[expect(missing_docs, reason = "the variants are the names that the formats themselves use")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Inputs that a group has: what one scale, or a pair of them, is for.
pub(super) const GROUP: usize = 32;

/// What the numbers of a type of block are.
///
/// # Shapes
/// A panel has, for each block of inputs: what is common to the block's groups, then the groups. A group is its scales, then
/// its numbers. Whatever there is one of for each output stands side by side for the panel's 32.
///
/// - Scales: f16, then minimums as f16; or bytes.
/// - Numbers of 8 bits: `[32 inputs, 32]` bytes.
/// - Others: their low four bits as `[4, 32]` words of eight inputs, the first lowest; then what is above these in words of
///   32 inputs (one bit) or 16 (two bits).
///
/// All of it is a permutation of the file's bits, but that the 6-bit scales take a byte each.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    /// Bits of a number.
    pub(super) bits: usize,
    /// What is taken away from a number.
    pub(super) offset: f32,
    pub(super) scales: Scales,
}

/// What a number is multiplied with, and what is added.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scales {
    /// A scale a group.
    One,
    /// A scale and a minimum a group.
    WithMinimum,
    /// A scale and a minimum to be taken away, bytes to be multiplied with the block's own scale and minimum.
    Bytes,
    /// A scale for each half of a group, a signed byte to be multiplied with the block's own scale.
    OfHalves,
}

impl Encoding {
    /// Values that are written together.
    pub fn block_len(self) -> usize {
        match self.blocks() {
            None => 1,
            Some(blocks) => blocks.groups() * GROUP,
        }
    }

    /// Bytes of so many values, or of a row of blocks, in a file.
    ///
    /// # Panics
    /// If they are no whole blocks.
    pub fn bytes_of(self, values: usize) -> usize {
        assert!(values.is_multiple_of(self.block_len()), "{values} values are no whole blocks of {self:?}");
        values / self.block_len() * self.block_bytes()
    }

    pub(super) fn block_bytes(self) -> usize {
        match self {
            Encoding::F32 => 4,
            Encoding::F16 | Encoding::Bf16 => 2,
            Encoding::Q4_0 => 18,
            Encoding::Q4_1 => 20,
            Encoding::Q5_0 => 22,
            Encoding::Q5_1 => 24,
            Encoding::Q8_0 => 34,
            Encoding::Q4K => 144,
            Encoding::Q5K => 176,
            Encoding::Q6K => 210,
        }
    }

    /// Bytes that a panel of so many inputs takes, if a `usize` holds the number.
    pub(super) fn panel_bytes(self, inputs: usize) -> Option<usize> {
        match self.blocks() {
            Some(blocks) => (inputs / self.block_len()).checked_mul(blocks.bytes()),
            // Two inputs of bf16 stand together.
            None if self == Encoding::Bf16 => inputs.checked_next_multiple_of(2)?.checked_mul(2 * PANEL),
            None => inputs.checked_mul(self.block_bytes() * PANEL),
        }
    }

    /// What its blocks are; nothing where values stand alone.
    pub(super) const fn blocks(self) -> Option<Blocks> {
        use Scales::{Bytes, OfHalves, One, WithMinimum};
        let (bits, offset, scales) = match self {
            Encoding::F32 | Encoding::F16 | Encoding::Bf16 => return None,
            Encoding::Q4_0 => (4, 8.0, One),
            Encoding::Q4_1 => (4, 0.0, WithMinimum),
            Encoding::Q5_0 => (5, 16.0, One),
            Encoding::Q5_1 => (5, 0.0, WithMinimum),
            Encoding::Q8_0 => (8, 0.0, One),
            Encoding::Q4K => (4, 0.0, Bytes),
            Encoding::Q5K => (5, 0.0, Bytes),
            Encoding::Q6K => (6, 32.0, OfHalves),
        };
        Some(Blocks { bits, offset, scales })
    }
}

impl Blocks {
    /// Groups of a block.
    pub(super) const fn groups(&self) -> usize {
        match self.scales {
            Scales::One | Scales::WithMinimum => 1,
            Scales::Bytes | Scales::OfHalves => 8,
        }
    }

    /// Bytes that a block's groups have in common.
    pub(super) const fn head(&self) -> usize {
        match self.scales {
            Scales::One | Scales::WithMinimum => 0,
            Scales::Bytes => 4 * PANEL,
            Scales::OfHalves => 2 * PANEL,
        }
    }

    /// Where a group's numbers begin: bytes of its scales.
    pub(super) const fn numbers(&self) -> usize {
        match self.scales {
            Scales::One | Scales::Bytes | Scales::OfHalves => 2 * PANEL,
            Scales::WithMinimum => 4 * PANEL,
        }
    }

    /// Where a group's bits above the lowest four begin.
    pub(super) const fn high(&self) -> usize {
        self.numbers() + GROUP * PANEL / 2
    }

    /// Bytes of a group.
    pub(super) const fn group(&self) -> usize {
        self.numbers() + GROUP * PANEL * self.bits / 8
    }

    /// Bytes of a block.
    pub(super) const fn bytes(&self) -> usize {
        self.head() + self.groups() * self.group()
    }
}
