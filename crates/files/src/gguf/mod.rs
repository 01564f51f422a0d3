//! GGUF files, versions 2 and 3, little-endian.
//!
//! Layout: ggml's `docs/gguf.md`. A header of counts, key-value pairs, tensor descriptions, then the tensors' bytes,
//! each aligned. [`Gguf`] is everything except those bytes; [`GgufFile`] adds them.

mod cursor;
mod file;
mod parse;
mod tensors;
mod value;

pub use file::GgufFile;
pub use parse::Gguf;
pub use tensors::TensorInfo;
pub use value::{Array, Value};

/// The four bytes that every GGUF file begins with.
pub const MAGIC: &[u8; 4] = b"GGUF";
