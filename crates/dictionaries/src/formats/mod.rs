//! The formats of dictionaries, recognised by their files.

mod circuit_tracer;
mod dictionary_learning;
mod draft;
mod gemma_scope;
mod gemma_scope_2;
mod llama_scope;
mod needed;
mod qwen_scope;
mod saelens;
mod sparsify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyroutine::{Error, ErrorKind, Result};
use easyroutine_sites::{Point, Scope, Site};

use crate::activation::Activation;
use crate::certificate::{Certificate, LayerCertificate};
use crate::dictionary::{Dictionary, Options};
use crate::place::Place;
use crate::problems::shown;
use draft::{Context, Draft, Reading};
pub(crate) use needed::{addresses, is_own_place, needed};

/// One format: its name, how a folder of it is recognised, and its reader.
struct Format {
    name: &'static str,
    /// The files that identify it, the reader's first; where none are listed, [`qwen_scope::sign`] decides.
    signs: &'static [&'static str],
    read: fn(&mut Context<'_>) -> Result<Option<Reading>>,
}

const FORMATS: &[Format] = &[
    Format { name: "saelens", signs: &["cfg.json", "sae_weights.safetensors"], read: saelens::read },
    Format { name: "sparsify", signs: &["cfg.json", "sae.safetensors"], read: sparsify::read },
    Format { name: "gemma_scope", signs: &["params.npz"], read: gemma_scope::read },
    Format {
        name: "gemma_scope_2",
        signs: &["config.json", "params.safetensors"],
        read: gemma_scope_2::read,
    },
    Format {
        name: "gemma_scope_2_clt",
        signs: &["config.json", "params_layer_0.safetensors"],
        read: gemma_scope_2::read_cross_layer,
    },
    Format { name: "dictionary_learning", signs: &["config.json", "ae.pt"], read: dictionary_learning::read },
    Format {
        name: "llama_scope",
        signs: &["hyperparams.json", "checkpoints/final.safetensors"],
        read: llama_scope::read,
    },
    Format { name: "circuit_tracer", signs: &["config.yaml"], read: circuit_tracer::read },
    Format { name: QWEN_SCOPE, signs: &[], read: qwen_scope::read },
];

const QWEN_SCOPE: &str = "qwen_scope";

impl Format {
    /// Whether a folder holds one, and the file in it that says so.
    fn sign(&self, folder: &Path) -> Option<PathBuf> {
        match self.signs {
            [] => qwen_scope::sign(folder),
            [first, ..] => {
                let has_all = self.signs.iter().all(|name| folder.join(name).is_file());
                has_all.then(|| folder.join(first))
            }
        }
    }
}

/// Where files lie that a configuration names by an address on the hub.
pub(crate) type Elsewhere = BTreeMap<String, PathBuf>;

const KNOWN: &str = "what is read: cfg.json with sae_weights.safetensors (SAELens) or sae.safetensors (sparsify), params.npz \
(Gemma Scope), config.json with params.safetensors or params_layer_0.safetensors (Gemma Scope 2) or with ae.pt \
(dictionary_learning), layerN.sae.pt (Qwen-Scope), hyperparams.json with checkpoints/final.safetensors (Llama Scope), \
config.yaml (circuit-tracer)";

/// Depth of the search in a folder, and the number of entries examined.
const DEPTH: usize = 4;
const ENTRIES: usize = 20_000;

/// Opens the dictionary at a path.
pub(crate) fn open(path: &Path, options: &Options, elsewhere: &Elsewhere) -> Result<Dictionary> {
    let (format, folder, file) = find(path)?;
    let mut context = Context::new(&folder, file, options, elsewhere);
    let reading = (format.read)(&mut context)?;
    let Some(reading) = reading.filter(|_| context.problems.is_empty()) else {
        context.problems.finish(&folder)?;
        return Err(Error::new(ErrorKind::Format, format!("{}: cannot be read", folder.display())));
    };
    finish(format.name, reading, context)
}

