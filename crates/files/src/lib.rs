//! Mapping and reading model files safely.
//!
//! A model's weights come in two container formats: safetensors (one file, or several with an index) and GGUF.
//! [`Container::open`] takes either; each tensor is a [`StoredTensor`], a view into the mapped file that decodes itself
//! row by row to `f32`. Files are untrusted: every length is checked before anything is allocated or read, and a bad
//! file gives an [`Error`] that says what is wrong.
//!
//! Only this crate maps memory, in [`MappedFile`]. If a file is cut short while it is mapped,
//! [`MappedFile::check_unchanged`] returns an error; the process never ends. [`limit_regular_expressions`] bounds
//! memory and time of a tokenizer.json's patterns.

mod blocks;
mod container;
mod encoding;
mod error;
mod expressions;
mod floats;
pub mod gguf;
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
mod guard;
mod map;
pub mod npz;
mod open;
mod sharded;
mod single;
mod tensor;
pub mod torch;
mod write;
mod zip;

pub use container::Container;
pub use encoding::Encoding;
pub use error::{Error, ErrorKind, Result};
pub use expressions::limit_regular_expressions;
pub use gguf::{Gguf, GgufFile};
pub use map::MappedFile;
pub use open::{FileIdentity, OpenFile};
pub use sharded::ShardedSafeTensors;
pub use tensor::{LastingRows, StoredTensor};
pub use write::{HeaderEntry, safetensors_head};
