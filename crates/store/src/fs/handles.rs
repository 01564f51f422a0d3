//! A folder by its handle: no name below it is looked up through a link, even one put there between two calls.
//!
//! Linux looks up a whole path in one call that refuses links (`openat2(2)`). Elsewhere, and before Linux 5.6, each
//! folder is opened from the one above it. Changes to a folder then use its handle and a single name.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Entry, EntryKind, is_a_link};

/// A handle used only to look up names does not need permission to list the folder.
#[cfg(any(target_os = "linux", target_os = "android"))]
const TO_NAME: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const TO_NAME: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Non-blocking, because opening a named pipe would wait forever for a writer.
const TO_READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK);

/// Folders and files below a folder.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    top: File,
    /// Whether paths are walked folder by folder, because the system has no call for whole paths.
    walks: AtomicBool,
}

/// The folder in which a name is looked up.
enum Above<'t> {
    Top(&'t File),
    Below(OwnedFd),
}

impl AsFd for Above<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Above::Top(top) => top.as_fd(),
            Above::Below(folder) => folder.as_fd(),
        }
    }
}

impl Tree {
    /// A link may name the root folder: that is the user's choice.
    pub(super) fn open(root: PathBuf) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY.bits().cast_signed();
        let top = OpenOptions::new().read(true).custom_flags(flags).open(&root)?;
        Ok(Tree { root, top, walks: AtomicBool::new(false) })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn top(&self) -> &File {
        &self.top
    }

    pub(super) fn create_dir(&self, path: &str) -> io::Result<()> {
        let (above, name) = self.above(path)?;
        Ok(fs::mkdirat(above, name, Mode::from_bits_truncate(0o777))?)
    }

    /// A new file for writing.
    pub(super) fn create_file(&self, path: &str) -> io::Result<File> {
        // With `EXCL`, an existing link counts as existing.
        self.make(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
    }

    /// A file for reading and writing, created if missing.
    pub(super) fn create_or_open(&self, path: &str) -> io::Result<File> {
        self.make(path, OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK)
    }

    /// A file or folder for reading.
    pub(super) fn open_file(&self, path: &str) -> io::Result<File> {
        Ok(self.look_up(path, TO_READ)?.into())
    }

    pub(super) fn open_folder(&self, path: &str) -> io::Result<File> {
        Ok(self.look_up(path, TO_READ | OFlags::DIRECTORY)?.into())
    }

    pub(super) fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        let ((old, from), (new, to)) = (self.above(from)?, self.above(to)?);
        Ok(fs::renameat(old, from, new, to)?)
    }