/// Combines a reader's result with the caller's options.
fn finish(format: &'static str, reading: Reading, context: Context<'_>) -> Result<Dictionary> {
    let Reading { architecture, model, mut drafts, is_set, is_cross_layer } = reading;
    let problems = &context.problems;
    if let Some(place) = &context.options.place
        && !(is_set && place_of_set(place, &mut drafts))
    {
        match (places(place), drafts.as_mut_slice()) {
            (Err(error), _) => problems.add(format!("--place {}: {error}", shown(place))),
            (Ok((reads, writes)), [draft]) if !is_set => {
                draft.reads = Some(reads);
                draft.writes = Some(writes);
            }
            _ => problems.add(
                "--place names one layer's place, and this is a set of layers; name sites, as in --place mlp_in,mlp_out",
            ),
        }
    }
    if context.options.norm_factor.is_some() && !context.used_norm_factor {
        problems.add("--norm-factor: this dictionary reads vectors without such a factor, or has its own");
    }
    if drafts.iter().any(|draft| draft.reads.is_none() || draft.writes.is_none()) {
        problems.add("its files do not say where it reads: name the activation with --place, as in --place resid_out_5");
    }
    for draft in &drafts {
        if let Activation::TopK { k } = draft.activation
            && k > draft.encoder.features()
        {
            problems.add(format!("k is {k}, but there are {} features", draft.encoder.features()));
        }
    }
    let layers: Vec<_> = drafts.iter().map(|draft| draft.writes.as_ref().and_then(Place::layer)).collect();
    if is_set && !layers.is_sorted_by(|one, next| one.is_none() || one < next) {
        problems.add("its layers do not write to one layer of a model after another, each to its own");
    }
    problems.finish(&context.folder)?;
    let layers = drafts.into_iter().filter_map(Draft::finish).collect::<Vec<_>>();
    let certificate = Certificate {
        format,
        architecture,
        model,
        is_set,
        layers: layers.iter().map(LayerCertificate::of).collect(),
        figures: context.figures,
        files: context.names,
        warnings: context.warnings,
    };
    context.files.iter().try_for_each(|file| file.check_unchanged())?;
    Ok(Dictionary::new(certificate, layers, is_cross_layer, context.files))
}

/// One activation, or the one read and the one written.
fn places(text: &str) -> Result<(Place, Place)> {
    match text.split_once(',') {
        None => Place::ours(text).map(|place| (place.clone(), place)),
        Some((reads, writes)) => Ok((Place::ours(reads)?, Place::ours(writes)?)),
    }
}

/// Puts each layer of a set at sites without a layer, `mlp_in,mlp_out`. Nothing happens where these are none, or where a
/// layer has no number.
fn place_of_set(text: &str, drafts: &mut [Draft]) -> bool {
    let (reads, writes) = text.split_once(',').unwrap_or((text, text));
    let site = |name: &str| Site::from_name(name.trim()).filter(|site| site.scope() == Scope::Layer);
    let (Some(reads), Some(writes)) = (site(reads), site(writes)) else { return false };
    let number = |draft: &Draft| {
        let known = [&draft.writes, &draft.reads];
        known.into_iter().find_map(|place| place.as_ref().and_then(Place::layer))
    };
    let Some(numbers) = drafts.iter().map(number).collect::<Option<Vec<usize>>>() else { return false };
    for (draft, layer) in drafts.iter_mut().zip(numbers) {
        draft.reads = Some(Place::of(Point::layer_of(reads, layer)));
        draft.writes = Some(Place::of(Point::layer_of(writes, layer)));
    }
    true
}

