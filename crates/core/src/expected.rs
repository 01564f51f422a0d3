//! The tensors that a config.json requires, without any weights.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::{Config, read_small};
use crate::error::Result;
use crate::families::{self, Reading};
use crate::load::LoadOptions;
use crate::model::Model;
pub use crate::weights::Numbers;
use crate::weights::{Asked, Blocks, Checkpoint};

/// A model known by its config alone.
#[derive(Debug)]
pub struct Expected {
    /// The contents of the config.
    pub reading: Reading,
    /// The tensors of the decoder, by their names in the checkpoint.
    pub tensors: Vec<ExpectedTensor>,
    /// The storage dtype according to the config, as transformers writes it.
    pub dtype: Option<String>,
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// Its name in the checkpoint.
    pub name: String,
    /// Sizes of its axes.
    pub shape: Vec<usize>,
    /// What it holds.
    pub numbers: Numbers,
}

impl ExpectedTensor {
    /// Number of its numbers or bytes.
    pub fn elements(&self) -> u128 {
        self.shape.iter().map(|size| *size as u128).product()
    }
}

impl Expected {
    /// Numbers in all tensors: a block of MXFP4 counts as the 32 numbers that it holds.
    pub fn parameters(&self) -> u128 {
        let of = |tensor: &ExpectedTensor| match tensor.numbers {
            Numbers::Floats => tensor.elements(),
            Numbers::Bytes if tensor.name.ends_with("_blocks") => 2 * tensor.elements(),
            Numbers::Bytes => 0,
        };
        self.tensors.iter().map(of).sum()
    }

    /// Bytes of all tensors, if the config states the storage dtype.
    pub fn bytes(&self) -> Option<u128> {
        let width = match self.dtype.as_deref()? {
            "float32" => 4,
            "float16" | "bfloat16" => 2,
            _ => return None,
        };
        let of = |tensor: &ExpectedTensor| match tensor.numbers {
            Numbers::Floats => width * tensor.elements(),
            Numbers::Bytes => tensor.elements(),
        };
        Some(self.tensors.iter().map(of).sum())
    }
}

/// The tensors that the `config.json` in a folder requires. The folder need not contain anything else.
///
/// # Errors
/// If the config cannot be read, no family reads it, or it has unknown keys.
pub fn expected(folder: &Path, options: &LoadOptions) -> Result<Expected> {
    let config =
        Config::parse(&read_small(&folder.join("config.json"))?).map_err(|e| e.at(folder.display()))?;
    let reading = families::read_with(&config, None, &options.allowed_keys)?;
    let method = config.as_map().get("quantization_config").and_then(|of| of.get("quant_method"));
    let blocks = if method.and_then(Value::as_str) == Some("mxfp4") { Blocks::Mxfp4 } else { Blocks::No };
    let checkpoint = Arc::new(Checkpoint::asking(Asked::new(blocks)));
    let cpu = options.cpu()?;
    Model::build(reading.arch.clone(), &reading.names, Arc::clone(&checkpoint), cpu, options.dtype, None)?;
    let tensors = checkpoint.asked().map(Asked::tensors).unwrap_or_default();
    let tensors = tensors.into_iter().map(|(name, (shape, numbers))| ExpectedTensor { name, shape, numbers });
    Ok(Expected { reading, tensors: tensors.collect(), dtype: dtype(config.as_map()) })
}

/// The dtype that a config states, its own or its text decoder's.
fn dtype(config: &Map<String, Value>) -> Option<String> {
    let own = |config: &Map<String, Value>| {
        ["dtype", "torch_dtype"].iter().find_map(|key| config.get(*key)?.as_str().map(str::to_owned))
    };
    own(config).or_else(|| own(config.get("text_config")?.as_object()?))
}
