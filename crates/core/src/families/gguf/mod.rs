//! GGUF files: their metadata as a config of transformers, their tensor names as those of the safetensors checkpoint.
//! For the keys' meanings see the `gguf` package (`constants.py`), llama.cpp's `convert_hf_to_gguf.py`, transformers'
//! `integrations/ggml.py` and `modeling_gguf_pytorch_utils.py`.

mod architecture;
mod architectures;
mod configs;
mod experts;
mod fused;
mod gemma4;
mod layers;
mod made;
mod metadata;
mod recurrences;
mod rules;
mod scaling;
mod tensors;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use architecture::{Architecture, by_name};
use metadata::Metadata;

pub use fused::{Division, divisions};
pub use made::Made;
pub use tensors::{Places, tensor_names};

/// Shapes of a file's tensors, by their names there.
pub type Tensors = BTreeMap<String, Vec<usize>>;

/// The parts of a GGUF file that a config needs.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    /// The metadata: scalars, and arrays of numbers or flags. Keys under `tokenizer.` may be omitted, except the
    /// special ids.
    pub metadata: &'a Map<String, Value>,
    /// The tensors.
    pub tensors: &'a Tensors,
    /// Values of `rope_freqs.weight`, where that tensor is in the file.
    pub rope_divisors: Option<&'a [f32]>,
    /// Values of `rope_factors_short.weight` and `rope_factors_long.weight`, where both are in the file.
    pub rope_factors: Option<[&'a [f32]; 2]>,
}

impl Header<'_> {
    /// The shape of a module's weight, of the first layer that has it.
    fn shape(&self, module: &str) -> Option<&[usize]> {
        let end = format!(".{module}.weight");
        let is_it = |name: &&String| name.starts_with("blk.") && name.ends_with(&end);
        self.tensors.keys().find(is_it).map(|name| self.tensors[name].as_slice())
    }

    /// What a module reads.
    fn columns(&self, module: &str) -> Option<usize> {
        self.shape(module)?.last().copied()
    }

    /// What a module gives.
    fn rows(&self, module: &str) -> Option<usize> {
        self.shape(module)?.iter().rev().nth(1).copied()
    }

    /// What a module of this layer gives.
    fn rows_in(&self, layer: usize, module: &str) -> Option<usize> {
        self.tensors.get(&format!("blk.{layer}.{module}.weight"))?.iter().rev().nth(1).copied()
    }

    /// Whether a layer has this tensor.
    fn has_in(&self, layer: usize, tensor: &str) -> bool {
        self.tensors.contains_key(&format!("blk.{layer}.{tensor}"))
    }

    /// Whether some layer has this tensor.
    fn has(&self, tensor: &str) -> bool {
        let end = format!(".{tensor}");
        self.tensors.keys().any(|name| name.starts_with("blk.") && name.ends_with(&end))
    }
}

/// The config.json that the metadata of a GGUF file amounts to, for [`super::read`] and for export, and the unknown
/// keys that were let through.
///
/// # Errors
/// If the architecture is not supported, a value is missing or senseless, or the architecture has an unknown key that
/// is not in `allowed`.
pub fn config(header: &Header<'_>, allowed: &[String]) -> Result<(Map<String, Value>, Vec<String>)> {
    let architecture = architecture(header.metadata)?;
    let metadata = Metadata::new(architecture.name, header.metadata)?;
    let embedding = header.tensors.get("token_embd.weight").and_then(|shape| shape.first());
    let vocabulary = *embedding
        .ok_or_else(|| Error::new(ErrorKind::Weights, "the file has no tensor `token_embd.weight`"))?;
    let mut out = Map::new();
    out.insert("architectures".into(), vec![architecture.class].into());
    out.insert("model_type".into(), architecture.model_type.into());
    out.insert("vocab_size".into(), vocabulary.into());
    let is_tied = !header.tensors.contains_key("output.weight");
    out.insert("tie_word_embeddings".into(), is_tied.into());
    metadata.common(architecture.epsilon, &mut out)?;
    (architecture.config)(header, &metadata, &mut out)?;
    for (tensor, is_there) in [
        ("rope_freqs.weight", header.rope_divisors.is_some()),
        ("rope_factors_long.weight", header.rope_factors.is_some()),
    ] {
        if is_there && !out.contains_key("rope_scaling") && !gemma4::has_divisors(&out) {
            let name = architecture.name;
            return Err(unsupported(&format!("tensor `{tensor}` is not supported in {name} files")));
        }
    }
    let let_through = metadata.finish(allowed)?;
    Ok((out, let_through))
}

/// Tensors of the checkpoint that a file with this many layers holds as metadata.
///
/// # Errors
/// The architecture is not read; a key is missing, or has no number for each layer.
pub fn made(header: &Header<'_>, layers: usize) -> Result<Vec<Made>> {
    made::made(architecture(header.metadata)?, header, layers)
}

fn architecture(metadata: &Map<String, Value>) -> Result<&'static Architecture> {
    let key = "general.architecture";
    let name = metadata
        .get(key)
        .and_then(Value::as_str)
        .ok_or_else(|| Error::new(ErrorKind::Config, format!("GGUF metadata: `{key}` is missing")))?;
    by_name(name)
}

fn unsupported(message: &str) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}