/// The format of a path, its folder, and the file that was named or identifies it.
fn find(path: &Path) -> Result<(&'static Format, PathBuf, PathBuf)> {
    let found = std::fs::metadata(path).map_err(|e| {
        let kind = if e.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
        Error::new(kind, format!("{}: {e}", path.display())).because(e)
    })?;
    if found.is_file() {
        return of_file(path);
    }
    let mut folders = Vec::new();
    let mut left = ENTRIES;
    search(path, DEPTH, &mut left, &mut folders);
    match folders.as_slice() {
        [] => {
            Err(Error::new(ErrorKind::Format, format!("{} holds no dictionary", path.display())).hint(KNOWN))
        }
        [one] => of_folder(one),
        several => {
            let shown: Vec<String> = several.iter().take(12).map(|at| at.display().to_string()).collect();
            let more = several.len().saturating_sub(12);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            Err(Error::input(format!("{} holds {} dictionaries", path.display(), several.len()))
                .hint(format!("name one: {}{more}", shown.join(", "))))
        }
    }
}

/// The format of a folder.
fn of_folder(folder: &Path) -> Result<(&'static Format, PathBuf, PathBuf)> {
    let found: Vec<(&Format, PathBuf)> =
        FORMATS.iter().filter_map(|format| Some((format, format.sign(folder)?))).collect();
    match found.as_slice() {
        [(format, sign)] => Ok((*format, folder.to_owned(), sign.clone())),
        [] => {
            Err(Error::new(ErrorKind::Format, format!("{} holds no dictionary", folder.display()))
                .hint(KNOWN))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|(format, _)| format.name).collect();
            Err(Error::new(
                ErrorKind::Format,
                format!("{} holds files of several formats: {}", folder.display(), names.join(", ")),
            )
            .hint("name the file of the weights"))
        }
    }
}

/// The format of a file, determined by its folder.
fn of_file(file: &Path) -> Result<(&'static Format, PathBuf, PathBuf)> {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if name.ends_with(qwen_scope::ENDING) {
        let format = FORMATS.iter().find(|format| format.name == QWEN_SCOPE);
        return format
            .map(|format| (format, parent.to_owned(), file.to_owned()))
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, "no such format"));
    }
    match of_file_name(&name) {
        Some(format) => {
            let folder =
                if format.name == "llama_scope" { parent.parent().unwrap_or(parent) } else { parent };
            match format.sign(folder) {
                Some(sign) => Ok((format, folder.to_owned(), sign)),
                None => Err(Error::new(
                    ErrorKind::Format,
                    format!("{}: the files that belong to it are not beside it", file.display()),
                )
                .hint(KNOWN)),
            }
        }
        None if matches!(name.as_str(), "cfg.json" | "config.json" | "hyperparams.json") => of_folder(parent),
        None => {
            Err(Error::new(ErrorKind::Format, format!("{} is not a file of a dictionary", file.display()))
                .hint(KNOWN))
        }
    }
}

/// The format of a file of weights, by its name.
fn of_file_name(name: &str) -> Option<&'static Format> {
    let format = match name {
        "sae_weights.safetensors" => "saelens",
        "sae.safetensors" => "sparsify",
        "params.npz" => "gemma_scope",
        "params.safetensors" => "gemma_scope_2",
        "ae.pt" => "dictionary_learning",
        "final.safetensors" => "llama_scope",
        "config.yaml" => "circuit_tracer",
        name if name.ends_with(qwen_scope::ENDING) => QWEN_SCOPE,
        _ => return None,
    };
    FORMATS.iter().find(|known| known.name == format)
}

/// Subfolders that hold a dictionary; these are not searched further.
fn search(folder: &Path, depth: usize, left: &mut usize, found: &mut Vec<PathBuf>) {
    if FORMATS.iter().any(|format| format.sign(folder).is_some()) {
        found.push(folder.to_owned());
        return;
    }
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut folders = Vec::new();
    for entry in entries.flatten() {
        if *left == 0 {
            return;
        }
        *left -= 1;
        if entry.path().is_dir() {
            folders.push(entry.path());
        }
    }
    folders.sort();
    if depth > 0 {
        folders.iter().for_each(|folder| search(folder, depth - 1, left, found));
    }
}
