//! Downloads from the hub into the Hugging Face cache, so that Python tools find the files too.
//!
//! Routes: `GET /api/models/ID/revision/REVISION` (the commit and its file names), `HEAD` and `GET
//! /ID/resolve/COMMIT/FILE`. Everything that the server says is untrusted: names come from a fixed list or are checked,
//! lengths and speed are bounded, LFS files are compared with their SHA-256, others with git's SHA-1.

mod blob;
mod client;
mod pace;
mod retry;

use std::collections::BTreeSet;
use std::path::Path;

use super::cache::{Repository, several_ggufs};
use super::environment::Environment;
use super::folder::{self, CONFIG, INDEX, WEIGHTS};
use super::part::Choose;
use super::reference::{HubReference, is_commit, is_gguf, is_safe_name, one_model, parts_of};
use super::{ResolveOptions, SMALL_FILES, io_error, list, printable};
use crate::adapter;
use crate::error::{Error, ErrorKind, Result};

use blob::Fetch;
use client::Client;

/// The folder of a repository's additional chat templates.
const TEMPLATES: &str = "additional_chat_templates/";

/// A revision: its commit and its file names.
struct Listing {
    commit: String,
    files: BTreeSet<String>,
}

/// Downloads a model's missing files into the cache; returns their commit.
pub(super) fn download(
    repository: &Repository,
    reference: &HubReference,
    options: &ResolveOptions,
    environment: &Environment,
) -> Result<String> {
    let client = Client::new(environment, &reference.id, options.retries.silence)?;
    let listing = client.listing(reference, options.retries)?;
    let small = plan(reference, &listing)?;
    if reference.revision != listing.commit {
        let path = repository.reference(&reference.revision);
        blob::write_whole(&path, listing.commit.as_bytes())?;
    }
    let fetch = Fetch { client: &client, repository, commit: &listing.commit, options };
    for name in &small {
        fetch.file(name)?;
    }
    // Additional chat templates, as many as a folder may have.
    let is_template = |name: &&String| name.starts_with(TEMPLATES) && name.ends_with(".jinja");
    for name in listing.files.iter().filter(is_template).take(if small.is_empty() { 0 } else { 64 }) {
        fetch.file(name)?;
    }
    if let Some(file) = &reference.file {
        for part in parts_of(file) {
            fetch.file(&part)?;
        }
        return Ok(listing.commit);
    }
    if !["tokenizer.json", "vocab.json"].iter().any(|name| listing.files.contains(*name)) {
        blob::write_whole(&repository.known_absent(&listing.commit, "tokenizer.json"), b"")?;
    }
    for name in weights(&fetch, &listing)? {
        fetch.file(&name)?;
    }
    Ok(listing.commit)
}

/// How often a chooser is asked: once for all files, again where some say which others there are.
const ROUNDS: usize = 4;

/// Brings the files that are chosen into the cache; the commit that they belong to.
pub(super) fn download_chosen(
    repository: &Repository,
    reference: &HubReference,
    choose: Choose<'_>,
    options: &ResolveOptions,
    environment: &Environment,
) -> Result<String> {
    let client = Client::new(environment, &reference.id, options.retries.silence)?;
    let Listing { commit, files } = client.listing(reference, options.retries)?;
    let snapshot = repository.snapshot(&commit);
    let fetch = Fetch { client: &client, repository, commit: &commit, options };
    for _ in 0..ROUNDS {
        let mut wanted = choose(&files, &snapshot)?;
        wanted.retain(|name| !snapshot.join(name).is_file());
        let absent: Vec<String> = wanted.iter().filter(|name| !files.contains(*name)).cloned().collect();
        if !absent.is_empty() {
            let id = &reference.id;
            return Err(Error::new(ErrorKind::NotFound, format!("`{id}` has no {}", list(&absent)))
                .hint("the repository is damaged; try another revision"));
        }
        if wanted.is_empty() {
            break;
        }
        wanted.iter().try_for_each(|name| fetch.file(name))?;
    }
    if reference.revision != commit {
        blob::write_whole(&repository.reference(&reference.revision), commit.as_bytes())?;
    }
    Ok(commit)
}

