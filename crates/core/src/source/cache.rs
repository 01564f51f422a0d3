//! One model in the Hugging Face cache, in the layout of `huggingface_hub`.
//!
//! ```text
//! models--org--name/refs/main                    the commit at which a branch or tag was last seen
//! models--org--name/snapshots/COMMIT/FILE        a relative link to
//! models--org--name/blobs/ETAG                   the bytes
//! models--org--name/.no_exist/COMMIT/FILE        the hub has no such file at that commit
//! .locks/models--org--name/ETAG.lock             held while that blob is written
//! ```

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::folder::{self, Contents};
use super::reference::{HubReference, is_commit, one_model, parts_of};
use super::{FilesKind, ModelFiles, list};
use crate::error::{Error, ErrorKind, Result};

/// The place of one model in the cache, whether it exists or not.
#[derive(Debug, Clone)]
pub(super) struct Repository {
    id: String,
    root: PathBuf,
    #[cfg(feature = "hub")]
    locks: PathBuf,
}

/// How much of a model is in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cached {
    Whole(ModelFiles),
    /// Configuration and weights, but no tokenizer, and no record that the hub has none.
    WithoutTokenizer(ModelFiles),
    Partial {
        missing: Vec<String>,
    },
    Pickle {
        file: String,
    },
    Absent,
}

impl Repository {
    pub(super) fn new(cache: &Path, id: &str) -> Self {
        let folder = format!("models--{}", id.replace('/', "--"));
        Repository {
            id: id.to_owned(),
            root: cache.join(&folder),
            #[cfg(feature = "hub")]
            locks: cache.join(".locks").join(&folder),
        }
    }

    /// What the cache has of a model, without the network.
    pub(super) fn look_up(&self, reference: &HubReference) -> Result<Cached> {
        let Some(commit) = self.commit(&reference.revision) else { return Ok(Cached::Absent) };
        let snapshot = self.snapshot(&commit);
        if !snapshot.is_dir() {
            return Ok(Cached::Absent);
        }
        let found =
            |kind| ModelFiles { kind, name: self.id.clone(), commit: Some(commit.clone()), adapter: None };
        if let Some(file) = &reference.file {
            let path = snapshot.join(file);
            let missing: Vec<String> =
                parts_of(file).into_iter().filter(|part| !snapshot.join(part).is_file()).collect();
            if !missing.is_empty() {
                return Ok(Cached::Partial { missing });
            }
            folder::check_gguf(&path)?;
            return Ok(Cached::Whole(found(FilesKind::Gguf(path))));
        }
        Ok(match folder::inspect(&snapshot)? {
            Contents::Whole if self.lacks_tokenizer(&commit) => {
                Cached::WithoutTokenizer(found(FilesKind::Folder(snapshot)))
            }
            Contents::Whole | Contents::Adapter => Cached::Whole(found(FilesKind::Folder(snapshot))),
            Contents::Without(missing) => Cached::Partial { missing },
            Contents::Pickle(file) => Cached::Pickle { file },
            Contents::Gguf(files) => match one_model(&files) {
                Some((file, missing)) if missing.is_empty() => {
                    let path = snapshot.join(file);
                    folder::check_gguf(&path)?;
                    Cached::Whole(found(FilesKind::Gguf(path)))
                }
                Some((_, missing)) => Cached::Partial { missing },
                None => return Err(several_ggufs(&self.id, &files)),
            },
        })
    }

    /// Commits that are at least partly there.
    pub(super) fn commits(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.root.join("snapshots")) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut commits: Vec<String> = names.filter(|name| is_commit(name)).collect();
        commits.sort();
        commits
    }

    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let mut text = String::new();
        // Longer than a commit and a line end, so that trailing text is noticed.
        File::open(self.reference(revision)).ok()?.take(64).read_to_string(&mut text).ok()?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    fn lacks_tokenizer(&self, commit: &str) -> bool {
        let snapshot = self.snapshot(commit);
        let here = ["tokenizer.json", "vocab.json"].iter().any(|name| snapshot.join(name).is_file());
        !here && !self.known_absent(commit, "tokenizer.json").exists()
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub(super) fn reference(&self, revision: &str) -> PathBuf {
        self.root.join("refs").join(revision)
    }

    pub(super) fn known_absent(&self, commit: &str, file: &str) -> PathBuf {
        self.root.join(".no_exist").join(commit).join(file)
    }

    #[cfg(feature = "hub")]
    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    #[cfg(feature = "hub")]
    pub(super) fn locks(&self) -> &Path {
        &self.locks
    }
}

pub(super) fn several_ggufs(id: &str, files: &[String]) -> Error {
    let first = files.first().map(String::as_str).unwrap_or_default();
    Error::new(ErrorKind::InvalidReference, format!("`{id}` does not say which GGUF file: {}", list(files)))
        .hint(format!("name one: `{id}:{}`", super::printable(first)))
}
