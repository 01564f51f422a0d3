//! The commit protocol's verbs, on whatever keeps the bytes.
//!
//! A run is a folder that is claimed, filled with files, and published by its commit record. What is not published is
//! not there; what is published never changes, but for the record itself.

mod local;

use std::fmt::Debug;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

pub(crate) use local::Local;

use crate::error::Result;
use crate::fs::{Entry, Source};

/// Whether a power cut may take what was just saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When saving returns, the run is on the disk.
    #[default]
    Full,
    /// The system writes when it likes; a power cut in the next half minute may leave a run torn. The metadata says so.
    Fast,
}

/// Changes the content of a file; an error leaves it as it was.
pub(crate) type Change<'a> = &'a mut dyn FnMut(&[u8]) -> Result<Vec<u8>>;

/// Paths are relative to the store, with `/` between names.
pub(crate) trait Backend: Debug + Send + Sync {
    /// Makes the run's folder, which must not be there, and those above it.
    fn claim(&self, folder: &str) -> Result<()>;

    /// A new file below a claimed folder. It is there once it is finished, whole.
    fn upload(&self, path: &str) -> Result<Box<dyn Upload + '_>>;

    /// Waits until all finished uploads of a run would survive a power cut.
    fn settle(&self, folder: &str) -> Result<()>;

    /// Makes the commit record, atomically and only where none is, then waits until run and record would survive a
    /// power cut.
    fn publish(&self, path: &str, content: &[u8]) -> Result<()>;

    /// Makes a small file atomically, only where none is.
    fn put_new(&self, path: &str, content: &[u8]) -> Result<()>;

    /// Puts the result of `change` in the place of a file, unless somebody else changes it meanwhile.
    fn update(&self, path: &str, change: Change<'_>) -> Result<()>;

    /// Opens a file.
    fn open(&self, path: &str) -> Result<Arc<dyn Source>>;

    /// What stands in a folder, sorted by name.
    fn list(&self, folder: &str) -> Result<Vec<Entry>>;

    /// What stands at a path.
    fn entry(&self, path: &str) -> Result<Entry>;

    /// Moves a folder to where nothing is; folders above are made.
    fn move_folder(&self, from: &str, to: &str) -> Result<()>;

    /// Makes a run invisible, so that a power cut does not bring it back, then deletes it.
    fn retire(&self, folder: &str) -> Result<()>;

    /// Deletes a folder and all in it.
    fn delete_folder(&self, folder: &str) -> Result<()>;

    /// Deletes a file.
    fn delete_file(&self, path: &str) -> Result<()>;

    /// A number above all that were given out, and not below `least`.
    fn tick(&self, least: u64) -> Result<u64>;

    /// The same place with another promise.
    fn with_durability(&self, durability: Durability) -> Arc<dyn Backend>;

    /// The promise.
    fn durability(&self) -> Durability;

    /// Where this is on the machine, if it is.
    fn local_path(&self) -> Option<&Path>;
}

/// A file on its way.
pub(crate) trait Upload: Write {
    /// Makes it visible under its name.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Folder and last name of a path.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
