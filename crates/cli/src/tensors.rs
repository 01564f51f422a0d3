//! A safetensors file that is the same to the byte each time: metadata and tensors stand in the order given.
//!
//! The format: the header's length in 8 bytes, the header as JSON, the numbers (github.com/huggingface/safetensors).

use std::borrow::Cow;
use std::io::{self, Write};

use easyroutine::cache::{Kept, Key, Numbers};
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

/// Numbers in the order of bytes that files have.
pub(crate) fn bytes(numbers: &Numbers) -> Cow<'_, [u8]> {
    match numbers {
        Numbers::F32(values) if cfg!(target_endian = "little") => bytemuck::cast_slice(values).into(),
        Numbers::F32(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Numbers::I64(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// An activation whose rows differ in length, laid end to end.
#[derive(Debug)]
pub(crate) struct Flat {
    /// Whether every row was laid flat, as both its axes are positions; else rows follow one another along the first.
    pub(crate) is_pairwise: bool,
    /// Shape of the whole.
    pub(crate) shape: Vec<usize>,
    /// Where each row begins along the first axis, and where the last one ends.
    pub(crate) offsets: Vec<i64>,
}

impl Flat {
    pub(crate) fn of(key: &Key, kept: &Kept) -> Self {
        let is_pairwise = key.is_pairwise();
        let length = |shape: &Vec<usize>| if is_pairwise { shape.iter().product() } else { shape[0] };
        let mut offsets = vec![0i64];
        let mut total = 0;
        for shape in &kept.row_shapes {
            total += length(shape);
            offsets.push(total as i64);
        }
        let inner: &[usize] = match kept.row_shapes.first() {
            Some(shape) if !is_pairwise => &shape[1..],
            _ => &[],
        };
        Flat { is_pairwise, shape: [&[total], inner].concat(), offsets }
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
