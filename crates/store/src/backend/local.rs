//! The protocol on a file system: folders, renames, and syncs in the right order.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::{Backend, Change, Durability, Upload, split};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Entry, EntryKind, FileSystem, NewFile, Source};
use crate::names::{INTERNAL, TEMPORARY, nonce};

/// A store in a folder.
#[derive(Debug, Clone)]
pub(crate) struct Local {
    files: Arc<dyn FileSystem>,
    durability: Durability,
}

impl Local {
    pub(crate) fn new(files: Arc<dyn FileSystem>) -> Self {
        Local { files, durability: Durability::Full }
    }

    /// What errors call a path.
    fn show(&self, path: &str) -> String {
        let root = self.files.local_path().unwrap_or(Path::new("store"));
        root.join(path).display().to_string()
    }

    fn said(&self, action: &'static str, path: &str) -> impl Fn(io::Error) -> Error {
        let path = self.show(path);
        move |e| Error::io(action, &path, e)
    }

    fn sync_dir(&self, folder: &str) -> Result<()> {
        match self.durability {
            Durability::Full => self.files.sync_dir(folder).map_err(self.said("sync the folder", folder)),
            Durability::Fast => Ok(()),
        }
    }

    /// Makes a folder and those above it where they are not there; what is there must be a folder, no link to one.
    fn make_folders(&self, folder: &str) -> Result<()> {
        if folder.is_empty() {
            return Ok(());
        }
        match self.files.create_dir(folder) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.make_folders(split(folder).0)?;
                self.files.create_dir(folder).or_else(|e| match e.kind() {
                    io::ErrorKind::AlreadyExists => Ok(()),
                    _ => Err(self.said("make the folder", folder)(e)),
                })
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.is_folder(folder),
            Err(e) => Err(self.said("make the folder", folder)(e)),
        }
    }

    /// Makes the folder of a file. A run's own is made by its claim and by nothing else: one that is moved away while it
    /// is filled must not come back with half of its files.
    fn make_way(&self, folder: &str) -> Result<()> {
        const OF_A_RUN: usize = 2;
        match folder.matches('/').count() {
            ..OF_A_RUN => self.make_folders(folder),
            OF_A_RUN => self.is_claimed(folder),
            _ => {
                self.is_claimed(split(folder).0)?;
                self.files.create_dir(folder).or_else(|e| match e.kind() {
                    io::ErrorKind::AlreadyExists => self.is_folder(folder),
                    _ => Err(self.said("make the folder", folder)(e)),
                })
            }
        }
    }

    fn is_claimed(&self, run: &str) -> Result<()> {
        self.is_folder(run).map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                e.hint("the run was removed, or its experiment renamed, while it was written")
            }
            _ => e,
        })
    }

    fn is_folder(&self, folder: &str) -> Result<()> {
        let found = self.files.entry(folder).map_err(self.said("look at", folder))?;
        match found.kind {
            EntryKind::Folder => Ok(()),
            _ => Err(Error::input(format!("{}: is not a folder; links are not followed", self.show(folder)))),
        }
    }

    /// None of the folders above a path is a link out of the store.
    fn stays_inside(&self, path: &str) -> Result<()> {
        path.match_indices('/').try_for_each(|(end, _)| self.is_folder(&path[..end]))
    }

    fn rename_folder(&self, from: &str, to: &str) -> Result<()> {
        self.stays_inside(from)?;
        self.is_folder(from)?;
        self.make_folders(split(to).0)?;
        self.stays_inside(to)?;
        self.files.rename_new(from, to).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => {
                Error::new(ErrorKind::Exists, format!("{}: is there already", self.show(to)))
            }
            _ => self.said("move", from)(e),
        })
    }

    /// Waits until every folder from `folder` up to the store itself keeps its entries.
    fn sync_upwards(&self, folder: &str) -> Result<()> {
        self.sync_dir(folder)?;
        if folder.is_empty() { Ok(()) } else { self.sync_upwards(split(folder).0) }
    }

    /// A whole file under a name that nobody reads.
    fn temporary(&self, folder: &str, content: &[u8]) -> Result<String> {
        let temporary = join(folder, &format!("{TEMPORARY}{}", nonce()));
        let fill = || -> io::Result<()> {
            let mut file = self.files.create_file(&temporary)?;
            file.write_all(content)?;
            if self.durability == Durability::Full { file.sync() } else { Ok(()) }
        };
        match fill() {
            Ok(()) => Ok(temporary),
            Err(e) => {
                self.discard(&temporary);
                Err(self.said("write", folder)(e))
            }
        }
    }

    /// Tidies up after an error, which is what the caller hears of; `gc` finds what stays.
    fn discard(&self, path: &str) {
        let _ = self.files.remove_file(path);
    }

    fn put(&self, temporary_in: &str, path: &str, content: &[u8]) -> Result<()> {
        let temporary = self.temporary(temporary_in, content)?;
        self.files.rename_new(&temporary, path).map_err(|e| {
            self.discard(&temporary);
            self.said("make", path)(e)
        })
    }
}

impl Backend for Local {
    fn claim(&self, folder: &str) -> Result<()> {
        let above = split(folder).0;
        self.make_folders(above)?;
        self.stays_inside(folder)?;
        self.files.create_dir(folder).map_err(self.said("make the folder", folder))
    }

