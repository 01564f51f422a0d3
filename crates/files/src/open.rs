//! An open file, and its state when it was opened.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::{Error, ErrorKind, Result};

/// A regular file open for reading, with its size and modification time at that moment.
///
/// It stays the same file, whatever its path names later.
#[derive(Debug)]
pub struct OpenFile {
    path: PathBuf,
    file: File,
    stamp: Stamp,
}

/// Changes when a file is written to.
#[derive(Debug, PartialEq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp { bytes: metadata.len(), modified: metadata.modified().ok() }
    }
}

/// Distinguishes one content of one file from any other, according to the file system: every write moves `changed`, and
/// no program can set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    /// Its device.
    pub device: u64,
    /// Its inode number.
    pub inode: u64,
    /// Its length.
    pub bytes: u64,
    /// When its content last changed, in nanoseconds since 1970.
    pub modified: i128,
    /// When its content or its status last changed, in nanoseconds since 1970.
    pub changed: i128,
}

impl OpenFile {
    /// Opens a file. Symbolic links are followed (the Hugging Face cache consists of them).
    ///
    /// # Errors
    /// If it cannot be opened, or is not a regular file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        // Check before opening: opening a named pipe would block forever.
        let found = std::fs::metadata(&path).map_err(|e| Error::io(&path, "open the file", e))?;
        if !found.is_file() {
            return Err(Error::new(ErrorKind::Io, "is not a plain file").within(path.display()));
        }
        let file = File::open(&path).map_err(|e| Error::io(&path, "open the file", e))?;
        let stamp = Stamp::of(&file.metadata().map_err(|e| Error::io(&path, "look at the file", e))?);
        Ok(OpenFile { path, file, stamp })
    }

    /// The path under which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length when it was opened, in bytes.
    pub fn len(&self) -> u64 {
        self.stamp.bytes
    }

    /// Whether it was empty when it was opened.
    pub fn is_empty(&self) -> bool {
        self.stamp.bytes == 0
    }

    /// The file itself.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Fills `out` with bytes from `offset` on.
    ///
    /// # Errors
    /// If the file is too short, or cannot be read.
    #[cfg(unix)]
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, offset)
            .map_err(|e| Error::io(&self.path, "read the file", e))
    }

    /// Fills `out` with bytes from `offset` on.
    ///
    /// # Errors
    /// If the file is too short, or cannot be read.
    #[cfg(windows)]
    pub fn read_at(&self, mut offset: u64, mut out: &mut [u8]) -> Result<()> {
        use std::os::windows::fs::FileExt;
        while !out.is_empty() {
            match self.file.seek_read(out, offset).map_err(|e| Error::io(&self.path, "read the file", e))? {
                0 => {
                    let short = std::io::ErrorKind::UnexpectedEof.into();
                    return Err(Error::io(&self.path, "read the file", short));
                }
                read => (out, offset) = (&mut out[read..], offset + read as u64),
            }
        }
        Ok(())
    }

    /// Checks that the file is unchanged since it was opened. Removing it, or replacing it by another of the same name,
    /// is no change.
    ///
    /// # Errors
    /// If it was written to, or its status cannot be read.
    pub fn check_unchanged(&self) -> Result<()> {
        let now = self.file.metadata().map_err(|e| Error::io(&self.path, "look at the file", e))?;
        if Stamp::of(&now) == self.stamp {
            return Ok(());
        }
        Err(Error::malformed(
            "was written to after it was opened, and what is in it now is not known. Load it again",
        )
        .within(self.path.display()))
    }

    /// The file's present identity; `None` if the file system does not say enough.
    #[cfg(unix)]
    pub fn identity(&self) -> Option<FileIdentity> {
        use std::os::unix::fs::MetadataExt;
        let found = self.file.metadata().ok()?;
        let time =
            |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Some(FileIdentity {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified: time(found.mtime(), found.mtime_nsec()),
            changed: time(found.ctime(), found.ctime_nsec()),
        })
    }

    /// The file's present identity; `None` if the file system does not say enough.
    #[cfg(not(unix))]
    pub fn identity(&self) -> Option<FileIdentity> {
        None
    }
}
