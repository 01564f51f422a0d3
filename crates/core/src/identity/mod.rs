//! Identifies a model by its content, not by its name.
//!
//! The digest covers every file read to build the model, and every loading choice that changes its numbers. Two folders
//! of the same name have different digests if a single weight differs; a folder that was copied, moved or renamed keeps
//! its digest.

mod cache;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use blake3::Hasher;
use easyroutine_files::OpenFile;
use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result};
use crate::source::Environment;

/// Bytes of a file hashed at a time, by all cores.
const WINDOW: usize = 16 << 20;

/// Keys of config.json that describe where a copy came from, not the model.
const OF_THE_COPY: &[&str] = &["_commit_hash", "_name_or_path", "transformers_version"];

/// Distinguishes a model from every other.
///
/// Files are opened with the model and read when the digest is first requested. After that it is looked up by the
/// files' own identity (device, inode, size, times) in easyroutine's cache folder.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    files: Vec<(String, Arc<OpenFile>)>,
    said: Map<String, Value>,
    digest: OnceLock<String>,
}

impl Identity {
    /// Adds a file that the model is built from, under the name that it has in every copy of the model.
    pub fn add_file(&mut self, name: impl Into<String>, file: Arc<OpenFile>) {
        self.files.push((name.into(), file));
        self.digest = OnceLock::new();
    }

    /// Adds anything else that the numbers depend on: a loading choice, or the content of a file whose spelling does
    /// not matter. Maps are compared regardless of key order, and `1.0` equals `1`.
    pub fn add(&mut self, key: &str, value: Value) {
        self.said.insert(key.to_owned(), value);
        self.digest = OnceLock::new();
    }

    /// The digest: `blake3:` and 64 hexadecimal digits. The first call reads every file completely, on all cores.
    ///
    /// BLAKE3 is collision resistant, so no one can make another model with the same digest, and it runs on all cores
    /// in parallel. A digest in the cache folder is believed if it matches the file's identity and its own checksum.
    ///
    /// # Errors
    /// If a file was written to after it was opened, or cannot be read.
    pub fn digest(&self) -> Result<&str> {
        self.digest_in(Some(&Environment::from_process().digests))
    }

    /// The same with another cache folder, or none.
    ///
    /// # Errors
    /// As [`Identity::digest`].
    pub fn digest_in(&self, known: Option<&Path>) -> Result<&str> {
        if let Some(digest) = self.digest.get() {
            return Ok(digest);
        }
        let mut files = Map::new();
        for (name, file) in &self.files {
            files.insert(name.clone(), json!(file_digest(file, known)?));
        }
        let whole = json!({"schema": "easyroutine.model_digest/1", "files": files, "said": self.said});
        let digest = format!("blake3:{}", blake3::hash(canonical(&whole).as_bytes()).to_hex());
        Ok(self.digest.get_or_init(|| digest))
    }
}

/// The part of config.json that describes the model.
pub(crate) fn of_config(config: &Map<String, Value>) -> Value {
    let kept = config.iter().filter(|(key, _)| !OF_THE_COPY.contains(&key.as_str()));
    kept.map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>().into()
}

/// BLAKE3 of a file's content, as printed by `b3sum`.
fn file_digest(file: &OpenFile, known: Option<&Path>) -> Result<String> {
    file.check_unchanged()?;
    let identity = known.and_then(|folder| Some((folder, file.identity()?)));
    if let Some((folder, identity)) = &identity
        && let Some(digest) = cache::look_up(folder, identity)
    {
        return Ok(digest);
    }
    let digest = read_whole(file)?;
    file.check_unchanged()?;
    if let Some((folder, identity)) = &identity
        && file.identity().as_ref() == Some(identity)
    {
        cache::keep(folder, identity, &digest);
    }
    Ok(digest)
}

fn read_whole(file: &OpenFile) -> Result<String> {
    let mut hasher = Hasher::new();
    let mut window = vec![0; WINDOW.min(usize::try_from(file.len()).unwrap_or(WINDOW))];
    let mut offset = 0;
    while offset < file.len() {
        let bytes = &mut window[..(file.len() - offset).min(WINDOW as u64) as usize];
        file.read_at(offset, bytes).map_err(|e| {
            Error::new(ErrorKind::Io, e.to_string())
                .hint("the file is shorter than when it was opened: load it again")
        })?;
        hasher.update_rayon(bytes);
        offset += bytes.len() as u64;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// JSON in canonical form, whatever its spelling: sorted keys, integers without a fraction.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            let entry = |key: &String| format!("{}:{}", json!(key), canonical(&map[key]));
            format!("{{{}}}", joined(keys.into_iter().map(entry)))
        }
        Value::Array(list) => format!("[{}]", joined(list.iter().map(canonical))),
        Value::Number(number) => match number.as_f64() {
            // Below 2^53 an integral float equals exactly one integer.
            Some(x) if number.is_f64() && x.fract() == 0.0 && x.abs() < 9e15 => (x as i64).to_string(),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.enumerate().fold(String::new(), |mut all, (number, part)| {
        // Writing into a String cannot fail.
        let _ = write!(all, "{}{part}", if number > 0 { "," } else { "" });
        all
    })
}
