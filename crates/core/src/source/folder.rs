//! The contents of a folder or file named by its path.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use easyroutine_files::gguf::PartName;

use super::reference::{is_commit, is_gguf, is_safe_name};
use super::{FilesKind, ModelFiles, adapter, io_error, list, printable};
use crate::error::{Error, ErrorKind, Result};

pub(super) const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// No index is longer; the longest known (DeepSeek-V3's) has 9 MB.
pub(super) const LONGEST_INDEX: u64 = 128 << 20;

/// The kind of a folder, judged by its file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Contents {
    /// `config.json` and all safetensors files.
    Whole,
    /// An adapter, and no model.
    Adapter,
    /// Missing some or all of these.
    Without(Vec<String>),
    /// No safetensors, but this file of pickled weights.
    Pickle(String),
    /// No safetensors, but these GGUF files.
    Gguf(Vec<String>),
}

/// The files of a model named by its path.
pub(super) fn open_path(path: &Path) -> Result<ModelFiles> {
    if path.is_dir() {
        return open_folder(path);
    }
    if !path.exists() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("there is no file or folder {}", path.display()),
        )
        .hint(
            "what begins with `.`, `/` or `~`, ends in `.gguf` or has several slashes is taken as a path; \
                 a model of the hub is `org/name`",
        ));
    }
    check_gguf(path)?;
    Ok(ModelFiles { kind: FilesKind::Gguf(path.to_owned()), name: stem(path), commit: None, adapter: None })
}

fn open_folder(path: &Path) -> Result<ModelFiles> {
    let place = path.display();
    match inspect(path)? {
        Contents::Whole | Contents::Adapter => {
            let (name, commit) = identity(path);
            Ok(ModelFiles { kind: FilesKind::Folder(path.to_owned()), name, commit, adapter: None })
        }
        Contents::Pickle(file) => Err(pickle_refusal(&place.to_string(), &file)),
        Contents::Gguf(files) => {
            let first = files.first().map(String::as_str).unwrap_or_default();
            Err(Error::new(
                ErrorKind::NotFound,
                format!("the folder {place} has no safetensors, but {}", list(&files)),
            )
            .hint(format!("name the file itself: {}", path.join(first).display())))
        }
        Contents::Without(missing) => {
            Err(Error::new(ErrorKind::NotFound, format!("the folder {place} is without {}", list(&missing)))
                .hint(
                    "a model's folder has config.json and model.safetensors, or its index and every shard; \
                     a model of the hub is not looked for under a name that exists here",
                ))
        }
    }
}

/// Unpickling can run any program, so pickle files are never read.
pub(super) fn pickle_refusal(place: &str, file: &str) -> Error {
    let message =
        format!("{place} has its weights only as `{}`, a pickle file, which is never read", printable(file));
    Error::new(ErrorKind::Unsupported, message)
        .hint("convert it in Python: `AutoModelForCausalLM.from_pretrained(PATH).save_pretrained(NEW)` writes safetensors")
}

/// Whether a folder has a model's config but no weights.
pub(super) fn is_config_alone(folder: &Path) -> Result<bool> {
    Ok(inspect(folder)? == Contents::Without(vec![WEIGHTS.into()]) && !folder.join(INDEX).is_file())
}

/// Inspects a folder.
pub(super) fn inspect(folder: &Path) -> Result<Contents> {
    if adapter::is_alone(folder) {
        return Ok(Contents::Adapter);
    }
    let has = |name: &str| folder.join(name).is_file();
    let mut missing: Vec<String> = Vec::new();
    if !has(CONFIG) {
        missing.push(CONFIG.into());
    }
    if has(WEIGHTS) {
        return Ok(if missing.is_empty() { Contents::Whole } else { Contents::Without(missing) });
    }
    if has(INDEX) {
        missing.extend(shards(&folder.join(INDEX))?.into_iter().filter(|shard| !has(shard)));
        return Ok(if missing.is_empty() { Contents::Whole } else { Contents::Without(missing) });
    }
    let names = names(folder)?;
    let ggufs: Vec<String> = names.iter().filter(|name| is_gguf(name)).cloned().collect();
    if !ggufs.is_empty() {
        return Ok(Contents::Gguf(ggufs));
    }
    if let Some(pickle) = names.iter().find(|name| is_pickle(name)) {
        return Ok(Contents::Pickle(pickle.clone()));
    }
    missing.push(WEIGHTS.into());
    Ok(Contents::Without(missing))
}

