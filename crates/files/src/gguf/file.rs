use std::collections::BTreeMap;
use std::path::Path;

use super::{Gguf, parts};
use crate::{MappedFile, Result, StoredTensor};

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
}
