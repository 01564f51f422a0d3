use std::collections::BTreeMap;
use std::path::Path;

use super::{Gguf, TensorInfo, parts};
use crate::{Error, MappedFile, Result, StoredTensor};

/// A mapped GGUF file, or all parts of a model that is split over several: what it says, and its tensors.
#[derive(Debug)]
pub struct GgufFile {
    /// Each file and what it says; the first holds the metadata.
    parts: Vec<(MappedFile, Gguf)>,
    /// Name of a tensor -> its file and its place among the tensors of that.
    places: BTreeMap<String, (usize, usize)>,
}

impl GgufFile {
    /// Opens a GGUF file; of one that is part of a split model (`NAME-00002-of-00003.gguf`) all parts.
    ///
    /// # Errors
    /// If it cannot be mapped, or as [`Gguf::parse`]. Of a split model also if its parts are not beside it under their names,
    /// or do not belong together.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::new(MappedFile::open(path)?)
    }

    pub(crate) fn new(map: MappedFile) -> Result<Self> {
        let parts = parts::gather(map)?;
        let mut places = BTreeMap::new();
        for (number, (_, gguf)) in parts.iter().enumerate() {
            let of_part = gguf.tensors.iter().enumerate();
            places.extend(of_part.map(|(i, tensor)| (tensor.name.clone(), (number, i))));
        }
        Ok(GgufFile { parts, places })
    }

    /// What the file says, of a split model its first part: metadata and the tensors' descriptions.
    pub fn gguf(&self) -> &Gguf {
        &self.parts[0].1
    }

    /// The mapped files: one, or the parts in their order.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &MappedFile> {
        self.parts.iter().map(|(map, _)| map)
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let &(part, place) = self.places.get(name)?;
        let (map, gguf) = self.parts.get(part)?;
        let info = gguf.tensors.get(place)?;
        StoredTensor::in_file(map, info.range.clone(), &info.name, &info.shape, info.encoding)
    }

    /// Gives the rows of a tensor, of a vector its numbers, to tensors of their own: so many to each of these names, in order.
    /// The tensor itself is no longer there.
    ///
    /// # Errors
    /// If there is no such tensor, it has other rows than that, a number of it is in a block with others, or a name is taken.
    pub fn divide(&mut self, name: &str, among: &[(String, usize)]) -> Result<()> {
        let wrong = |what: &str| Error::request(format!("tensor `{name}` cannot be divided: {what}"));
        let &(part, place) = self.places.get(name).ok_or_else(|| wrong("there is none"))?;
        let all = &mut self.parts[part].1.tensors;
        let whole = all[place].clone();
        let (rows, row_shape) = whole.shape.split_first().ok_or_else(|| wrong("it has no rows"))?;
        if row_shape.is_empty() && whole.encoding.block_len() != 1 {
            return Err(wrong("its numbers are in blocks"));
        }
        if among.iter().try_fold(0_usize, |sum, (_, rows)| sum.checked_add(*rows)) != Some(*rows) {
            return Err(wrong(&format!("it has {rows} rows")));
        }
        if let Some((taken, _)) = among.iter().find(|(name, _)| self.places.contains_key(name)) {
            return Err(wrong(&format!("there is a `{taken}` already")));
        }
        let row_bytes = whole.range.len().checked_div(*rows).unwrap_or(0);
        let mut start = whole.range.start;
        self.places.remove(name);
        for (name, rows) in among {
            let range = start..start + rows * row_bytes;
            start = range.end;
            let shape = [&[*rows], row_shape].concat();
            self.places.insert(name.clone(), (part, all.len()));
            all.push(TensorInfo { name: name.clone(), shape, encoding: whole.encoding, range });
        }
        Ok(())
    }
}
