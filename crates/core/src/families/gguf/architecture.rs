//! What an architecture of GGUF files is made of.

use serde_json::{Map, Value};

use super::Header;
use super::architectures::ARCHITECTURES;
use super::made::OfMetadata;
use super::metadata::Metadata;
use super::rules::Rule;
use crate::error::{Error, ErrorKind, Result};

/// A GGUF architecture that is read.
#[derive(Debug)]
pub(super) struct Architecture {
    /// `general.architecture`.
    pub(super) name: &'static str,
    /// `model_type` of the config it becomes.
    pub(super) model_type: &'static str,
    /// `architectures` of that config.
    pub(super) class: &'static str,
    /// The key of a norm's epsilon in the file and in that config.
    pub(super) epsilon: Epsilon,
    /// Keys beyond the common ones.
    pub(super) config: Keys,
    /// Names outside the layers.
    pub(super) outside: &'static [&'static [Rule]],
    /// What stands before the names of a layer; `{}` is its number.
    pub(super) prefix: &'static str,
    /// Names in a layer.
    pub(super) layer: &'static [&'static [Rule]],
    /// Where the file has this tensor, these instead.
    pub(super) variant: Option<(&'static str, &'static [&'static [Rule]])>,
    /// Tensors that the files have as metadata.
    pub(super) of_metadata: &'static [OfMetadata],
    /// What the files do not say though the model may have it, as a warning.
    pub(super) unsaid: Option<&'static str>,
}

/// What writes the keys beyond the common ones.
pub(super) type Keys = fn(&Header<'_>, &Metadata, &mut Map<String, Value>) -> Result<()>;

/// The key of a norm's epsilon.
#[derive(Debug, Clone, Copy)]
pub(super) enum Epsilon {
    /// `attention.layer_norm_rms_epsilon`, and its name in the config.
    Rms(&'static str),
    /// `attention.layer_norm_epsilon`, and its name in the config.
    Layer(&'static str),
}

/// The architecture of this name.
///
/// # Errors
/// It is not read.
pub(super) fn by_name(name: &str) -> Result<&'static Architecture> {
    ARCHITECTURES.iter().find(|a| a.name == name).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|a| a.name).collect();
        let shown: String = name.chars().take(60).collect();
        let message = format!("GGUF metadata: `general.architecture` \"{shown}\" is not supported");
        Error::new(ErrorKind::Unsupported, message)
            .hint(format!("supported: {}; or the model's safetensors", known.join(", ")))
    })
}
