//! Maps a GGUF file's tensor names to those of the safetensors checkpoint, and describes differences in storage.

use std::collections::BTreeMap;

use super::Tensors;
use super::architecture::{Architecture, by_name};
use super::rules::{How, Rule, stored};
use crate::arch::Arch;
use crate::error::{Error, ErrorKind, Result, list};
use crate::names::Stored;

/// Tensors that are read with the config, not as weights.
const READ_WITH_CONFIG: &[&str] =
    &["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// A buffer of frequencies in the oldest files (`MODEL_TENSOR_SKIP` of the `gguf` package).
const BUFFER: &str = ".attn_rot_embd.weight";

/// Where the file keeps the checkpoint's tensors, and how many of its own belong to layers behind the decoder's, which
/// predict further tokens and are left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Places {
    /// A tensor of the checkpoint and where it is.
    pub tensors: Vec<(String, Stored)>,
    /// How many are left out.
    pub left_out: usize,
    /// What such files do not say though the model may have it.
    pub unsaid: Option<&'static str>,
}

/// A tensor of the checkpoint: how it is made, and of which tensors of the file, by their slots.
type Found<'a> = (How, Vec<(usize, &'a str, &'a [usize])>);

/// Finds every tensor of a file of this `general.architecture`.
///
/// # Errors
/// An architecture that is not read, tensors that it does not have (all named at once), halves of a tensor of which the
/// other is missing or of another shape.
pub fn tensor_names(architecture: &str, arch: &Arch, tensors: &Tensors) -> Result<Places> {
    let architecture = by_name(architecture)?;
    let (mut found, mut unknown, mut left_out) = (BTreeMap::<String, Found<'_>>::new(), Vec::new(), 0);
    let has_further_layers = tensors.keys().any(|name| name.contains(".nextn."));
    let is_read = |name: &str| READ_WITH_CONFIG.contains(&name) || name.ends_with(BUFFER);
    for (name, shape) in tensors.iter().filter(|(name, _)| !is_read(name)) {
        let Some(place) = Place::of(name) else {
            unknown.push(name);
            continue;
        };
        let further = arch.layers.len()..arch.layers.len() + NEXT_TOKENS;
        if has_further_layers && place.layer.is_some_and(|l| further.contains(&l)) {
            left_out += 1;
            continue;
        }
        let (all, end) = place.rules(rules(architecture, tensors, place.layer), arch);
        if all.is_empty() {
            unknown.push(name);
        }
        for (ours, how) in all.into_iter().flat_map(|rule| rule.names(architecture, place.layer, end, shape))
        {
            found.entry(ours).or_insert((how, Vec::new())).1.push((how.slot(), name, shape));
        }
    }
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.iter().map(|name| name.chars().take(80).collect()).collect();
        return Err(weights(format!(
            "GGUF tensors {} have no place in architecture {}",
            list(&names),
            architecture.name
        )));
    }
    let place = |(ours, (how, mut parts)): (String, Found<'_>)| {
        parts.sort_unstable_by_key(|(slot, ..)| *slot);
        let names: Vec<&str> = parts.iter().map(|(_, name, _)| *name).collect();
        match stored(how, arch, &parts) {
            Some(stored) => Ok((ours, stored)),
            None => Err(weights(format!(
                "GGUF tensors {} do not make up `{ours}`: one is missing, or a shape is not what {} has",
                list(&names),
                architecture.name
            ))),
        }
    };
    let tensors = found.into_iter().map(place).collect::<Result<_>>()?;
    Ok(Places { tensors, left_out, unsaid: architecture.unsaid })
}

/// Most layers of further tokens behind a decoder.
const NEXT_TOKENS: usize = 16;

/// The rules of an architecture, outside layers or in them.
fn rules(architecture: &Architecture, tensors: &Tensors, layer: Option<usize>) -> &'static [&'static [Rule]] {
    match architecture.variant {
        _ if layer.is_none() => architecture.outside,
        Some((tensor, layer)) if tensors.contains_key(tensor) => layer,
        _ => architecture.layer,
    }
}

fn weights(message: String) -> Error {
    Error::new(ErrorKind::Weights, message)
}

/// What a name in the file is of.
struct Place<'a> {
    /// The layer, if it is in one.
    layer: Option<usize>,
    /// The rest of the name.
    name: &'a str,
}

impl<'a> Place<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let Some(rest) = name.strip_prefix("blk.") else { return Some(Place { layer: None, name }) };
        let (layer, name) = rest.split_once('.')?;
        let number: usize = layer.parse().ok()?;
        // `blk.007.` is no layer's name.
        (number.to_string() == layer).then_some(Place { layer: Some(number), name })
    }

    /// The rules for it, and the end of its name where they are about a module.
    fn rules(&self, rules: &'static [&'static [Rule]], arch: &Arch) -> (Vec<&'static Rule>, &'a str) {
        if self.layer.is_some_and(|l| l >= arch.layers.len()) {
            return (Vec::new(), "");
        }
        let find = |wanted: &str| -> Vec<&'static Rule> {
            rules.iter().flat_map(|rules| rules.iter()).filter(|rule| rule.theirs == wanted).collect()
        };
        let whole = find(self.name);
        match self.name.rsplit_once('.') {
            Some((module, end)) if whole.is_empty() && matches!(end, "weight" | "bias") => {
                (find(module), end)
            }
            _ => (whole, ""),
        }
    }
}
