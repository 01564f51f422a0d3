//! How weights are encoded, in files and in panels.

use crate::vector::PANEL;

/// How weights are encoded in their file, and in memory until a product reads them. Each value equals exactly what
/// widening first would give.
///
/// Names and layouts of block types follow ggml's `ggml-common.h`.
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

/// Inputs per group: those that share one scale, or one pair.
pub(super) const GROUP: usize = 32;

/// The format of a block's numbers.
///
/// # Shapes
/// For each block of inputs, a panel holds what the block's groups share, then the groups: scales first, then numbers.
/// Items that exist once per output are side by side for the panel's 32 outputs.
///
/// - Scales: f16, then minimums as f16; or bytes.
/// - Numbers of 8 bits: `[32 inputs, 32]` bytes.
/// - Others: their low four bits as `[4, 32]` words of eight inputs, the first lowest; then the higher bits in words of
///   32 inputs (one bit) or 16 (two bits).
///
/// All of it is a permutation of the file's bits, except that 6-bit scales take a byte each.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    /// Bits per number.
    pub(super) bits: usize,
    /// Subtracted from each number.
    pub(super) offset: f32,
    pub(super) scales: Scales,
}

/// What multiplies a number, and what is added.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scales {
    /// One scale per group.
    One,
    /// A scale and a minimum per group.
    WithMinimum,
    /// Bytes per group for a scale and a minimum, which the block's own scale and minimum multiply; the minimum is
    /// subtracted.
    Bytes,
    /// A signed byte per half group, multiplied by the block's own scale.
    OfHalves,
}

impl Encoding {
    /// Values per block.
    pub fn block_len(self) -> usize {
        match self.blocks() {
            None => 1,
            Some(blocks) => blocks.groups() * GROUP,
        }
    }

    /// Bytes that `values` values, as whole blocks, take in a file.
    ///
    /// # Panics
    /// If `values` is not a whole number of blocks.
    pub fn bytes_of(self, values: usize) -> usize {
        assert!(values.is_multiple_of(self.block_len()), "{values} values are not whole blocks of {self:?}");
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

    /// Bytes of a panel of `inputs` inputs, if a `usize` can hold them.
    pub(super) fn panel_bytes(self, inputs: usize) -> Option<usize> {
        match self.blocks() {
            Some(blocks) => (inputs / self.block_len()).checked_mul(blocks.bytes()),
            // bf16 stores inputs in pairs.
            None if self == Encoding::Bf16 => inputs.checked_next_multiple_of(2)?.checked_mul(2 * PANEL),
            None => inputs.checked_mul(self.block_bytes() * PANEL),
        }
    }

    /// The block format; `None` if values are stored singly.
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
    /// Groups per block.
    pub(super) const fn groups(&self) -> usize {
        match self.scales {
            Scales::One | Scales::WithMinimum => 1,
            Scales::Bytes | Scales::OfHalves => 8,
        }
    }

    /// Bytes shared by a block's groups.
    pub(super) const fn head(&self) -> usize {
        match self.scales {
            Scales::One | Scales::WithMinimum => 0,
            Scales::Bytes => 4 * PANEL,
            Scales::OfHalves => 2 * PANEL,
        }
    }

    /// Offset of a group's numbers: the bytes of its scales.
    pub(super) const fn numbers(&self) -> usize {
        match self.scales {
            Scales::One | Scales::Bytes | Scales::OfHalves => 2 * PANEL,
            Scales::WithMinimum => 4 * PANEL,
        }
    }

    /// Offset of a group's bits above the lowest four.
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
