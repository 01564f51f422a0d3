//! Reads files written by `torch.save` without running anything in them, and writes files that `torch.load` reads.
//!
//! Such a file is a zip archive with a pickle, and a pickle is a program. This reader knows the instructions that build
//! data, and a short list of names. It refuses any other name, and never calls what a name stands for.

mod pickle;
mod tensors;
mod write;

use crate::{Error, Result, zip};
pub use tensors::TorchTensor;
pub use write::write;

/// A value in such a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// `None`
    None,
    /// `True`, `False`
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A text.
    Text(String),
    /// A tensor.
    Tensor(TorchTensor),
    /// A list or a tuple.
    List(Vec<Item>),
    /// A dictionary, in file order.
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
    /// The value under a key of a dictionary.
    pub fn get(&self, key: &str) -> Option<&Item> {
        let Item::Map(entries) = self else { return None };
        entries
            .iter()
            .find(|(name, _)| matches!(name, Item::Text(name) if name == key))
            .map(|(_, value)| value)
    }

    /// The same, by value.
    pub fn take(self, key: &str) -> Option<Item> {
        let Item::Map(entries) = self else { return None };
        entries
            .into_iter()
            .find(|(name, _)| matches!(name, Item::Text(name) if name == key))
            .map(|(_, value)| value)
    }
}

/// Reads a whole file. `classes` lists the classes whose instances are accepted, as `module.Class`: their attributes
/// are read, their code never runs.
///
/// # Errors
/// If the file is not a zip archive, names anything not on the list, has instructions that do not build data, has
/// tensors that reach beyond their storage, or has more nesting or data than a genuine file would.
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
