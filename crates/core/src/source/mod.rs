//! Resolves a user's name for a model to files on this machine.
//!
//! A reference is tried in this order:
//! 1. a path: a folder with `config.json` and safetensors, or a GGUF file;
//! 2. `org/name[@revision][:FILE.gguf]` in the Hugging Face cache;
//! 3. the same, downloaded from the hub if allowed (feature `hub`);
//! 4. a name in the built-in list of demo models (see [`demos`]).
//!
//! Anything that looks like a path is never requested from the hub, and a model that is complete in the cache is used
//! without checking whether its branch has moved. Pickled weights (`.bin`, `.pt`) are neither fetched nor read.

mod adapter;
mod beside;
mod cache;
mod demo;
mod environment;
mod folder;
#[cfg(feature = "hub")]
mod hub;
mod part;
mod reference;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

use cache::{Cached, Repository};
use reference::{HubReference, Reference};

pub use adapter::AdapterChoice;
pub(crate) use adapter::warning as adapter_warning;
pub(crate) use beside::warnings as beside_warnings;
pub use demo::{Demo, demos};
pub use environment::{Environment, Token};
pub use part::{Choose, HubPart, Location, Snapshot};

/// Optional files of a model besides `config.json` and its weights. A download fetches them before the weights, so that
/// a model whose weights are in the cache has everything else too.
pub const SMALL_FILES: &[&str] = &[
    GENERATION,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// Those that affect tokenization or the formatting of conversations, which are part of the model's identity.
pub(crate) fn files_of_tokens() -> impl Iterator<Item = &'static str> {
    SMALL_FILES.iter().copied().filter(|name| *name != GENERATION)
}

/// Default sampling options, which are not part of the model's identity.
const GENERATION: &str = "generation_config.json";

/// The files of one model on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// Their location, and their form.
    pub kind: FilesKind,
    /// The hub id (`org/name`), else the folder's or the file's stem.
    pub name: String,
    /// The commit on the hub, if known.
    pub commit: Option<String>,
    /// The folder of the adapter applied to it.
    pub adapter: Option<PathBuf>,
}

/// The two forms of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilesKind {
    /// A folder with `config.json` and safetensors.
    Folder(PathBuf),
    /// One GGUF file.
    Gguf(PathBuf),
}

impl ModelFiles {
    /// The folder, or the GGUF file.
    pub fn path(&self) -> &Path {
        match &self.kind {
            FilesKind::Folder(path) | FilesKind::Gguf(path) => path,
        }
    }

    /// The name of the applied adapter: its hub id, else its folder's name.
    pub fn adapter_name(&self) -> Option<String> {
        self.adapter.as_deref().map(|folder| folder::identity(folder).0)
    }
}

/// The model's name in runs, if it differs from the reference: for a demo model or a path the stem of the file or
/// folder, for `org/name@revision` the id alone. Nothing is downloaded, and nothing need exist.
pub fn name_in_runs(reference: &str) -> Option<String> {
    let name = match reference::parse(reference, None, &Environment::from_process()).ok()? {
        Reference::Path(path) => folder::identity(&path).0,
        Reference::Hub(hub) => match demo::find(&hub) {
            Ok(Some(demo)) => folder::stem(Path::new(demo.file)),
            _ => hub.id,
        },
    };
    (name != reference).then_some(name)
}

/// Options for resolving a reference.
#[derive(Debug, Default)]
pub struct ResolveOptions {
    /// Branch, tag or commit on the hub; the same as `@revision` in the reference.
    pub revision: Option<String>,
    /// Use only the cache, whatever the environment says.
    pub offline: bool,
    /// The adapter to apply.
    pub adapter: AdapterChoice,
    /// Called as a download progresses.
    pub progress: Option<ProgressCallback>,
    /// How temporary failures are retried.
    pub retries: Retries,
}

