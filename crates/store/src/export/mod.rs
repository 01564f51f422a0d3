//! Exporting tensors for other programs.

#[cfg(feature = "parquet")]
mod labels;
#[cfg(feature = "parquet")]
pub mod parquet;
#[cfg(feature = "parquet")]
mod places;

use std::io::{self, Write};

use serde_json::{Map, json};

use crate::shard::{self, head};
use crate::tensor::{Dtype, Loaded};

/// Writes one safetensors file: ragged tensors with their offsets, as in a run's shards.
///
/// # Errors
/// If the writer fails.
pub fn safetensors(
    about: &[(&str, String)],
    tensors: &[(String, Loaded)],
    out: &mut dyn Write,
) -> io::Result<()> {
    let borrowed: Vec<_> = tensors.iter().map(|(name, tensor)| tensor.as_tensor(name)).collect();
    let mut pieces: Vec<_> = borrowed.iter().flat_map(|tensor| shard::pieces(tensor, None)).collect();
    shard::widest_first(&mut pieces);
    let about: Map<_, _> = about.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let write = || {
        out.write_all(&head(about, &pieces))?;
        pieces.iter().try_for_each(|piece| out.write_all(&piece.bytes))?;
        out.flush()
    };
    let written = write();
    // Before any error of the writer, which may come from a file that was cut short meanwhile.
    tensors.iter().try_for_each(|(_, tensor)| unchanged(tensor))?;
    written
}

/// Checks that what was written is what was read.
fn unchanged(tensor: &Loaded) -> io::Result<()> {
    tensor.check_unchanged().map_err(io::Error::other)
}

/// Writes one array in NumPy's format, version 1 or 2 (numpy.lib.format). NumPy has no bf16, so it is widened to f32.
///
/// # Errors
/// If the writer fails.
pub fn npy(tensor: &Loaded, out: &mut dyn Write) -> io::Result<()> {
    let kind = match tensor.dtype {
        Dtype::Bool => "|b1",
        Dtype::U8 => "|u1",
        Dtype::I8 => "|i1",
        Dtype::U16 => "<u2",
        Dtype::I16 => "<i2",
        Dtype::F16 => "<f2",
        Dtype::U32 => "<u4",
        Dtype::I32 => "<i4",
        Dtype::F32 | Dtype::Bf16 => "<f4",
        Dtype::U64 => "<u8",
        Dtype::I64 => "<i8",
        Dtype::F64 => "<f8",
        Dtype::C64 => "<c8",
    };
    // A tuple of one has a comma too.
    let shape: String = tensor.shape.iter().map(|axis| format!("{axis},")).collect();
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    let before = if header.len() < 65_000 { 10 } else { 12 };
    header
        .push_str(&" ".repeat((before + header.len() + 1).next_multiple_of(64) - before - header.len() - 1));
    header.push('\n');
    out.write_all(b"\x93NUMPY")?;
    if before == 10 {
        out.write_all(&[1, 0])?;
        out.write_all(&(header.len() as u16).to_le_bytes())?;
    } else {
        out.write_all(&[2, 0])?;
        out.write_all(&(header.len() as u32).to_le_bytes())?;
    }
    out.write_all(header.as_bytes())?;
    let written = match tensor.dtype {
        Dtype::Bf16 => tensor.widened().iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        _ => out.write_all(&tensor.bytes),
    };
    unchanged(tensor)?;
    written?;
    out.flush()
}
