//! The real file system.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use easyroutine_files::MappedFile;

#[cfg(unix)]
use super::handles::Tree;
#[cfg(not(unix))]
use super::paths::Tree;
use super::{Entry, FileSystem, Held, Hold, Locked, NewFile, Source};
use crate::names::{TEMPORARY, nonce};

/// A folder of the operating system.
#[derive(Debug)]
pub struct OsFiles {
    tree: Tree,
    reading: Reading,
}

/// How files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Mapped from the page cache.
    Mapped,
    /// With read calls: what another machine writes to a mapped file is seen late or never.
    Called,
}

impl OsFiles {
    /// An existing folder. A link may name it, but nothing below it.
    ///
    /// # Errors
    /// If it does not exist, or is not a folder.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let tree = Tree::open(root.into())?;
        let reading = if keeps_mapped_files(&tree) { Reading::Mapped } else { Reading::Called };
        Ok(OsFiles { tree, reading })
    }

    /// A folder, created with its parents if missing.
    ///
    /// # Errors
    /// The system's error.
    pub fn create(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        let mut made = Vec::new();
        let missing =
            root.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        for folder in missing.collect::<Vec<_>>().into_iter().rev() {
            match fs::create_dir(folder) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => made.push(folder.to_owned()),
            }
        }
        for folder in made {
            sync_folder(folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        }
        OsFiles::open(root)
    }

    /// Opens a file to lock, with no other hard link: what is written to it must not reach another file.
    fn open_to_lock(&self, path: &str) -> io::Result<File> {
        loop {
            let file = self.tree.create_or_open(path)?;
            if !file.metadata()?.is_file() {
                return Err(is_no_file());
            }
            uninterrupted(|| file.lock())?;
            match self.tree.names_of(path, &file)? {
                Some(1) => return Ok(file),
                // Perhaps this is a copy of the store made of hard links.
                Some(_) => self.make_own(path, &file)?,
                // Another file took its place.
                None => {}
            }
        }
    }

    /// Replaces a file that has other hard links by a copy.
    fn make_own(&self, path: &str, file: &File) -> io::Result<()> {
        let folder = path.rfind('/').map_or("", |end| &path[..=end]);
        let copy = format!("{folder}{TEMPORARY}{}", nonce());
        let mut own = self.tree.create_file(&copy)?;
        io::copy(&mut file.take(LONGEST_LOCKED), &mut own)?;
        own.sync_all()?;
        self.tree.replace(&copy, path)
    }
}

fn is_no_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "is not a plain file")
}

/// Limit on the contents of a locked file; ours are shorter.
const LONGEST_LOCKED: u64 = 1 << 16;

