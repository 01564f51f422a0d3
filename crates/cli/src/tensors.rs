//! A safetensors file that is the same to the byte each time: metadata and tensors stand in the order given.
//!
//! The format: the header's length in 8 bytes, the header as JSON, the numbers (github.com/huggingface/safetensors).

use std::borrow::Cow;
use std::io::{self, Write};

use easyroutine::cache::Numbers;
use easyroutine_app::tensors::bytes;
use serde_json::{Map, Value, json};

/// A tensor to be written. Its numbers stay where they are, since a copy would double the memory.
#[derive(Debug)]
pub(crate) struct Stored<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) numbers: Cow<'a, Numbers>,
}

impl Stored<'_> {
    /// The type's name in the header, and the bytes of one number.
    fn kind(&self) -> (&'static str, usize) {
        match *self.numbers {
            Numbers::F32(_) => ("F32", size_of::<f32>()),
            Numbers::I64(_) => ("I64", size_of::<i64>()),
        }
    }
}

/// Writes a whole file.
///
/// # Errors
/// What the writer says.
pub(crate) fn write(
    out: &mut impl Write,
    metadata: &[(&str, String)],
    mut tensors: Vec<Stored<'_>>,
) -> io::Result<()> {
    // The widest numbers first: every tensor then begins at a multiple of its own width.
    tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.kind().1));
    let metadata: Map<String, Value> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let mut header = Map::from_iter([("__metadata__".to_owned(), Value::Object(metadata))]);
    let mut offset = 0;
    for tensor in &tensors {
        let (kind, width) = tensor.kind();
        let end = offset + tensor.shape.iter().product::<usize>() * width;
        let entry = json!({"dtype": kind, "shape": tensor.shape, "data_offsets": [offset, end]});
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = Value::Object(header).to_string();
    // The numbers begin at a multiple of 8; blanks after the JSON are part of the format.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    tensors.iter().try_for_each(|tensor| out.write_all(&bytes(&tensor.numbers)))?;
    out.flush()
}
