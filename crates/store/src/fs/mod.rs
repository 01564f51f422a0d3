//! The few file operations that a store needs, behind a trait, so that tests can replace the operating system: with a
//! model of power cuts, or with failing calls.

#[cfg(unix)]
mod handles;
mod os;
#[cfg(not(unix))]
mod paths;

use std::fmt::{self, Debug, Display};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

pub use os::OsFiles;

/// A folder with everything below it. Paths are relative to it, with `/` between names; the empty path is the folder
/// itself. No link below it is ever followed, in any part of a path: a call that meets one fails with [`is_a_link`],
/// even if the link was put there a moment ago.
pub trait FileSystem: Debug + Send + Sync {
    /// Creates one folder.
    ///
    /// # Errors
    /// `AlreadyExists`, or the system's error.
    fn create_dir(&self, path: &str) -> io::Result<()>;

    /// Creates a new file.
    ///
    /// # Errors
    /// `AlreadyExists`, or the system's error.
    fn create_file(&self, path: &str) -> io::Result<Box<dyn NewFile>>;

    /// Waits until the entries of a folder would survive a power cut.
    ///
    /// # Errors
    /// The system's error. It is final, since there is no telling what was lost.
    fn sync_dir(&self, path: &str) -> io::Result<()>;

    /// Renames a file or folder, replacing nothing.
    ///
    /// # Errors
    /// `AlreadyExists`, or the system's error.
    fn rename_new(&self, from: &str, to: &str) -> io::Result<()>;

    /// Renames a file over another.
    ///
    /// # Errors
    /// The system's error.
    fn replace(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file or a link.
    ///
    /// # Errors
    /// The system's error.
    fn remove_file(&self, path: &str) -> io::Result<()>;

    /// Removes an empty folder.
    ///
    /// # Errors
    /// The system's error.
    fn remove_dir(&self, path: &str) -> io::Result<()>;

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// `NotFound`, a link, or the system's error.
    fn open(&self, path: &str) -> io::Result<Arc<dyn Source>>;

    /// The entries of a folder, in no particular order.
    ///
    /// # Errors
    /// `NotFound`, or the system's error.
    fn list(&self, path: &str) -> io::Result<Vec<Entry>>;

    /// The entry at a path; a link is not followed.
    ///
    /// # Errors
    /// `NotFound`, or the system's error.
    fn entry(&self, path: &str) -> io::Result<Entry>;

    /// Waits until this process alone holds the file, and creates it if missing. A lock ends with its process.
    ///
    /// # Errors
    /// The system's error.
    fn lock(&self, path: &str) -> io::Result<Box<dyn Locked>>;

    /// Holds a file or folder until the result is dropped or the process ends. A shared hold waits for an exclusive one
    /// to end. An exclusive hold does not wait: it returns `None` if others hold the file. On a file system without
    /// locks, every call succeeds.
    ///
    /// # Errors
    /// `NotFound`, also if it disappeared meanwhile; a link, or the system's error.
    fn hold(&self, path: &str, how: Hold) -> io::Result<Option<Box<dyn Held>>>;

    /// The path on this machine, for a local folder.
    fn local_path(&self) -> Option<&Path> {
        None
    }
}

/// How a file or folder is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Shared by many.
    Together,
    /// Exclusive.
    Alone,
}

/// A hold on a file or folder; ends when dropped.
pub trait Held: Debug + Send + Sync {}

/// The hold on a file system without locks.
impl Held for () {}

/// A file being written. It is held exclusively until dropped, if the file system has locks.
pub trait NewFile: Write + Send {
    /// Waits until what was written would survive a power cut.
    ///
    /// # Errors
    /// The system's error. It is final.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file held by this process alone, until dropped.
pub trait Locked {
    /// The whole content.
    ///
    /// # Errors
    /// The system's error.
    fn read(&mut self) -> io::Result<Vec<u8>>;

    /// Replaces the content. Not atomic: after a crash a reader must expect anything.
    ///
    /// # Errors
    /// The system's error.
    fn write(&mut self, content: &[u8]) -> io::Result<()>;
}

/// A file that can be read at any offset.
pub trait Source: Debug + Send + Sync {
    /// Length in bytes.
    fn size(&self) -> u64;

    /// Fills `out` with bytes from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof`, or the system's error.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// The whole file in memory, if it can be mapped. Bytes read from it count only if [`Source::check_unchanged`]
    /// succeeds afterwards.
    fn mapped(&self) -> Option<&[u8]> {
        None
    }

    /// Checks that everything read from the map so far was in the file when it was opened.
    ///
    /// # Errors
    /// If the file was cut short, or its disk failed.
    fn check_unchanged(&self) -> io::Result<()> {
        Ok(())
    }
}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name without its folder.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Length of a file in bytes. [`FileSystem::list`] may leave it 0.
    pub size: u64,
    /// Modification time, in nanoseconds since 1970. [`FileSystem::list`] may leave it 0.
    pub modified: i128,
}

/// The type of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A symbolic link, which is never followed.
    Link,
    /// Anything else, which is never opened.
    Other,
}

/// The error text for a link.
pub(crate) const IS_A_LINK: &str = "is a symbolic link; a store does not follow links";

/// The error for a path that leads through or to a symbolic link.
pub fn is_a_link(place: impl Display) -> io::Error {
    io::Error::other(Link(place.to_string()))
}

/// The link that an error is about, if any.
pub(crate) fn link_of(error: &io::Error) -> Option<&Link> {
    error.get_ref()?.downcast_ref()
}

/// The path of a symbolic link.
#[derive(Debug)]
pub(crate) struct Link(String);

impl Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {IS_A_LINK}", self.0)
    }
}

impl std::error::Error for Link {}
