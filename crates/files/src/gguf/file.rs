use std::collections::BTreeMap;
use std::path::Path;

use super::Gguf;
use crate::{MappedFile, Result, StoredTensor};

/// A mapped GGUF file: its header and its tensors.
#[derive(Debug)]
pub struct GgufFile {
    map: MappedFile,
    gguf: Gguf,
    /// Tensor name -> index in `gguf.tensors`.
    places: BTreeMap<String, usize>,
}

impl GgufFile {
    /// Opens a GGUF file.
    ///
    /// # Errors
    /// If it cannot be mapped, or as [`Gguf::parse`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::new(MappedFile::open(path)?)
    }

    pub(crate) fn new(map: MappedFile) -> Result<Self> {
        let read = Gguf::parse(map.bytes());
        // The header is void if the file changed while it was read.
        map.check_unchanged()?;
        let gguf = read.map_err(|e| e.within(map.path().display()))?;
        let places = gguf.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        Ok(GgufFile { map, gguf, places })
    }

    /// The header: metadata and tensor descriptions.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The mapped file.
    pub fn file(&self) -> &MappedFile {
        &self.map
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let info = self.gguf.tensors.get(*self.places.get(name)?)?;
        StoredTensor::in_file(&self.map, info.range.clone(), &info.name, &info.shape, info.encoding)
    }
}
