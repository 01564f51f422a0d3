//! What a model asks of a checkpoint, where there are no files yet.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, ErrorKind, Result};

/// No model has more tensors: the largest known (DeepSeek V3) has some 50,000 in its decoder.
const MOST_TENSORS: usize = 1 << 20;

/// Whether blocks of four-bit numbers are asked for where a file may hold either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocks {
    /// Plain numbers.
    No,
    /// Blocks and their scales.
    Mxfp4,
}

/// What a tensor holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// Floating point numbers, of whatever type the file has.
    Floats,
    /// Bytes: blocks of quantised numbers, and their scales.
    Bytes,
}

/// The tensors that were asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    blocks: Blocks,
    tensors: Mutex<BTreeMap<String, (Vec<usize>, Numbers)>>,
}

impl Asked {
    pub(crate) fn new(blocks: Blocks) -> Self {
        Asked { blocks, tensors: Mutex::default() }
    }

    /// Whether the files would have this.
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

    /// Name, shape and kind of all of them, by their names.
    pub(crate) fn tensors(&self) -> BTreeMap<String, (Vec<usize>, Numbers)> {
        self.tensors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
