//! A safetensors file of activations, with identical bytes each time.

use std::borrow::Cow;
use std::io::{self, Write};

use easyroutine::cache::Numbers;
use easyroutine_app::tensors::bytes;
use easyroutine_files::{HeaderEntry, safetensors_head};
use serde_json::{Map, Value, json};

/// A tensor to write. Its numbers are not copied, since that would double memory.
#[derive(Debug)]
pub(crate) struct Stored<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) numbers: Data<'a>,
}

/// The numbers of a tensor to write.
#[derive(Debug)]
pub(crate) enum Data<'a> {
    /// In a cache's form.
    Kept(Cow<'a, Numbers>),
    /// Places: rows, positions, features.
    Places(Vec<i32>),
}

impl From<Numbers> for Data<'_> {
    fn from(numbers: Numbers) -> Self {
        Data::Kept(Cow::Owned(numbers))
    }
}

impl<'a> From<Cow<'a, Numbers>> for Data<'a> {
    fn from(numbers: Cow<'a, Numbers>) -> Self {
        Data::Kept(numbers)
    }
}

impl Data<'_> {
    fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Data::Kept(numbers) => bytes(numbers),
            Data::Places(places) => Cow::Owned(places.iter().flat_map(|x| x.to_le_bytes()).collect()),
        }
    }
}

impl Stored<'_> {
    /// The type's name in the header, and the bytes per number.
    fn kind(&self) -> (&'static str, usize) {
        match &self.numbers {
            Data::Places(_) => ("I32", size_of::<i32>()),
            Data::Kept(numbers) => match **numbers {
                Numbers::F32(_) => ("F32", size_of::<f32>()),
                Numbers::I64(_) => ("I64", size_of::<i64>()),
            },
        }
    }
}

/// Writes a whole file.
///
/// # Errors
/// The writer's errors.
pub(crate) fn write(
    out: &mut impl Write,
    metadata: &[(&str, String)],
    mut tensors: Vec<Stored<'_>>,
) -> io::Result<()> {
    // The widest numbers first, so that every tensor begins at a multiple of its own width.
    tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.kind().1));
    let metadata: Map<String, Value> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let entries = tensors.iter().map(|tensor| {
        let (kind, width) = tensor.kind();
        let bytes = tensor.shape.iter().product::<usize>() * width;
        HeaderEntry { name: &tensor.name, dtype: kind.to_owned(), shape: &tensor.shape, bytes }
    });
    out.write_all(&safetensors_head(metadata, entries, 8))?;
    tensors.iter().try_for_each(|tensor| out.write_all(&tensor.numbers.bytes()))?;
    out.flush()
}
