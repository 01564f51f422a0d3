//! The one place that maps files into memory.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
use crate::guard::Guard;
use crate::{Error, OpenFile, Result};

/// A whole file, read-only, as a slice of bytes that the operating system brings in page by page. Clones share the map.
#[derive(Debug, Clone)]
pub struct MappedFile {
    path: PathBuf,
    /// `None` for an empty file, which no system call maps.
    map: Option<Arc<Watched>>,
    /// The open file, of one that [`MappedFile::open`] opened.
    opened: Option<Arc<OpenFile>>,
}

/// A map whose pages may go.
#[derive(Debug)]
struct Watched {
    // Dropped before the map.
    guard: Guard,
    map: Mmap,
}

/// Where the system keeps mapped files from being cut short, or is not known to.
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
    /// The file should not be cut short or changed in place while it is mapped. Model files are written once and replaced by
    /// renaming, which is harmless; whoever reads one asks [`MappedFile::check_unchanged`] afterwards. Bytes that are gone
    /// read as zeros.
    ///
    /// # Errors
    /// If the file cannot be opened or mapped, or is not a plain file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let opened = OpenFile::open(path)?;
        let mapped = MappedFile::from_file(opened.file(), opened.path())?;
        Ok(MappedFile { opened: Some(Arc::new(opened)), ..mapped })
    }

    /// Maps a plain file that is open already, under the same condition as [`MappedFile::open`]; `path` is what errors
    /// call it.
    ///
    /// # Errors
    /// If the file cannot be mapped.
    pub fn from_file(file: &File, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let size = file.metadata().map_err(|e| Error::io(&path, "look at the file", e))?.len();
        let map = match size {
            0 => None,
            _ => {
                // SAFETY: the map is read-only and private to this struct, and is handed out only as `&[u8]` that cannot
                // outlive it. No code of this crate writes to the file; that nobody else changes it in place meanwhile
                // cannot be ensured by any program and is stated as the condition of use above.
                let map = unsafe { Mmap::map(file) }.map_err(|e| Error::io(&path, "map the file", e))?;
                Some(Arc::new(Watched { guard: Guard::new(&map), map }))
            }
        };
        Ok(MappedFile { path, map, opened: None })
    }

    /// Whether what was read so far is what was in the file when it was opened. That it was replaced by another of its name,
    /// or removed, is no change: the map keeps the one that was opened.
    ///
    /// # Errors
    /// It was written to or cut short, its disk failed, or it cannot be looked at. A map of [`MappedFile::from_file`] knows
    /// only whether bytes could not be read.
    pub fn check_unchanged(&self) -> Result<()> {
        self.opened.as_ref().map_or(Ok(()), |file| file.check_unchanged())?;
        if self.map.as_ref().is_some_and(|map| map.guard.is_broken()) {
            let what = "was cut short while it was read, or its disk cannot be read. Check the file, then load it again";
            return Err(Error::malformed(what).within(self.path.display()));
        }
        Ok(())
    }

    /// The file that is mapped, of one that [`MappedFile::open`] opened.
    pub fn opened(&self) -> Option<&Arc<OpenFile>> {
        self.opened.as_ref()
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_ref().map_or(&[], |watched| &watched.map)
    }

    /// Where the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets go of the memory that holds `range` (byte offsets): for parts that have been read for good. Reading them
    /// again is right, only slower. A hint: where the system has no such call, or refuses it, nothing happens.
    pub fn drop_pages(&self, range: Range<usize>) {
        let end = range.end.min(self.bytes().len());
        #[cfg(unix)]
        if let Some(watched) = self.map.as_ref()
            && range.start < end
        {
            // SAFETY: DONTNEED on a read-only map of a file only unmaps pages; the next read brings the same bytes
            // back from the file. No modified page, which would be lost, can be in this map: where anonymous ones were
            // put, they are zeros, and come back as zeros. The range lies within the map.
            let advised = unsafe {
                watched.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    end - range.start,
                )
            };
            // A refusal leaves everything as it was, which is the promise of a hint.
            drop(advised);
        }
        #[cfg(not(unix))]
        let _ = end;
    }
}