impl FileSystem for OsFiles {
    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.tree.create_dir(path)
    }

    fn create_file(&self, path: &str) -> io::Result<Box<dyn NewFile>> {
        let file = self.tree.create_file(path)?;
        // No other process knows it yet. Without locks, its age shows whether it is still being written.
        #[cfg(unix)]
        let _ = file.try_lock();
        Ok(Box::new(OsFile(file)))
    }

    #[cfg(unix)]
    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.tree.open_folder(path)?.sync_all()
    }

    /// Windows has no such call: NTFS keeps its own journal.
    #[cfg(not(unix))]
    fn sync_dir(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        self.tree.rename_new(from, to)
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        self.tree.replace(from, to)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.tree.remove_file(path)
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        self.tree.remove_dir(path)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn Source>> {
        let file = self.tree.open_file(path)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(is_no_file());
        }
        let size = about.len();
        Ok(match self.reading {
            // A small file is read once: mapping it costs more than copying it.
            Reading::Mapped if size >= 64 << 10 => {
                let place = self.tree.root().join(path);
                Arc::new(Mapped(MappedFile::from_file(&file, place).map_err(io::Error::other)?))
            }
            _ => Arc::new(Called { file, size }),
        })
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        self.tree.list(path)
    }

    fn entry(&self, path: &str) -> io::Result<Entry> {
        self.tree.entry(path)
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Locked>> {
        Ok(Box::new(OsLocked(self.open_to_lock(path)?)))
    }

    #[cfg(unix)]
    fn hold(&self, path: &str, how: Hold) -> io::Result<Option<Box<dyn Held>>> {
        use std::fs::TryLockError;
        let file = self.tree.open_file(path)?;
        let locked = match how {
            Hold::Together => uninterrupted(|| file.lock_shared()),
            Hold::Alone => match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
                Ok(()) => Ok(()),
            },
        };
        // It may have been moved away while this call waited.
        self.tree.names_of(path, &file)?.ok_or(io::ErrorKind::NotFound)?;
        Ok(Some(match locked {
            Ok(()) => Box::new(file),
            Err(_) => Box::new(()),
        }))
    }

    /// On Windows a lock would keep others from reading.
    #[cfg(not(unix))]
    fn hold(&self, path: &str, _how: Hold) -> io::Result<Option<Box<dyn Held>>> {
        self.tree.entry(path).map(|_| Some(Box::new(()) as Box<dyn Held>))
    }

    fn local_path(&self) -> Option<&Path> {
        Some(self.tree.root())
    }
}

impl Held for File {}

/// A signal that the program survives interrupts the wait for a lock: wait again.
fn uninterrupted(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

struct OsFile(File);

impl Write for OsFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl NewFile for OsFile {
    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

struct OsLocked(File);

impl Locked for OsLocked {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.0.seek(SeekFrom::Start(0))?;
        (&mut self.0).take(LONGEST_LOCKED).read_to_end(&mut content)?;
        Ok(content)
    }

    fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.0.seek(SeekFrom::Start(0))?;
        self.0.write_all(content)?;
        self.0.set_len(content.len() as u64)
    }
}

#[derive(Debug)]
struct Mapped(MappedFile);

impl Source for Mapped {
    fn size(&self) -> u64 {
        self.0.bytes().len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = start.checked_add(out.len()).and_then(|end| self.0.bytes().get(start..end));
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        self.check_unchanged()
    }

    fn mapped(&self) -> Option<&[u8]> {
        Some(self.0.bytes())
    }

    fn check_unchanged(&self) -> io::Result<()> {
        self.0.check_unchanged().map_err(io::Error::other)?;
        // Bytes between the new end and the end of its page read as zeros, without a signal. A file that was removed or
        // moved is still whole in the map.
        let is_cut = fs::symlink_metadata(self.0.path()).is_ok_and(|found| found.len() < self.size());
        if is_cut {
            Err(io::Error::other(format!("{}: was cut short", self.0.path().display())))
        } else {
            Ok(())
        }
    }
}

#[derive(Debug)]
struct Called {
    file: File,
    size: u64,
}

impl Source for Called {
    fn size(&self) -> u64 {
        self.size
    }

    #[cfg(unix)]
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.file, out, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => (out, offset) = (&mut out[read..], offset + read as u64),
            }
        }
        Ok(())
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Windows has no such call: NTFS keeps its own journal.
#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// Whether the folder is on a file system that only this machine changes. Numbers: `statfs(2)`.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn keeps_mapped_files(tree: &Tree) -> bool {
    const LOCAL: &[u64] = &[
        0xEF53,      // ext2, ext3, ext4
        0x5846_5342, // xfs
        0x9123_683E, // btrfs
        0x0102_1994, // tmpfs
        0xF2F5_2010, // f2fs
        0x2FC1_2FC1, // zfs
        0x794C_7630, // overlayfs
    ];
    let Ok(found) = rustix::fs::fstatfs(tree.top()) else { return false };
    LOCAL.contains(&(found.f_type as u64 & 0xFFFF_FFFF))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn keeps_mapped_files(_tree: &Tree) -> bool {
    false
}
