use std::ops::Range;

use super::cursor::Cursor;
use crate::{Encoding, Error, Result, tensor};

/// The most axes that ggml supports.
const MAX_AXES: u32 = 4;

/// The description of one tensor in a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// The tensor's name.
    pub name: String,
    /// Sizes of its axes, slowest first as in PyTorch: the reverse of the file's order.
    pub shape: Vec<usize>,
    /// The encoding of its numbers.
    pub encoding: Encoding,
    /// Its bytes, as offsets from the start of the file.
    pub range: Range<usize>,
}

/// A tensor's description, with the offset relative to the start of the data.
pub(super) struct Described {
    name: String,
    shape: Vec<usize>,
    encoding: Encoding,
    offset: u64,
    bytes: usize,
}

/// Bytes of the shortest description: an empty name, one axis, type, offset.
pub(super) const SHORTEST: usize = 8 + 4 + 8 + 4 + 8;

impl Described {
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        let name = cursor.string()?.to_owned();
        let place = format!("tensor `{}`", name.escape_debug());
        Self::read_after_name(cursor, name).map_err(|e| e.within(place))
    }

    fn read_after_name(cursor: &mut Cursor<'_>, name: String) -> Result<Self> {
        let axes = cursor.u32()?;
        if !(1..=MAX_AXES).contains(&axes) {
            return Err(Error::malformed(format!("has {axes} axes; 1 to {MAX_AXES} are possible")));
        }
        let mut shape = Vec::with_capacity(axes as usize);
        for _ in 0..axes {
            let size = cursor.u64()?;
            let size = usize::try_from(size).ok().filter(|&size| size > 0);
            shape.push(
                size.ok_or_else(|| Error::malformed("has an axis that is empty or beyond any memory"))?,
            );
        }
        shape.reverse();
        let encoding = encoding_of(cursor.u32()?)?;
        let offset = cursor.u64()?;
        let bytes = tensor::stored_bytes(&shape, encoding)?;
        Ok(Described { name, shape, encoding, offset, bytes })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The tensor in a file of `length` bytes whose data start at `data_start`.
    pub(super) fn place(self, data_start: usize, alignment: usize, length: usize) -> Result<TensorInfo> {
        let offset = usize::try_from(self.offset).ok().filter(|offset| offset.is_multiple_of(alignment));
        let start = offset.and_then(|offset| data_start.checked_add(offset));
        let end = start.and_then(|start| start.checked_add(self.bytes)).filter(|&end| end <= length);
        match (start, end) {
            (Some(start), Some(end)) => Ok(TensorInfo {
                name: self.name,
                shape: self.shape,
                encoding: self.encoding,
                range: start..end,
            }),
            (None, _) => Err(Error::malformed(format!(
                "offset {} is not a multiple of the alignment, {alignment}",
                self.offset
            ))
            .within(format_args!("tensor `{}`", self.name))),
            (Some(start), None) => Err(Error::malformed(format!(
                "its {} bytes from {start} on reach beyond the file's {length}. Is the download complete?",
                self.bytes
            ))
            .within(format_args!("tensor `{}`", self.name))),
        }
    }
}

pub(super) fn refuse_overlaps(tensors: &[TensorInfo]) -> Result<()> {
    let mut by_start: Vec<_> = tensors.iter().collect();
    by_start.sort_by_key(|tensor| tensor.range.start);
    for pair in by_start.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            return Err(Error::malformed(format!(
                "tensors `{}` and `{}` overlap",
                pair[0].name, pair[1].name
            )));
        }
    }
    Ok(())
}

/// Type numbers: `enum ggml_type` in ggml's `ggml.h`.
fn encoding_of(ggml_type: u32) -> Result<Encoding> {
    Ok(match ggml_type {
        0 => Encoding::F32,
        1 => Encoding::F16,
        2 => Encoding::Q4_0,
        3 => Encoding::Q4_1,
        6 => Encoding::Q5_0,
        7 => Encoding::Q5_1,
        8 => Encoding::Q8_0,
        10 => Encoding::Q2K,
        11 => Encoding::Q3K,
        12 => Encoding::Q4K,
        13 => Encoding::Q5K,
        14 => Encoding::Q6K,
        20 => Encoding::Iq4Nl,
        23 => Encoding::Iq4Xs,
        24 => Encoding::I8,
        25 => Encoding::I16,
        26 => Encoding::I32,
        27 => Encoding::I64,
        28 => Encoding::F64,
        30 => Encoding::Bf16,
        34 => Encoding::Tq1_0,
        35 => Encoding::Tq2_0,
        39 => Encoding::Mxfp4,
        other => {
            let known = "Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS, MXFP4, TQ1_0, TQ2_0, F16, BF16 and F32 \
                         are read";
            return Err(match name_of_unread(other) {
                Some(name) => Error::unsupported(format!("type {name} is not read; {known}")),
                None => Error::malformed(format!("ggml type {other} does not exist; {known}")),
            });
        }
    })
}

fn name_of_unread(ggml_type: u32) -> Option<&'static str> {
    Some(match ggml_type {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        29 => "IQ1_M",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        40 => "NVFP4",
        _ => return None,
    })
}
