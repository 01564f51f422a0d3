//! GGUF files, versions 2 and 3, little-endian.
//!
//! Layout: ggml's `docs/gguf.md`. A header of counts, key-value pairs, tensor descriptions, then the tensors' bytes,
//! each aligned. [`Gguf`] is everything but those bytes; [`GgufFile`] adds them, and the other parts of a split model.

mod cursor;
mod file;
mod parse;
mod parts;
mod tensors;
mod value;

pub use file::GgufFile;
pub use parse::Gguf;
pub use parts::PartName;
pub use tensors::TensorInfo;
pub use value::{Array, Value};

/// The four bytes that every GGUF file begins with.
pub const MAGIC: &[u8; 4] = b"GGUF";