/// Weights that only Python's pickle, or a particular framework, could read.
pub(super) fn is_pickle(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name);
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    match ending {
        "pt" | "pth" | "ckpt" | "pkl" => true,
        "bin" => !matches!(name, "training_args.bin" | "optimizer.bin" | "scheduler.bin"),
        _ => false,
    }
}

/// The shards that an index names, each once, in order. Names that lead out of the folder are refused.
pub(super) fn shards(index: &Path) -> Result<Vec<String>> {
    let damaged = |what: String| {
        Error::new(ErrorKind::Format, format!("{}: {what}", index.display()))
            .hint("fetch the file again; it maps each tensor's name to the shard that has it")
    };
    let file = File::open(index).map_err(|e| io_error(index, "open", e))?;
    let mut text = Vec::new();
    file.take(LONGEST_INDEX + 1).read_to_end(&mut text).map_err(|e| io_error(index, "read", e))?;
    if text.len() as u64 > LONGEST_INDEX {
        return Err(damaged(format!("longer than {LONGEST_INDEX} bytes")));
    }
    let json: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| damaged(format!("not JSON: {e}")))?;
    let map = json
        .get("weight_map")
        .and_then(serde_json::Value::as_object)
        .filter(|map| !map.is_empty())
        .ok_or_else(|| damaged("without a `weight_map` that names shards".into()))?;
    let mut shards = std::collections::BTreeSet::new();
    for (tensor, shard) in map {
        match shard.as_str() {
            Some(name) if is_safe_name(name) && name.ends_with(".safetensors") => {
                shards.insert(name.to_owned())
            }
            _ => {
                let (tensor, shard) = (printable(tensor), printable(&shard.to_string()));
                return Err(damaged(format!(
                    "tensor `{tensor}` is in `{shard}`, which is not a shard of this folder"
                )));
            }
        };
    }
    Ok(shards.into_iter().collect())
}

/// Refuses a file that does not begin like a GGUF file.
pub(super) fn check_gguf(path: &Path) -> Result<()> {
    let mut magic = Vec::new();
    File::open(path)
        .and_then(|file| file.take(4).read_to_end(&mut magic))
        .map_err(|e| io_error(path, "read", e))?;
    if magic == b"GGUF" {
        return Ok(());
    }
    if is_pickle(&path.to_string_lossy()) {
        return Err(pickle_refusal("this model", &path.to_string_lossy()));
    }
    let error = Error::new(ErrorKind::Format, format!("{} is not a GGUF file", path.display()));
    Err(match path.extension().and_then(|ending| ending.to_str()) {
        Some("safetensors" | "json") => error.hint("name the folder that it is in"),
        _ => error.hint("a model is a .gguf file, or a folder with config.json and model.safetensors"),
    })
}

/// A path's last part without an extension that names the format.
pub(super) fn stem(path: &Path) -> String {
    let full = if path.file_name().is_some() { None } else { path.canonicalize().ok() };
    let name = full.as_deref().unwrap_or(path).file_name().unwrap_or_default().to_string_lossy();
    match PartName::parse(&name) {
        Some(part) => part.prefix().to_owned(),
        None if is_gguf(&name) => name[..name.len() - ".gguf".len()].to_owned(),
        None => name.into_owned(),
    }
}

/// Name and commit: those on the hub for a snapshot in a Hugging Face cache, else the folder's name.
pub(super) fn identity(folder: &Path) -> (String, Option<String>) {
    let hub = || {
        let full = folder.canonicalize().ok()?;
        let commit = full.file_name()?.to_str().filter(|name| is_commit(name))?.to_owned();
        let snapshots =
            full.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"))?;
        let id = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?.replace("--", "/");
        Some((id, Some(commit)))
    };
    hub().unwrap_or_else(|| (stem(folder), None))
}

pub(super) fn names(folder: &Path) -> Result<Vec<String>> {
    let failed = |e| io_error(folder, "list", e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Symlinks count too: snapshots in the cache consist of them. One may be dangling.
        if let (Ok(name), true) = (entry.file_name().into_string(), entry.path().is_file()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