/// A function called as a download progresses.
pub struct ProgressCallback(
    #[cfg_attr(not(feature = "hub"), expect(dead_code, reason = "only downloads have progress"))]
    Box<dyn Fn(&Progress<'_>) + Send + Sync>,
);

impl ProgressCallback {
    /// Wraps a function. It is called on the resolving thread, once for each piece received.
    pub fn new(callback: impl Fn(&Progress<'_>) + Send + Sync + 'static) -> Self {
        ProgressCallback(Box::new(callback))
    }
}

impl fmt::Debug for ProgressCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressCallback")
    }
}

/// Progress of one file's download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The file's name in the repository.
    pub file: &'a str,
    /// Bytes received, including those of an earlier attempt.
    pub done: u64,
    /// Bytes of the whole file, if the server says.
    pub total: Option<u64>,
}

/// How often and when a request is retried after a temporary failure: a broken connection, a timeout, a status of 429
/// or 500 and above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Consecutive attempts without progress, at least one.
    pub attempts: u32,
    /// The pause after the first failure; each later one is twice as long, up to half a minute.
    pub first_pause: Duration,
    /// How long a server may be silent before the attempt fails.
    pub silence: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Retries { attempts: 5, first_pause: Duration::from_millis(500), silence: Duration::from_secs(30) }
    }
}

/// Finds a model's files, with the environment of this process.
///
/// # Errors
///
/// As [`resolve_in`].
pub fn resolve(reference: &str, options: &ResolveOptions) -> Result<ModelFiles> {
    resolve_in(reference, options, &Environment::from_process())
}

/// Finds a model's files, downloading them if necessary and allowed.
///
/// # Errors
///
/// By kind: `InvalidReference` (neither a path nor a possible name), `NotFound` (no such path, model, revision or
/// file), `Offline` (not complete in the cache, and downloads are not allowed), `Gated` (the hub requires an accepted
/// licence or another token), `Network` (the hub cannot be reached, or sent wrong data), `Unsupported` (only pickled
/// weights), `Format` (a damaged file), `Io` (the disk).
pub fn resolve_in(
    reference: &str,
    options: &ResolveOptions,
    environment: &Environment,
) -> Result<ModelFiles> {
    let revision = options.revision.as_deref();
    let of_hub = matches!(reference::parse(reference, revision, environment)?, Reference::Hub(_));
    let files = resolve_reference(reference, revision, options, environment)?;
    adapter::choose(files, of_hub, options, environment)
}

/// The folder that a reference names by path, if it holds a model's config.json but no weights.
///
/// # Errors
/// As [`resolve`].
pub fn config_alone(reference: &str) -> Result<Option<PathBuf>> {
    match reference::parse(reference, None, &Environment::from_process())? {
        Reference::Path(path) if path.is_dir() => Ok(folder::is_config_alone(&path)?.then_some(path)),
        _ => Ok(None),
    }
}

/// What a reference resolves to: a model, or a folder with only an adapter.
fn resolve_reference(
    reference: &str,
    revision: Option<&str>,
    options: &ResolveOptions,
    environment: &Environment,
) -> Result<ModelFiles> {
    match reference::parse(reference, revision, environment)? {
        Reference::Path(path) => folder::open_path(&path),
        Reference::Hub(hub) => resolve_hub(&hub, options, environment),
    }
}

fn resolve_hub(
    hub: &HubReference,
    options: &ResolveOptions,
    environment: &Environment,
) -> Result<ModelFiles> {
    let repository = Repository::new(&environment.hub_cache, &hub.id);
    let cached = repository.look_up(hub)?;
    if let Cached::Whole(files) = cached {
        return Ok(files);
    }
    // The hub no longer creates ids without an organisation, so no name in this list can be a model there.
    if let Some(demo) = demo::find(hub)? {
        return demo.open(environment);
    }
    let offline = options.offline || environment.offline;
    match cached {
        Cached::WithoutTokenizer(files) if offline || cfg!(not(feature = "hub")) => Ok(files),
        // The weights are here; a tokenizer is fetched if the hub has one, but its absence is not an error yet.
        Cached::WithoutTokenizer(files) => {
            Ok(download(&repository, hub, options, environment).unwrap_or(files))
        }
        cached if offline => Err(not_cached(&repository, hub, &cached, options, environment)),
        _ => download(&repository, hub, options, environment),
    }
    .map_err(|error| taken_for_a_name(error, hub))
}

