//! The few operations on files that a store is made of, so that tests can stand in for the operating system: a model
//! of what a power cut leaves, calls that fail.

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
/// itself. No link below it is ever followed, whichever part of a path it is: a call that meets one fails with
/// [`is_a_link`], even if the link was put there a moment ago.
pub trait FileSystem: Debug + Send + Sync {
    /// Makes one folder.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the system says.
    fn create_dir(&self, path: &str) -> io::Result<()>;

    /// Makes a file that was not there.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the system says.
    fn create_file(&self, path: &str) -> io::Result<Box<dyn NewFile>>;

    /// Waits until the entries of a folder would survive a power cut.
    ///
    /// # Errors
    /// What the system says; an error is final, since what was lost can't be told.
    fn sync_dir(&self, path: &str) -> io::Result<()>;

    /// Renames a file or folder, replacing nothing.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the system says.
    fn rename_new(&self, from: &str, to: &str) -> io::Result<()>;

    /// Renames a file over another.
    ///
    /// # Errors
    /// What the system says.
    fn replace(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file or a link.
    ///
    /// # Errors
    /// What the system says.
    fn remove_file(&self, path: &str) -> io::Result<()>;

    /// Removes an empty folder.
    ///
    /// # Errors
    /// What the system says.
    fn remove_dir(&self, path: &str) -> io::Result<()>;

    /// Opens a plain file for reading.
    ///
    /// # Errors
    /// `NotFound`, a link, or what the system says.
    fn open(&self, path: &str) -> io::Result<Arc<dyn Source>>;

    /// What stands in a folder, in no order.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn list(&self, path: &str) -> io::Result<Vec<Entry>>;

    /// What stands at a path; a link is not followed.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn entry(&self, path: &str) -> io::Result<Entry>;

    /// Waits until this process alone holds the file, which is made if it is not there. Whoever dies lets go.
    ///
    /// # Errors
    /// What the system says.
    fn lock(&self, path: &str) -> io::Result<Box<dyn Locked>>;

    /// Takes hold of a file or folder until the answer is dropped or its holder dies. Whoever asks for it together waits
    /// for one who has it alone; whoever asks for it alone does not wait, and gets nothing where others hold it. Where the
    /// file system has no locks, everybody gets what they ask for.
    ///
    /// # Errors
    /// `NotFound`, also where it went away meanwhile; a link, or what the system says.
    fn hold(&self, path: &str, how: Hold) -> io::Result<Option<Box<dyn Held>>>;

    /// Where this is on the machine, if it is.
    fn local_path(&self) -> Option<&Path> {
        None
    }
}

/// How a file or folder is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// By many at a time.
    Together,
    /// By one.
    Alone,
}

/// A file or folder that is held until this is dropped.
pub trait Held: Debug + Send + Sync {}

/// Of a file system without locks.
impl Held for () {}

/// A file that is being written. It is held alone until it is dropped, where the file system has locks.
pub trait NewFile: Write + Send {
    /// Waits until what was written would survive a power cut.
    ///
    /// # Errors
    /// What the system says; an error is final.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that this process alone holds, until it is dropped.
pub trait Locked {
    /// The whole content.
    ///
    /// # Errors
    /// What the system says.
    fn read(&mut self) -> io::Result<Vec<u8>>;

    /// Puts other content in its place. Not atomic: a reader must expect anything after a crash.
    ///
    /// # Errors
    /// What the system says.
    fn write(&mut self, content: &[u8]) -> io::Result<()>;
}

/// A file that is read at any place.
pub trait Source: Debug + Send + Sync {
    /// Length in bytes.
    fn size(&self) -> u64;

    /// Fills `out` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof`, or what the system says.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// The whole file as it lies in memory, where it can be mapped. What is read there counts only if
    /// [`Source::check_unchanged`] finds nothing afterwards.
    fn mapped(&self) -> Option<&[u8]> {
        None
    }

    /// Whether what was read of the map so far is what was in the file when it was opened.
    ///
    /// # Errors
    /// It was cut short, or its disk failed.
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
    /// Length in bytes, of a file. [`FileSystem::list`] may leave it 0.
    pub size: u64,
    /// When it last changed, in nanoseconds since 1970. [`FileSystem::list`] may leave it 0.
    pub modified: i128,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A folder.
    Folder,
    /// A plain file.
    File,
    /// A symbolic link, which is never followed.
    Link,
    /// Something else that is never opened.
    Other,
}

/// What is said of a link.
pub(crate) const IS_A_LINK: &str = "is a symbolic link; a store does not follow links";

/// The error of a path that leads through a symbolic link, or to one.
pub fn is_a_link(place: impl Display) -> io::Error {
    io::Error::other(Link(place.to_string()))
}

/// What the error of a link says, where it is one.
pub(crate) fn link_of(error: &io::Error) -> Option<&Link> {
    error.get_ref()?.downcast_ref()
}

/// A place at which a symbolic link stands.
#[derive(Debug)]
pub(crate) struct Link(String);

impl Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {IS_A_LINK}", self.0)
    }
}

impl std::error::Error for Link {}
