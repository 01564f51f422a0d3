//! Arrays written by `numpy.savez`: a zip archive of .npy files, mapped as is.
//!
//! Format: NumPy's `numpy/lib/format.py`, versions 1 to 3. The header is a Python literal of a fixed shape, which is
//! parsed and never run.

use std::ops::Range;

use crate::{Encoding, Error, Result, zip};

/// One array of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    /// Its name, without `.npy`.
    pub name: String,
    /// Sizes of its axes, in NumPy's order.
    pub shape: Vec<usize>,
    /// The encoding of its numbers.
    pub encoding: Encoding,
    /// Whether the first axis varies fastest (Fortran order) instead of the last.
    pub is_fortran: bool,
    /// The range of its numbers in the file.
    pub range: Range<usize>,
}

/// Longest accepted header; NumPy's own are a few hundred bytes.
const MAX_HEADER: usize = 1 << 16;

/// Lists the arrays of a whole file, sorted by name. Nothing is copied.
///
/// # Errors
/// If the file is not a zip archive, a member is compressed or not an array, or the amount of data is wrong.
pub fn arrays(file: &[u8]) -> Result<Vec<Array>> {
    let archive = zip::Archive::new(file, "numpy.savez")?;
    archive
        .members()
        .map(|(name, content)| {
            let Some(short) = name.strip_suffix(".npy") else {
                return Err(Error::malformed(format!(
                    "member `{}` is not a .npy array",
                    name.escape_debug()
                )));
            };
            // A member is a slice of the file.
            let start = content.as_ptr().addr() - file.as_ptr().addr();
            array(short, content, start)
                .map_err(|what| Error::malformed(what).within(format_args!("`{}`", name.escape_debug())))
        })
        .collect()
}

fn array(name: &str, content: &[u8], start: usize) -> std::result::Result<Array, String> {
    let short = || "its header is cut short".to_owned();
    let rest = content.strip_prefix(b"\x93NUMPY").ok_or("does not begin as a .npy array does")?;
    let version = *rest.first().ok_or_else(short)?;
    let (length, header_at) = match version {
        1 => (
            usize::from(u16::from_le_bytes([
                *rest.get(2).ok_or_else(short)?,
                *rest.get(3).ok_or_else(short)?,
            ])),
            10,
        ),
        2 | 3 => {
            let bytes = rest.get(2..6).and_then(|bytes| bytes.try_into().ok()).ok_or_else(short)?;
            (u32::from_le_bytes(bytes) as usize, 12)
        }
        other => return Err(format!("version {other} of the .npy format is not one that is read")),
    };
    if length > MAX_HEADER {
        return Err(format!("claims a header of {length} bytes; {MAX_HEADER} is the limit"));
    }
    let header = content.get(header_at..header_at + length).ok_or_else(short)?;
    let header = std::str::from_utf8(header).map_err(|_| "its header is not UTF-8")?;
    let descr = between(header, "'descr': '", "'").ok_or("its header names no plain type")?;
    let encoding = match descr {
        "<f4" => Encoding::F32,
        "<f8" => Encoding::F64,
        "<f2" => Encoding::F16,
        "<i8" => Encoding::I64,
        "<i4" => Encoding::I32,
        other => return Err(format!("holds `{}`; little-endian floats are read", other.escape_debug())),
    };
    let is_fortran = match between(header, "'fortran_order': ", ",") {
        Some("True") => true,
        Some("False") => false,
        _ => return Err("its header does not say which axis runs fastest".to_owned()),
    };
    let shape = between(header, "'shape': (", ")").ok_or("its header names no shape")?;
    let shape = shape
        .split(',')
        .map(str::trim)
        .filter(|axis| !axis.is_empty())
        .map(|axis| {
            axis.parse::<usize>().map_err(|_| format!("`{}` is not a size of an axis", axis.escape_debug()))
        })
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let numbers = header_at + length..content.len();
    let needed = crate::tensor::stored_bytes(&shape, encoding).map_err(|e| e.to_string())?;
    if needed != numbers.len() {
        return Err(format!("shape {shape:?} of {encoding} needs {needed} bytes, not {}", numbers.len()));
    }
    let range = start + numbers.start..start + numbers.end;
    Ok(Array { name: name.to_owned(), shape, encoding, is_fortran, range })
}

/// The text between two markers.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}
