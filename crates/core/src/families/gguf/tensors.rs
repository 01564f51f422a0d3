//! Maps a GGUF file's tensor names to those of the safetensors checkpoint, and describes differences in storage.

use super::{Architecture, Storage, by_name};
use crate::arch::Arch;
use crate::error::{Error, ErrorKind, Result};
use crate::names::StorageQuirk;

/// Modules outside the layers.
const OUTSIDE: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Modules of a layer in all architectures.
const LAYER: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Divisors of the frequencies, read with the config, not as a weight.
const READ_WITH_CONFIG: &str = "rope_freqs.weight";

/// A buffer of frequencies in the oldest files (`MODEL_TENSOR_SKIP` of the `gguf` package).
const BUFFER: &str = ".attn_rot_embd.weight";

/// For every tensor of a file with this `general.architecture`: its name in the checkpoint, its name in the file, and
/// how it is stored.
///
/// # Errors
/// If the architecture is not supported, or does not have a tensor.
pub fn tensor_names<'a>(
    architecture: &str,
    arch: &Arch,
    stored: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<(String, String, StorageQuirk)>> {
    let architecture = by_name(architecture)?;
    stored
        .into_iter()
        .filter(|name| *name != READ_WITH_CONFIG && !name.ends_with(BUFFER))
        .map(|name| {
            let (ours, quirk) = translate(architecture, arch, name).ok_or_else(|| {
                let shown: String = name.chars().take(80).collect();
                Error::new(
                    ErrorKind::Weights,
                    format!(
                        "GGUF tensor `{}` has no place in architecture {}",
                        shown.escape_debug(),
                        architecture.name
                    ),
                )
            })?;
            Ok((ours, name.to_owned(), quirk))
        })
        .collect()
}

fn translate(architecture: &Architecture, arch: &Arch, name: &str) -> Option<(String, StorageQuirk)> {
    let (module, end) = name.rsplit_once('.').filter(|(_, end)| matches!(*end, "weight" | "bias"))?;
    let (layer, module) = match module.strip_prefix("blk.") {
        None => (None, module),
        Some(rest) => {
            let (layer, module) = rest.split_once('.')?;
            let number: usize = layer.parse().ok()?;
            // `blk.007.` is not a layer's name.
            if number >= arch.layers.len() || number.to_string() != layer {
                return None;
            }
            (Some(number), module)
        }
    };
    let ours = match layer {
        None => OUTSIDE.iter().find(|(theirs, _)| *theirs == module)?.1.to_owned(),
        Some(l) => {
            let (_, ours) = LAYER.iter().chain(architecture.modules).find(|(theirs, _)| *theirs == module)?;
            format!("model.layers.{l}.{ours}")
        }
    };
    Some((format!("{ours}.{end}"), quirk(architecture.storage, arch, module, end)?))
}

/// How a tensor is stored; `None` if that cannot be undone.
fn quirk(storage: Storage, arch: &Arch, module: &str, end: &str) -> Option<StorageQuirk> {
    let heads = match module {
        "attn_q" => Some(arch.n_heads),
        "attn_k" => Some(arch.n_kv_heads),
        _ => None,
    };
    match (storage, heads) {
        // The class has biases on all four projections or on none; llama.cpp's files have no place for the fourth.
        (Storage::InterleavedQueriesAndKeys, _) if end == "bias" => None,
        (Storage::InterleavedQueriesAndKeys, Some(heads)) => Some(StorageQuirk::InterleavedRows { heads }),
        (Storage::NormsPlusOne, _) if module.ends_with("norm") => Some(StorageQuirk::PlusOne),
        _ => Some(StorageQuirk::None),
    }
}
