//! The verbs of the commit protocol, for any kind of storage.
//!
//! A run is a folder that is claimed, filled with files, and published by its commit record. What is not published does
//! not exist; what is published never changes, except for the record.

#[cfg(feature = "cloud")]
mod cloud;
mod local;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests;
mod trash;

use std::fmt::Debug;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "cloud")]
pub(crate) use cloud::Cloud;
pub(crate) use local::Local;

use crate::clock::LAST_TICK;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Entry, Held, Hold, Source};
use crate::names::INTERNAL;

/// Whether a power cut may lose what was just saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When saving returns, the run is on disk.
    #[default]
    Full,
    /// The system writes when it likes: a power cut within the next half minute may leave a run torn. The metadata says
    /// so.
    Fast,
}

/// Maps a file's content to new content; an error leaves the file unchanged.
pub(crate) type Change<'a> = &'a mut dyn FnMut(&[u8]) -> Result<Vec<u8>>;

/// A path, and what is there.
pub(crate) type Left = (String, &'static str);

/// A hold that ends when this is dropped; `None` if another process has it.
pub(crate) type MaybeHeld = Option<Box<dyn Held>>;

/// Paths are relative to the store, with `/` between names.
pub(crate) trait Backend: Debug + Send + Sync {
    /// Creates the run's folder, which must not exist, and its parents.
    fn claim(&self, folder: &str) -> Result<()>;

    /// A new file below a claimed folder. It appears, whole, once it is finished.
    fn upload(&self, path: &str) -> Result<Box<dyn Upload + '_>>;

    /// Waits until all finished uploads of a run would survive a power cut.
    fn settle(&self, folder: &str) -> Result<()>;

    /// Creates the commit record, atomically and only where none exists, then waits until run and record would survive
    /// a power cut.
    fn publish(&self, path: &str, content: &[u8]) -> Result<()>;

    /// Creates a small file atomically, only where none exists.
    fn put_new(&self, path: &str, content: &[u8]) -> Result<()>;

    /// Replaces a file by the result of `change`, unless another process changes it meanwhile.
    fn update(&self, path: &str, change: Change<'_>) -> Result<()>;

    /// Opens a file.
    fn open(&self, path: &str) -> Result<Arc<dyn Source>>;

    /// The entries of a folder, sorted by name.
    fn list(&self, folder: &str) -> Result<Vec<Entry>>;

    /// The entry at a path.
    fn entry(&self, path: &str) -> Result<Entry>;

    /// Moves a folder to a free path; missing parents are created.
    fn move_folder(&self, from: &str, to: &str) -> Result<()>;

    /// Makes a run invisible, so that a power cut does not bring it back, then deletes it.
    fn retire(&self, folder: &str) -> Result<()>;

    /// Moves a run that was never published out of the way and checks it again, at the path passed to `is_garbage`.
    /// What is still garbage is deleted, anything else is put back. Returns whether it is gone.
    fn sweep(&self, run: &str, is_garbage: &dyn Fn(&str) -> Result<bool>) -> Result<bool>;

    /// What interrupted removals and sweeps left behind; deleted if `delete`.
    fn empty_trash(&self, delete: bool) -> Result<Vec<Left>>;

    /// Holds a file or folder, as [`FileSystem::hold`](crate::fs::FileSystem::hold) does. Where nothing can be held,
    /// every caller succeeds.
    fn hold(&self, path: &str, how: Hold) -> Result<MaybeHeld>;

    /// An exclusive hold; a missing path gives `None`.
    fn hold_alone(&self, path: &str) -> Result<MaybeHeld> {
        match self.hold(path, Hold::Alone) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            held => held,
        }
    }

    /// Deletes a folder and everything in it.
    fn delete_folder(&self, folder: &str) -> Result<()>;

    /// Deletes a file.
    fn delete_file(&self, path: &str) -> Result<()>;

    /// Deletes a file if it is still the one that is meant: another process may have replaced it.
    fn delete_if(&self, path: &str, is_meant: &dyn Fn(&[u8]) -> bool) -> Result<()>;

    /// A number above all those given out, and not below `least`.
    fn tick(&self, least: u64) -> Result<u64>;

    /// The same storage with another durability.
    fn with_durability(&self, durability: Durability) -> Arc<dyn Backend>;

    /// The durability that saving promises.
    fn durability(&self) -> Durability;

    /// Number of threads worth using to read this many small files.
    fn readers(&self, files: usize) -> usize;

    /// The path on this machine, for a local store.
    fn local_path(&self) -> Option<&Path>;
}

/// A file being written.
pub(crate) trait Upload: Write {
    /// Makes it visible under its name.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// How to name a store that is not in a folder, for errors.
const SCHEMES: &str =
    "a store is a folder, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX";

/// Whether a URL, `s3://bucket/prefix`, names the store, not a folder.
pub fn is_url(base: impl AsRef<Path>) -> bool {
    url(base.as_ref()).is_some()
}

/// The URL, if the name is one.
pub(crate) fn url(base: &Path) -> Option<&str> {
    let text = base.to_str()?;
    let scheme = text.split_once("://")?.0;
    let is_scheme = scheme.len() > 1 && scheme.chars().all(|c| c.is_ascii_alphanumeric());
    is_scheme.then_some(text)
}

/// The store behind a URL.
#[cfg(feature = "cloud")]
pub(crate) fn connect(url: &str) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(Cloud::connect(url)?))
}

/// The store behind a URL.
#[cfg(not(feature = "cloud"))]
pub(crate) fn connect(url: &str) -> Result<Arc<dyn Backend>> {
    let is_known = ["s3://", "gs://", "az://"].iter().any(|scheme| url.starts_with(scheme));
    Err(if is_known {
        Error::new(ErrorKind::Unsupported, format!("{url}: this program was built without object storage"))
            .hint("build it with the feature `cloud`")
    } else {
        Error::input(format!("{url}: this is not an address of object storage")).hint(SCHEMES)
    })
}

/// The number after the one in the clock's content, and not below `least`. Torn or foreign content counts as none:
/// `least`, the time of day, then applies.
///
/// # Errors
/// If the last number has been given out.
fn next_tick(content: &[u8], least: u64) -> Result<u64> {
    let last = std::str::from_utf8(content).ok().and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    match last.filter(|last| *last <= LAST_TICK) {
        Some(LAST_TICK) => Err(Error::damaged(format!("{INTERNAL}/clock: holds the last possible time"))
            .hint("delete it, and the time of day goes on; runs that it has named stay the most recent")),
        Some(last) => Ok(least.max(last + 1)),
        None => Ok(least),
    }
}

/// The clock's content after a number was given out.
fn tick_text(tick: u64) -> String {
    format!("{tick:016x}\n")
}

/// Folder and last name of a path.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
