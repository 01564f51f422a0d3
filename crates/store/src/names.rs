//! Names that become folders, checked before anything is written: nothing escapes the store.

use uuid::Uuid;

use crate::error::{Error, Result};

/// The folder for everything that is not a run.
pub(crate) const INTERNAL: &str = ".easyroutine";
/// The prefix of unfinished files.
pub(crate) const TEMPORARY: &str = ".tmp-";
/// The commit record of a run.
pub(crate) const METADATA: &str = "metadata.json";
/// The tensor file of an original run.
pub(crate) const ORIGINALS: &str = "tensor.pt";
/// A manifest too long for the record.
pub(crate) const MANIFEST: &str = "manifest.json";

/// Longest folder name in bytes; file systems allow 255, and temporary names need some of that.
const LONGEST: usize = 200;

/// Checks an experiment's name, which is also its folder's.
///
/// # Errors
/// If the name is not a valid, distinct folder name on every system.
pub fn check_experiment(name: &str) -> Result<()> {
    let wrong = |what: &str| {
        let shown = name.escape_debug();
        Err(Error::input(format!("experiment `{shown}`: {what}"))
            .hint("an experiment is the name of one folder: letters, digits, blanks, `-`, `_`, `.`"))
    };
    if name.is_empty() {
        return wrong("the name is empty");
    }
    if let Some(c) = name.chars().find(|c| !is_portable(*c)) {
        return wrong(&format!("`{}` cannot be in the name of a folder", c.escape_debug()));
    }
    if name.starts_with('.') {
        return wrong("names that begin with a dot are the store's own");
    }
    if name.ends_with(['.', ' ']) {
        return wrong("not every system keeps a dot or blank at the end");
    }
    if name.len() > LONGEST {
        return wrong(&format!("{} bytes are too long; {LONGEST} is the limit", name.len()));
    }
    Ok(())
}

/// The folder for a model's runs. Two models may share one: queries compare their full names.
pub(crate) fn model_folder(model: &str) -> String {
    let mut folder: String = model.chars().map(|c| if is_portable(c) { c } else { '_' }).collect();
    if folder.starts_with('.') || folder.is_empty() {
        folder.insert(0, '_');
    }
    while folder.len() > LONGEST {
        folder.pop();
    }
    if folder.ends_with(['.', ' ']) {
        folder.pop();
        folder.push('_');
    }
    folder
}

/// Checks a run's path from a user or an index: three plain names.
pub(crate) fn check_run_path(path: &str) -> Result<()> {
    let names: Vec<&str> = path.split('/').collect();
    let plain = |name: &&str| !name.is_empty() && !name.starts_with('.') && name.chars().all(is_portable);
    if names.len() == 3 && names.iter().all(plain) {
        return Ok(());
    }
    Err(Error::input(format!("`{}` is not a path of a run", path.escape_debug()))
        .hint("a run is experiment/model/time, below the store"))
}

/// Checks a file path from a manifest.
pub(crate) fn check_file(file: &str) -> Result<()> {
    let plain = |name: &str| !name.is_empty() && !name.starts_with('.') && name.chars().all(is_portable);
    match file.split_once('/') {
        Some(("data", name)) if plain(name) => Ok(()),
        _ => Err(Error::damaged(format!("`{}` is not a shard of a run", file.escape_debug()))),
    }
}

/// A name for an unnamed run.
pub fn fresh_name() -> String {
    format!("run-{}", nonce())
}

/// Random letters, different each time.
pub(crate) fn nonce() -> String {
    base32(u64::from_le_bytes(Uuid::new_v4().into_bytes()[8..].try_into().unwrap_or_default()), 8)
}

/// The lowest `5 * length` bits as digits and letters, without lookalikes.
pub(crate) fn base32(value: u64, length: usize) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let digit = |place: usize| char::from(ALPHABET[(value >> (5 * place)) as usize % 32]);
    (0..length).rev().map(digit).collect()
}

fn is_portable(c: char) -> bool {
    !c.is_control() && !r#"/\:*?"<>|"#.contains(c)
}
