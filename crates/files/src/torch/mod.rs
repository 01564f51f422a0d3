//! Files that `torch.save` wrote, read without running anything in them; and files that `torch.load` reads.
//!
//! Such a file is a zip archive with a pickle, and a pickle is a program. Ours knows the instructions that build data,
//! and a short list of names; a name that is not on it is refused, and nothing that a name stands for is ever called.

mod pickle;
mod tensors;
mod write;

use crate::{Error, Result, zip};
pub use tensors::TorchTensor;
pub use write::write;

/// What such a file holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// `None`
    None,
    /// `True`, `False`
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// A tensor.
    Tensor(TorchTensor),
    /// A list or a tuple.
    List(Vec<Item>),
    /// A dictionary, in its order.
    Map(Vec<(Item, Item)>),
    /// An instance of a class that the caller knows.
    Object {
        /// `module.Class`
        class: String,
        /// Its attributes.
        state: Box<Item>,
    },
}

impl Item {
    /// The value at a key of a dictionary.
    pub fn get(&self, key: &str) -> Option<&Item> {
        let Item::Map(entries) = self else { return None };
        entries
            .iter()
            .find(|(name, _)| matches!(name, Item::Text(name) if name == key))
            .map(|(_, value)| value)
    }

    /// The same, taken out.
    pub fn take(self, key: &str) -> Option<Item> {
        let Item::Map(entries) = self else { return None };
        entries
            .into_iter()
            .find(|(name, _)| matches!(name, Item::Text(name) if name == key))
            .map(|(_, value)| value)
    }
}

/// Reads a whole file. `classes` are the classes whose instances are read, as `module.Class`; their attributes come
/// back, their code stays out.
///
/// # Errors
/// No zip archive, a name that is not on the list, instructions that build no data, tensors that reach beyond their
/// storage, more nesting or more data than such a file can mean.
pub fn read(file: &[u8], classes: &[&str]) -> Result<Item> {
    let archive = zip::Archive::new(file, "torch.save of 1.6 and later")?;
    let (folder, program) = archive.only("data.pkl").ok_or_else(|| {
        Error::malformed("has no `data.pkl`: it was not written by torch.save, or by one older than 1.6")
    })?;
    if let Some(order) = archive.member(&format!("{folder}byteorder"))
        && order.trim_ascii() != b"little"
    {
        return Err(Error::unsupported("was written by a big-endian machine"));
    }
    let built = pickle::run(program, classes)?;
    tensors::items(&built, &|key| archive.member(&format!("{folder}data/{key}")), file.len())
}
