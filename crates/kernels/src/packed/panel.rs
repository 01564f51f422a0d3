//! A panel of weights in memory, and reading one of its outputs.

use super::encoding::{Blocks, Encoding, GROUP, Scales};
use crate::aligned::{Aligned, cast};
use crate::vector::PANEL;
use crate::{bf16, f16};

/// A matrix's panels, each in its own encoding.
pub(crate) struct Packed {
    pub(super) bytes: Aligned,
    /// Each panel's encoding and start, then the end of the last.
    pub(super) starts: Vec<(Encoding, usize)>,
    /// Whether any encoding differs from the type that products multiply.
    pub(super) is_decoded: bool,
}

/// 32 outputs side by side.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    pub(crate) encoding: Encoding,
    /// Aligned to a cache line.
    pub(crate) bytes: &'a [u8],
}

impl Packed {
    pub(crate) fn panel(&self, panel: usize) -> Panel<'_> {
        let [(encoding, start), (_, end)] = [self.starts[panel], self.starts[panel + 1]];
        Panel { encoding, bytes: &self.bytes.values()[start..end] }
    }

    pub(crate) fn panels(&self) -> impl Iterator<Item = Panel<'_>> {
        (0..self.starts.len().saturating_sub(1)).map(|panel| self.panel(panel))
    }
}

impl Panel<'_> {
    /// The bytes of a range of inputs, or most of them: a hint of what a product will read.
    pub(crate) fn bytes_of(&self, inputs: std::ops::Range<usize>, depth: usize) -> &[u8] {
        let at = |input: usize| self.bytes.len() / depth.max(1) * input;
        &self.bytes[at(inputs.start)..at(inputs.end)]
    }

    /// The weights of one of the outputs.
    ///
    /// # Shapes
    /// out: `[inputs]`.
    pub(super) fn read_column(&self, column: usize, out: &mut [f32]) {
        match (self.encoding, self.encoding.blocks()) {
            (encoding, Some(blocks)) => {
                let blocks_of = self.bytes.chunks_exact(blocks.bytes());
                for (block, out) in blocks_of.zip(out.chunks_exact_mut(encoding.block_len())) {
                    let (head, groups) = block.split_at(blocks.head());
                    let groups = groups.chunks_exact(blocks.group());
                    for (group, out) in groups.zip(out.chunks_exact_mut(GROUP)) {
                        read_group(blocks, head, group, column, out);
                    }
                }
            }
            (Encoding::F16, _) => {
                let rows = self.bytes.chunks_exact(2 * PANEL);
                for (row, out) in rows.zip(out) {
                    *out = half(row, 0, column);
                }
            }
            (Encoding::Bf16, _) => {
                let pairs = cast::<u8, u16>(self.bytes).chunks_exact(2 * PANEL);
                for (pair, out) in pairs.zip(out.chunks_mut(2)) {
                    let values = &pair[2 * column..];
                    out.iter_mut().zip(values).for_each(|(out, value)| *out = bf16::widen(*value));
                }
            }
            (_, _) => {
                let rows = cast::<u8, f32>(self.bytes).chunks_exact(PANEL);
                out.iter_mut().zip(rows).for_each(|(out, row)| *out = row[column]);
            }
        }
    }
}

/// The f16 at a column of row `index`.
fn half(bytes: &[u8], index: usize, column: usize) -> f32 {
    let at = 2 * (index * PANEL + column);
    f16::widen(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn word(bytes: &[u8], index: usize, column: usize) -> u32 {
    let at = 4 * (index * PANEL + column);
    bytes[at..].first_chunk().copied().map_or(0, u32::from_le_bytes)
}

/// One output's weights in a group.
fn read_group(blocks: Blocks, head: &[u8], group: &[u8], column: usize, out: &mut [f32]) {
    for (input, out) in out.iter_mut().enumerate() {
        let numbers = &group[blocks.numbers()..];
        let number = if blocks.bits == 8 {
            f32::from(numbers[input * PANEL + column] as i8)
        } else {
            let low = word(numbers, input / 8, column) >> (4 * (input % 8)) & 15;
            let above = &group[blocks.high()..];
            let high = match blocks.bits {
                5 => word(above, 0, column) >> input & 1,
                6 => word(above, input / 16, column) >> (2 * (input % 16)) & 3,
                _ => 0,
            };
            (low + 16 * high) as f32 - blocks.offset
        };
        *out = match blocks.scales {
            Scales::One => number * half(group, 0, column),
            Scales::WithMinimum => number * half(group, 0, column) + half(group, 1, column),
            Scales::Bytes => {
                let scale = half(head, 0, column) * f32::from(group[column]);
                number * scale - half(head, 1, column) * f32::from(group[PANEL + column])
            }
            Scales::OfHalves => {
                let scale = group[input / 16 * PANEL + column] as i8;
                number * (half(head, 0, column) * f32::from(scale))
            }
        };
    }
}