    fn upload(&self, path: &str) -> Result<Box<dyn Upload + '_>> {
        let (folder, _) = split(path);
        self.make_way(folder)?;
        let temporary = join(folder, &format!("{TEMPORARY}{}", nonce()));
        let file = self.files.create_file(&temporary).map_err(self.said("make", &temporary))?;
        Ok(Box::new(LocalUpload { local: self, path: path.to_owned(), temporary, file: Some(file) }))
    }

    fn settle(&self, folder: &str) -> Result<()> {
        for entry in self.list(folder)? {
            if entry.kind == EntryKind::Folder {
                // One that another process removed meanwhile has nothing to lose.
                let gone = |e: &Error| e.kind() == ErrorKind::NotFound;
                self.sync_dir(&join(folder, &entry.name))
                    .or_else(|e| if gone(&e) { Ok(()) } else { Err(e) })?;
            }
        }
        self.sync_dir(folder)
    }

    fn publish(&self, path: &str, content: &[u8]) -> Result<()> {
        let run = split(path).0;
        // Written beside the run and renamed into it, so that the time of the folder of runs tells of the commit.
        self.put(split(run).0, path, content)?;
        self.sync_upwards(run)
    }

    fn put_new(&self, path: &str, content: &[u8]) -> Result<()> {
        let folder = split(path).0;
        self.make_way(folder)?;
        self.put(folder, path, content)?;
        self.sync_upwards(folder)
    }

    fn update(&self, path: &str, change: Change<'_>) -> Result<()> {
        self.stays_inside(path)?;
        let run = split(path).0;
        let lock = join(run, ".lock");
        let _held = self.files.lock(&lock).map_err(self.said("lock", &lock))?;
        let content = change(&crate::read::whole(&*self.open(path)?, &self.show(path))?)?;
        let temporary = self.temporary(split(run).0, &content)?;
        self.files.replace(&temporary, path).map_err(|e| {
            self.discard(&temporary);
            self.said("replace", path)(e)
        })?;
        self.sync_dir(run)
    }

    fn open(&self, path: &str) -> Result<Arc<dyn Source>> {
        self.files.open(path).map_err(self.said("open", path))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let mut found = self.files.list(folder).map_err(self.said("list the folder", folder))?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn entry(&self, path: &str) -> Result<Entry> {
        self.files.entry(path).map_err(self.said("look at", path))
    }

    fn move_folder(&self, from: &str, to: &str) -> Result<()> {
        let (above, below) = (split(from).0, split(to).0);
        self.make_folders(below)?;
        // The way to the new place first, then the new place, then the old one: what is in neither would be lost.
        if above != below {
            self.sync_upwards(split(below).0)?;
        }
        self.rename_folder(from, to)?;
        self.sync_dir(below)?;
        if above == below { Ok(()) } else { self.sync_dir(above) }
    }

    fn retire(&self, folder: &str) -> Result<()> {
        let trash = format!("{INTERNAL}/trash/{}", Uuid::new_v4());
        self.rename_folder(folder, &format!("{trash}/run"))?;
        self.sync_dir(split(folder).0)?;
        // It is gone, whatever the deletion says: `gc` finishes it.
        let _ = self.delete_folder(&trash);
        Ok(())
    }

    fn delete_folder(&self, folder: &str) -> Result<()> {
        for entry in self.list(folder)? {
            let path = join(folder, &entry.name);
            match entry.kind {
                EntryKind::Folder => self.delete_folder(&path)?,
                _ => self.delete_file(&path)?,
            }
        }
        self.files.remove_dir(folder).map_err(self.said("remove the folder", folder))
    }

    fn delete_file(&self, path: &str) -> Result<()> {
        self.files.remove_file(path).map_err(self.said("remove", path))
    }

    fn tick(&self, least: u64) -> Result<u64> {
        let path = format!("{INTERNAL}/clock");
        let mut held = self.files.lock(&path).map_err(self.said("lock", &path))?;
        let content = held.read().map_err(self.said("read", &path))?;
        let next = super::next_tick(&content, least);
        held.write(super::tick_text(next).as_bytes()).map_err(self.said("write", &path))?;
        Ok(next)
    }

    fn with_durability(&self, durability: Durability) -> Arc<dyn Backend> {
        Arc::new(Local { files: self.files.clone(), durability })
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    /// Reading a record is mostly waiting for the system and making small values: both go side by side, but below 64
    /// files a thread costs more.
    fn readers(&self, files: usize) -> usize {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        files.div_ceil(64).clamp(1, threads)
    }

    fn local_path(&self) -> Option<&Path> {
        self.files.local_path()
    }
}

struct LocalUpload<'a> {
    local: &'a Local,
    path: String,
    temporary: String,
    /// `None` once it is finished.
    file: Option<Box<dyn NewFile>>,
}

impl Write for LocalUpload<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.flush()
    }
}

impl Upload for LocalUpload<'_> {
    fn finish(mut self: Box<Self>) -> Result<()> {
        let said = |action| self.local.said(action, &self.path);
        let Some(file) = &mut self.file else { return Ok(()) };
        file.flush().map_err(said("write"))?;
        if self.local.durability == Durability::Full {
            file.sync().map_err(said("sync"))?;
        }
        self.local.files.rename_new(&self.temporary, &self.path).map_err(said("make"))?;
        self.file = None;
        Ok(())
    }
}

impl Drop for LocalUpload<'_> {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            self.local.discard(&self.temporary);
        }
    }
}

impl fmt::Debug for LocalUpload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "upload of {}", self.path)
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}
