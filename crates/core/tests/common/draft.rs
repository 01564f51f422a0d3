//! Copies of fixtures changed before they are written: models with one fault, or larger ones.

use std::collections::BTreeMap;

use easyroutine::load::{LoadOptions, Opened, load, open};
use easyroutine::{Error, Model};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde_json::{Map, Value};
use tempfile::TempDir;

use super::{fixtures, folder};

/// A model folder in memory.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) config: Map<String, Value>,
    pub(crate) tensors: BTreeMap<String, Stored>,
}

/// A tensor as a file holds it.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Stored {
    pub(crate) fn f32(shape: &[usize], values: impl IntoIterator<Item = f32>) -> Self {
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(bytes.len(), 4 * shape.iter().product::<usize>());
        Stored { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    /// The values of an f32 tensor.
    pub(crate) fn values(&self) -> Vec<f32> {
        assert_eq!(self.dtype, Dtype::F32);
        self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// Replaces one value of an f32 tensor.
    pub(crate) fn set(&mut self, index: usize, value: f32) {
        assert_eq!(self.dtype, Dtype::F32);
        self.bytes[4 * index..4 * index + 4].copy_from_slice(&value.to_le_bytes());
    }
}

impl Draft {
    /// A tiny model, unchanged.
    pub(crate) fn of(case: &str) -> Self {
        let folder = fixtures().join("tiny").join(case);
        let config = std::fs::read(folder.join("config.json")).unwrap();
        let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let stored = |view: TensorView<'_>| Stored {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        let tensors = file.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect();
        Draft { config: serde_json::from_slice(&config).unwrap(), tensors }
    }

    pub(crate) fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.config.insert(key.to_owned(), value.into());
        self
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Stored {
        self.tensors.get_mut(name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// The bytes of its safetensors file.
    pub(crate) fn weights(&self) -> Vec<u8> {
        serialized(&self.tensors)
    }

    /// Writes the folder.
    pub(crate) fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = serde_json::to_vec(&self.config).unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), self.weights()).unwrap();
        folder
    }

    /// Opens it; the mapped file lives on after the folder.
    pub(crate) fn open(&self) -> Result<Opened, Error> {
        let written = self.write();
        open(&folder(written.path()), &LoadOptions::default())
    }

    /// Loads it on two threads.
    pub(crate) fn load(&self) -> Result<Model, Error> {
        let written = self.write();
        load(&folder(written.path()), &LoadOptions { threads: Some(2), ..LoadOptions::default() })
    }
}

/// The bytes of a safetensors file with these tensors.
pub(crate) fn serialized(tensors: &BTreeMap<String, Stored>) -> Vec<u8> {
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, t)| (name.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()))
        .collect();
    serialize(views, None).unwrap()
}