/// The small files to fetch, or why this repository is not a readable model.
fn plan(reference: &HubReference, listing: &Listing) -> Result<Vec<&'static str>> {
    let id = &reference.id;
    let has = |name: &str| listing.files.contains(name);
    let all = |wanted: &dyn Fn(&str) -> bool| -> Vec<String> {
        listing.files.iter().filter(|name| wanted(name)).cloned().collect()
    };
    let ggufs = all(&is_gguf);
    if let Some(file) = &reference.file {
        let missing: Vec<String> = parts_of(file).into_iter().filter(|part| !has(part)).collect();
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let what = if missing.len() == 1 { "file" } else { "files" };
        let error = Error::new(ErrorKind::NotFound, format!("`{id}` has no {what} {}", list(&missing)));
        return Err(if ggufs.is_empty() { error } else { error.hint(format!("it has {}", list(&ggufs))) });
    }
    if has(WEIGHTS) || has(INDEX) {
        if has(CONFIG) {
            let others = [CONFIG, adapter::CONFIG, adapter::WEIGHTS];
            return Ok(SMALL_FILES.iter().copied().chain(others).filter(|name| has(name)).collect());
        }
        return Err(Error::new(ErrorKind::Unsupported, format!("`{id}` has weights, but no config.json"))
            .hint(
                "without it nothing says what the model computes; look for the repository of the whole model",
            ));
    }
    match one_model(&ggufs) {
        _ if ggufs.is_empty() => {}
        Some((first, missing)) if missing.is_empty() && !first.contains('/') => return Ok(Vec::new()),
        _ => return Err(several_ggufs(id, &ggufs)),
    }
    if has(adapter::CONFIG) && has(adapter::WEIGHTS) {
        let own = [adapter::CONFIG, adapter::WEIGHTS];
        return Ok(SMALL_FILES.iter().copied().chain(own).filter(|name| has(name)).collect());
    }
    if let Some(pickle) = listing.files.iter().find(|name| folder::is_pickle(name)) {
        return Err(folder::pickle_refusal(&format!("`{id}`"), pickle));
    }
    let others = all(&|name| name.ends_with(".safetensors"));
    let found = if others.is_empty() { "no weights".to_owned() } else { format!("only {}", list(&others)) };
    Err(Error::new(ErrorKind::Unsupported, format!("`{id}` has no {WEIGHTS} and no {INDEX}, {found}"))
        .hint("a model in the form of transformers, or a GGUF file, is needed"))
}

/// The names of the weight files. For a sharded model the index is fetched first, since only it lists the shards.
fn weights(fetch: &Fetch<'_>, listing: &Listing) -> Result<Vec<String>> {
    if listing.files.contains(WEIGHTS) {
        return Ok(vec![WEIGHTS.into()]);
    }
    if !listing.files.contains(INDEX) {
        return Ok(listing.files.iter().filter(|name| is_gguf(name)).cloned().collect());
    }
    fetch.file(INDEX)?;
    let shards = folder::shards(&fetch.repository.snapshot(fetch.commit).join(INDEX))?;
    let absent: Vec<String> = shards.iter().filter(|name| !listing.files.contains(*name)).cloned().collect();
    if absent.is_empty() {
        return Ok(shards);
    }
    Err(Error::new(
        ErrorKind::NotFound,
        format!("{INDEX} names shards that the hub does not have: {}", list(&absent)),
    )
    .hint("the repository is damaged; try another revision"))
}

impl Client {
    fn listing(&self, reference: &HubReference, retries: super::Retries) -> Result<Listing> {
        let text = retry::repeat(retries, || self.listing_text(&reference.revision))?;
        let wrong = |what: String| {
            Error::new(ErrorKind::Network, format!("{} answers with {what}", self.endpoint()))
                .hint("is HF_ENDPOINT the address of a Hugging Face hub?")
        };
        let json: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| wrong(format!("something that is not JSON ({e})")))?;
        let commit = json.get("sha").and_then(serde_json::Value::as_str).unwrap_or_default();
        if !is_commit(commit) {
            return Err(wrong(format!("no commit, but `{}`", printable(commit))));
        }
        let siblings = json.get("siblings").and_then(serde_json::Value::as_array);
        let names = siblings.ok_or_else(|| wrong("no list of files".into()))?.iter();
        let files = names
            .filter_map(|sibling| sibling.get("rfilename")?.as_str())
            // No model file has such a name, so dropping it hides nothing that could be requested.
            .filter(|name| is_safe_name(name))
            .map(str::to_owned)
            .collect();
        Ok(Listing { commit: commit.to_owned(), files })
    }
}

/// Creates the parent folder of a file.
fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => std::fs::create_dir_all(parent).map_err(|e| io_error(parent, "make the folder", e)),
        None => Ok(()),
    }
}