    pub(super) fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        let ((old, from), (new, to)) = (self.above(from)?, self.above(to)?);
        #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
        match fs::renameat_with(&old, from, &new, to, fs::RenameFlags::NOREPLACE) {
            // File systems without the flag: NFS, some in user space.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            done => return Ok(done?),
        }
        // A hard link is made only where nothing exists. Folders cannot be hard-linked: another process could create
        // one between the check and the rename, but a rename replaces only an empty folder.
        if FileType::from_raw_mode(stat(&old, from)?.st_mode) == FileType::Directory {
            return match stat(&new, to) {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => Ok(fs::renameat(old, from, new, to)?),
            };
        }
        fs::linkat(&old, from, new, to, AtFlags::empty())?;
        Ok(fs::unlinkat(old, from, AtFlags::empty())?)
    }

    pub(super) fn remove_file(&self, path: &str) -> io::Result<()> {
        let (above, name) = self.above(path)?;
        Ok(fs::unlinkat(above, name, AtFlags::empty())?)
    }

    pub(super) fn remove_dir(&self, path: &str) -> io::Result<()> {
        let (above, name) = self.above(path)?;
        Ok(fs::unlinkat(above, name, AtFlags::REMOVEDIR)?)
    }

    pub(super) fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let folder = self.open_folder(path)?;
        let mut found = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems leave the type out of a listing.
                FileType::Unknown => match fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(about) => FileType::from_raw_mode(about.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                },
                kind => kind,
            };
            // We never write names that are not UTF-8, and they can't be addressed.
            let name = OsStr::from_bytes(name.to_bytes()).to_string_lossy().into_owned();
            found.push(Entry { name, kind: kind_of(kind), size: 0, modified: 0 });
        }
        Ok(found)
    }

    pub(super) fn entry(&self, path: &str) -> io::Result<Entry> {
        let about = match path {
            "" => fs::fstat(&self.top)?,
            path => {
                let (above, name) = self.above(path)?;
                stat(&above, name)?
            }
        };
        #[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
        Ok(Entry {
            name: path.rsplit('/').next().unwrap_or_default().to_owned(),
            kind: kind_of(FileType::from_raw_mode(about.st_mode)),
            size: u64::try_from(about.st_size).unwrap_or(0),
            modified: about.st_mtime as i128 * 1_000_000_000 + about.st_mtime_nsec as i128,
        })
    }

    /// The number of names of an opened file if the path still leads to it, else `None`.
    pub(super) fn names_of(&self, path: &str, file: &File) -> io::Result<Option<u64>> {
        let ours = fs::fstat(file)?;
        let (above, name) = self.above(path)?;
        let there = match stat(&above, name) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_same = (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino);
        #[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
        Ok(is_same.then_some(ours.st_nlink as u64))
    }

    fn make(&self, path: &str, flags: OFlags) -> io::Result<File> {
        let (above, name) = self.above(path)?;
        let mode = Mode::from_bits_truncate(0o666);
        let made = fs::openat(&above, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode);
        made.map(File::from).map_err(|e| self.failed(&above, name, path, e))
    }

    /// The handle of the folder above a path, and the last name.
    fn above<'p>(&self, path: &'p str) -> io::Result<(Above<'_>, &'p str)> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if matches!(name, "" | "." | "..") {
            return Err(no_name());
        }
        let above = if folder.is_empty() {
            Above::Top(&self.top)
        } else {
            Above::Below(self.look_up(folder, TO_NAME)?)
        };
        Ok((above, name))
    }

    /// Opens a path through no link.
    fn look_up(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        if path.split('/').any(|name| name == "..") {
            return Err(no_name());
        }
        let (path, flags) = (if path.is_empty() { "." } else { path }, flags | OFlags::CLOEXEC);
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if !self.walks.load(Ordering::Relaxed) {
            use fs::ResolveFlags;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            match fs::openat2(&self.top, path, flags, Mode::empty(), resolve) {
                // An older system, or a container that blocks the call.
                Err(Errno::NOSYS | Errno::PERM) => self.walks.store(true, Ordering::Relaxed),
                Err(Errno::LOOP) => return self.walk(path, flags),
                found => return Ok(found?),
            }
        }
        self.walk(path, flags)
    }

    /// The same, name by name.
    fn walk(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let mut above = Above::Top(&self.top);
        for (end, _) in path.match_indices('/') {
            above = Above::Below(self.step(&above, &path[..end], TO_NAME)?);
        }
        self.step(&above, path, flags)
    }

    fn step(&self, above: &Above<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let name = path.rsplit('/').next().unwrap_or(path);
        let found = fs::openat(above, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        found.map_err(|e| self.failed(above, name, path, e))
    }

    /// The error for a name that the system does not open: for a link, its errors vary.
    fn failed(&self, above: &Above<'_>, name: &str, path: &str, error: Errno) -> io::Error {
        let is_link =
            || stat(above, name).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Symlink);
        match error {
            Errno::LOOP | Errno::NOTDIR | Errno::MLINK if is_link() => {
                is_a_link(self.root.join(path).display())
            }
            error => error.into(),
        }
    }
}

fn stat(above: &impl AsFd, name: &str) -> io::Result<Stat> {
    Ok(fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn no_name() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "is not a name below a folder")
}

fn kind_of(kind: FileType) -> EntryKind {
    match kind {
        FileType::Directory => EntryKind::Folder,
        FileType::RegularFile => EntryKind::File,
        FileType::Symlink => EntryKind::Link,
        _ => EntryKind::Other,
    }
}

#[cfg(test)]
impl Tree {
    /// The same on a system without `openat2`.
    pub(super) fn walking(root: PathBuf) -> io::Result<Self> {
        let tree = Tree::open(root)?;
        tree.walks.store(true, Ordering::Relaxed);
        Ok(tree)
    }
}

#[cfg(test)]
#[path = "handles_tests.rs"]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests;
