//! A folder by its path, for systems without folder handles: every name of a path is checked before it is used. A link
//! put there between check and use goes unnoticed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::{Entry, EntryKind, is_a_link};

/// Folders and files below a folder.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// A link may name the root folder: that is the user's choice.
    pub(super) fn open(root: PathBuf) -> io::Result<Self> {
        if !fs::metadata(&root)?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "is not a folder"));
        }
        Ok(Tree { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn create_dir(&self, path: &str) -> io::Result<()> {
        fs::create_dir(self.above(path)?)
    }

    /// A new file for writing.
    pub(super) fn create_file(&self, path: &str) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).open(self.above(path)?)
    }

    /// A file for reading and writing, created if missing.
    pub(super) fn create_or_open(&self, path: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.whole(path)?)
    }

    /// A file for reading.
    pub(super) fn open_file(&self, path: &str) -> io::Result<File> {
        File::open(self.whole(path)?)
    }

    pub(super) fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.whole(from)?, self.above(to)?)
    }

    /// A hard link is made only where nothing exists. Folders cannot be hard-linked: another process could create one
    /// between the check and the rename, but a rename replaces only an empty folder.
    pub(super) fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.whole(from)?, self.above(to)?);
        if fs::symlink_metadata(&from)?.is_dir() {
            return match fs::symlink_metadata(&to) {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => fs::rename(from, to),
            };
        }
        fs::hard_link(&from, to)?;
        fs::remove_file(from)
    }

    pub(super) fn remove_file(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.above(path)?)
    }

    pub(super) fn remove_dir(&self, path: &str) -> io::Result<()> {
        fs::remove_dir(self.whole(path)?)
    }

    pub(super) fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.whole(path)?)? {
            let entry = entry?;
            // We never write names that are not UTF-8, and they can't be addressed.
            let name = entry.file_name().to_string_lossy().into_owned();
            found.push(Entry { name, kind: kind_of(entry.file_type()?), size: 0, modified: 0 });
        }
        Ok(found)
    }

    pub(super) fn entry(&self, path: &str) -> io::Result<Entry> {
        let about = fs::symlink_metadata(self.above(path)?)?;
        let modified = match about.modified()?.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i128,
            Err(before) => -(before.duration().as_nanos() as i128),
        };
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Entry { name, kind: kind_of(about.file_type()), size: about.len(), modified })
    }

    /// The number of names of an opened file, which cannot be determined here.
    pub(super) fn names_of(&self, path: &str, _file: &File) -> io::Result<Option<u64>> {
        match fs::symlink_metadata(self.above(path)?) {
            Ok(_) => Ok(Some(1)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A path on which no folder is a link.
    fn above(&self, path: &str) -> io::Result<PathBuf> {
        path.match_indices('/').try_for_each(|(end, _)| self.is_no_link(&path[..end]))?;
        Ok(if path.is_empty() { self.root.clone() } else { self.root.join(path) })
    }

    /// The same, and the last name is not a link either.
    fn whole(&self, path: &str) -> io::Result<PathBuf> {
        let place = self.above(path)?;
        if !path.is_empty() {
            self.is_no_link(path)?;
        }
        Ok(place)
    }

    fn is_no_link(&self, path: &str) -> io::Result<()> {
        let place = self.root.join(path);
        match fs::symlink_metadata(&place) {
            Ok(about) if about.file_type().is_symlink() => Err(is_a_link(place.display())),
            _ => Ok(()),
        }
    }
}

fn kind_of(kind: fs::FileType) -> EntryKind {
    match kind {
        kind if kind.is_dir() => EntryKind::Folder,
        kind if kind.is_file() => EntryKind::File,
        kind if kind.is_symlink() => EntryKind::Link,
        _ => EntryKind::Other,
    }
}