/// A name without an organisation was probably meant as a missing file or a demo model.
fn taken_for_a_name(error: Error, hub: &HubReference) -> Error {
    if hub.id.contains('/') {
        return error;
    }
    let hint = match demo::nearest(&hub.id) {
        Some(demo) => format!("did you mean the demo model `{}`?", demo.name),
        None => error.hint_text().unwrap_or("paths begin with `./` or `/`").to_owned(),
    };
    error
        .at(format_args!(
            "there is no file or folder `{0}` here, so `{0}` was taken for a model on the hub",
            hub.id
        ))
        .hint(hint)
}

#[cfg(feature = "hub")]
fn download(
    repository: &Repository,
    reference: &HubReference,
    options: &ResolveOptions,
    environment: &Environment,
) -> Result<ModelFiles> {
    let commit = hub::download(repository, reference, options, environment)?;
    let pinned = HubReference { revision: commit, ..reference.clone() };
    match repository.look_up(&pinned)? {
        Cached::Whole(files) | Cached::WithoutTokenizer(files) => Ok(files),
        Cached::Partial { missing } => Err(Error::new(
            ErrorKind::Network,
            format!("`{}` is still without {} after the download", reference.id, list(&missing)),
        )),
        Cached::Pickle { .. } | Cached::Absent => Err(Error::new(
            ErrorKind::Network,
            format!("`{}` is not in the cache after the download", reference.id),
        )),
    }
}

#[cfg(not(feature = "hub"))]
fn download(
    repository: &Repository,
    reference: &HubReference,
    options: &ResolveOptions,
    environment: &Environment,
) -> Result<ModelFiles> {
    let cached = repository.look_up(reference)?;
    Err(not_cached(repository, reference, &cached, options, environment))
}

/// Why a model that is not complete in the cache cannot be used without the network.
fn not_cached(
    repository: &Repository,
    reference: &HubReference,
    cached: &Cached,
    options: &ResolveOptions,
    environment: &Environment,
) -> Error {
    let id = &reference.id;
    let revision = &reference.revision;
    let place = environment.hub_cache.display();
    let message = match cached {
        Cached::Pickle { file } => return folder::pickle_refusal(id, file),
        Cached::Partial { missing } => {
            format!("`{id}` at `{revision}` is in the cache {place}, but without {}", list(missing))
        }
        _ => format!("`{id}` at `{revision}` is not in the cache {place}"),
    };
    let cause = why_offline(options, environment);
    let kept = match (cached, repository.commits().as_slice()) {
        (Cached::Absent, [_, ..]) => format!("; commits in the cache: {}", list(&repository.commits())),
        _ => String::new(),
    };
    let demos = if id.contains('/') { String::new() } else { format!("; demo models: {}", demo::names()) };
    Error::new(ErrorKind::Offline, format!("{message}, and {cause}"))
        .hint(format!("go online once, or run `hf download {id}` where there is a network{kept}{demos}"))
}

/// Why nothing is downloaded.
fn why_offline(options: &ResolveOptions, environment: &Environment) -> &'static str {
    if options.offline {
        "downloads are off (`--offline` or EASYROUTINE_OFFLINE)"
    } else if environment.offline {
        "downloads are off (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set)"
    } else {
        "this build cannot download (it lacks the feature `hub`)"
    }
}

/// Names for an error: at most eight, quoted, safe to print.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text =
        names.iter().take(SHOWN).map(|name| format!("`{}`", printable(name))).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

/// Text from outside, made safe for an error: without control characters, and short.
fn printable(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

/// An operating system error at a path.
fn io_error(path: &Path, doing: &str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot {doing} {}: {error}", path.display())).because(error)
}
