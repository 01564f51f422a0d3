//! The tensors that a model requests of a checkpoint, when there are no files yet.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, ErrorKind, Result};

/// No model has more tensors: the largest known (DeepSeek V3) has about 50,000 in its decoder.
const MOST_TENSORS: usize = 1 << 20;

/// Whether blocks of four-bit numbers are requested, if a file may hold either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocks {
    /// Plain numbers.
    No,
    /// Blocks and their scales.
    Mxfp4,
}

/// The contents of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// Floating point numbers, of any type.
    Floats,
    /// Bytes: blocks of quantised numbers, and their scales.
    Bytes,
}

/// The requested tensors.
#[derive(Debug)]
pub(crate) struct Asked {
    blocks: Blocks,
    tensors: Mutex<BTreeMap<String, (Vec<usize>, Numbers)>>,
}

impl Asked {
    pub(crate) fn new(blocks: Blocks) -> Self {
        Asked { blocks, tensors: Mutex::default() }
    }

    /// Whether the files would have this tensor.
    pub(super) fn has(&self, name: &str) -> bool {
        self.blocks == Blocks::Mxfp4 && name.ends_with("_blocks")
    }

    pub(super) fn tensor(&self, name: String, shape: &[usize]) -> Result<()> {
        self.note(name, shape, Numbers::Floats)
    }

    pub(super) fn bytes(&self, name: String, shape: &[usize]) -> Result<()> {
        self.note(name, shape, Numbers::Bytes)
    }

    fn note(&self, name: String, shape: &[usize], numbers: Numbers) -> Result<()> {
        let mut tensors = self.tensors.lock().unwrap_or_else(PoisonError::into_inner);
        tensors.insert(name, (shape.to_vec(), numbers));
        if tensors.len() > MOST_TENSORS {
            let message = format!("config.json asks for more than {MOST_TENSORS} tensors");
            return Err(Error::new(ErrorKind::Format, message)
                .hint("look at `num_hidden_layers` and the number of experts"));
        }
        Ok(())
    }

    /// All of them, by name, with shape and kind.
    pub(crate) fn tensors(&self) -> BTreeMap<String, (Vec<usize>, Numbers)> {
        self.tensors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
