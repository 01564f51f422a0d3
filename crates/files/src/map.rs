//! The only code that maps files into memory.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
use crate::guard::Guard;
use crate::{Error, OpenFile, Result};

/// A whole file, read-only, as a byte slice that the operating system loads page by page. Clones share the map.
#[derive(Debug, Clone)]
pub struct MappedFile {
    path: PathBuf,
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Arc<Watched>>,
    /// The open file, if [`MappedFile::open`] opened it.
    opened: Option<Arc<OpenFile>>,
}

/// A map whose pages may disappear.
#[derive(Debug)]
struct Watched {
    // Dropped before the map.
    guard: Guard,
    map: Mmap,
}

/// For systems that prevent mapped files from being cut short, or where that is unknown.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
#[derive(Debug)]
struct Guard;

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
impl Guard {
    fn new(_: &[u8]) -> Guard {
        Guard
    }

    fn is_broken(&self) -> bool {
        false
    }
}

impl MappedFile {
    /// Maps the file at `path`. Symbolic links are followed (the Hugging Face cache consists of them).
    ///
    /// The file should not be cut short or changed in place while it is mapped. Model files are written once and
    /// replaced by renaming, which is harmless. Call [`MappedFile::check_unchanged`] after reading: bytes that are gone
    /// read as zeros.
    ///
    /// # Errors
    /// If the file cannot be opened or mapped, or is not a regular file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let opened = OpenFile::open(path)?;
        let mapped = MappedFile::from_file(opened.file(), opened.path())?;
        Ok(MappedFile { opened: Some(Arc::new(opened)), ..mapped })
    }

    /// Maps a regular file that is already open, under the same condition as [`MappedFile::open`]. Errors name it
    /// `path`.
    ///
    /// # Errors
    /// If the file cannot be mapped.
    pub fn from_file(file: &File, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let size = file.metadata().map_err(|e| Error::io(&path, "look at the file", e))?.len();
        let map = match size {
            0 => None,
            _ => {
                // SAFETY: the map is read-only and private to this struct, and is handed out only as `&[u8]` that
                // cannot outlive it. This crate never writes to the file. No program can prevent others from changing
                // it in place; that is the condition of use stated above.
                let map = unsafe { Mmap::map(file) }.map_err(|e| Error::io(&path, "map the file", e))?;
                Some(Arc::new(Watched { guard: Guard::new(&map), map }))
            }
        };
        Ok(MappedFile { path, map, opened: None })
    }

    /// Checks that everything read so far was in the file when it was opened. Removing the file, or replacing it by
    /// another of the same name, is no change: the map keeps the opened file.
    ///
    /// # Errors
    /// If the file was written to or cut short, its disk failed, or its status cannot be read. A map from
    /// [`MappedFile::from_file`] only knows whether bytes could not be read.
    pub fn check_unchanged(&self) -> Result<()> {
        self.opened.as_ref().map_or(Ok(()), |file| file.check_unchanged())?;
        if self.map.as_ref().is_some_and(|map| map.guard.is_broken()) {
            let what = "was cut short while it was read, or its disk cannot be read. Check the file, then load it again";
            return Err(Error::malformed(what).within(self.path.display()));
        }
        Ok(())
    }

    /// The mapped file, if [`MappedFile::open`] opened it.
    pub fn opened(&self) -> Option<&Arc<OpenFile>> {
        self.opened.as_ref()
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_ref().map_or(&[], |watched| &watched.map)
    }

    /// The path under which the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Releases the memory that holds `range` (byte offsets), for parts that will not be read again soon. Reading them
    /// again works, only slower. A hint: if the system has no such call, or refuses it, nothing happens.
    pub fn drop_pages(&self, range: Range<usize>) {
        let end = range.end.min(self.bytes().len());
        #[cfg(unix)]
        if let Some(watched) = self.map.as_ref()
            && range.start < end
        {
            // SAFETY: DONTNEED on a read-only map of a file only unmaps pages; the next read brings the same bytes back
            // from the file. The map has no modified pages that could be lost: anonymous pages put into it are zeros,
            // and come back as zeros. The range lies within the map.
            let advised = unsafe {
                watched.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    end - range.start,
                )
            };
            // A refusal changes nothing, as a hint promises.
            drop(advised);
        }
        #[cfg(not(unix))]
        let _ = end;
    }

    /// Says that `range` (byte offsets) will be read soon: the system may bring it in meanwhile. A hint, as
    /// [`MappedFile::drop_pages`].
    pub fn soon(&self, range: Range<usize>) {
        let end = range.end.min(self.bytes().len());
        #[cfg(unix)]
        if let Some(watched) = self.map.as_ref()
            && range.start < end
        {
            drop(watched.map.advise_range(memmap2::Advice::WillNeed, range.start, end - range.start));
        }
        #[cfg(not(unix))]
        let _ = end;
    }
}
