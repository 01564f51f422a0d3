//! Tensors of a checkpoint that a file holds as metadata.

use serde_json::Value;

use super::Header;
use super::architecture::Architecture;
use crate::config::Config;
use crate::error::Result;

/// A tensor of the checkpoint: its name, its shape and its numbers.
pub type Made = (String, Vec<usize>, Vec<f32>);

/// A metadata key with a number for each layer, or one for all, and what the number is in a layer of the checkpoint.
#[derive(Debug)]
pub(super) struct OfMetadata {
    pub(super) key: &'static str,
    pub(super) ours: &'static str,
    pub(super) shape: &'static [usize],
}

/// The parameters of xIELU.
pub(super) const XIELU: &[OfMetadata] = &[
    OfMetadata { key: "xielu.alpha_n", ours: "mlp.act_fn.alpha_n", shape: &[1] },
    OfMetadata { key: "xielu.alpha_p", ours: "mlp.act_fn.alpha_p", shape: &[1] },
    OfMetadata { key: "xielu.beta", ours: "mlp.act_fn.beta", shape: &[] },
    OfMetadata { key: "xielu.eps", ours: "mlp.act_fn.eps", shape: &[] },
];

/// All such tensors of a file with this many layers.
///
/// # Errors
/// A key is missing or has no number for each layer.
pub(super) fn made(architecture: &Architecture, header: &Header<'_>, layers: usize) -> Result<Vec<Made>> {
    let metadata = Config::from_map("GGUF metadata", header.metadata.clone());
    let mut made = Vec::new();
    for OfMetadata { key, ours, shape } in architecture.of_metadata {
        let numbers: Option<Vec<f64>> = match metadata.value(key) {
            Some(Value::Array(list)) if list.len() >= layers => list.iter().map(Value::as_f64).collect(),
            Some(value) => value.as_f64().map(|number| vec![number; layers]),
            None => return Err(metadata.missing(key)),
        };
        let numbers =
            numbers.ok_or_else(|| metadata.wrong(key, &format!("a number for each of {layers} layers")))?;
        let prefix = |layer: usize| architecture.prefix.replace("{}", &layer.to_string());
        let of_layer = |(layer, number): (usize, &f64)| {
            (format!("{}{ours}", prefix(layer)), shape.to_vec(), vec![*number as f32])
        };
        made.extend(numbers.iter().take(layers).enumerate().map(of_layer));
    }
    Ok(made)
}
