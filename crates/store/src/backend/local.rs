//! The protocol on a file system: folders, renames, and syncs in the right order.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use super::{Backend, Change, Durability, Left, MaybeHeld, Upload, split};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Entry, EntryKind, FileSystem, Hold, NewFile, Source};
use crate::names::{INTERNAL, TEMPORARY, nonce};

/// A store in a folder.
#[derive(Debug, Clone)]
pub(crate) struct Local {
    pub(super) files: Arc<dyn FileSystem>,
    durability: Durability,
}

impl Local {
    pub(crate) fn new(files: Arc<dyn FileSystem>) -> Self {
        Local { files, durability: Durability::Full }
    }

    /// A path's name in errors.
    fn show(&self, path: &str) -> String {
        let root = self.files.local_path().unwrap_or(Path::new("store"));
        root.join(path).display().to_string()
    }

    pub(super) fn failed(&self, action: &'static str, path: &str) -> impl Fn(io::Error) -> Error {
        let path = self.show(path);
        move |e| Error::io(action, &path, e)
    }

    pub(super) fn sync_dir(&self, folder: &str) -> Result<()> {
        match self.durability {
            Durability::Full => self.files.sync_dir(folder).map_err(self.failed("sync the folder", folder)),
            Durability::Fast => Ok(()),
        }
    }

    /// Creates a folder and its missing parents. What exists must be a folder, not a link to one.
    pub(super) fn make_folders(&self, folder: &str) -> Result<()> {
        if folder.is_empty() {
            return Ok(());
        }
        match self.files.create_dir(folder) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.make_folders(split(folder).0)?;
                self.files.create_dir(folder).or_else(|e| match e.kind() {
                    io::ErrorKind::AlreadyExists => Ok(()),
                    _ => Err(self.failed("make the folder", folder)(e)),
                })
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.is_folder(folder),
            Err(e) => Err(self.failed("make the folder", folder)(e)),
        }
    }

    /// Creates the folder of a file. Only a claim creates a run's own folder: a run that is moved away while it is
    /// being filled must not come back with half of its files.
    fn make_way(&self, folder: &str) -> Result<()> {
        const OF_A_RUN: usize = 2;
        match folder.matches('/').count() {
            ..OF_A_RUN => self.make_folders(folder),
            OF_A_RUN => self.is_claimed(folder),
            _ => {
                self.is_claimed(split(folder).0)?;
                self.files.create_dir(folder).or_else(|e| match e.kind() {
                    io::ErrorKind::AlreadyExists => self.is_folder(folder),
                    _ => Err(self.failed("make the folder", folder)(e)),
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

    pub(super) fn is_folder(&self, folder: &str) -> Result<()> {
        match self.entry(folder)?.kind {
            EntryKind::Folder => Ok(()),
            EntryKind::Link => Err(Error::link(self.show(folder))),
            _ => Err(Error::damaged(format!("{}: is not a folder", self.show(folder)))),
        }
    }

    pub(super) fn rename_folder(&self, from: &str, to: &str) -> Result<()> {
        // A link would be moved itself, which no call refuses.
        self.is_folder(from)?;
        self.make_folders(split(to).0)?;
        self.files.rename_new(from, to).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => {
                Error::new(ErrorKind::Exists, format!("{}: is there already", self.show(to)))
            }
            _ => self.failed("move", from)(e),
        })
    }

    /// Syncs every folder from `folder` up to the store.
    fn sync_upwards(&self, folder: &str) -> Result<()> {
        self.sync_dir(folder)?;
        if folder.is_empty() { Ok(()) } else { self.sync_upwards(split(folder).0) }
    }

    /// A whole file under a name that no reader looks for, held until it is renamed.
    fn temporary(&self, folder: &str, content: &[u8]) -> Result<(String, Box<dyn NewFile>)> {
        let temporary = join(folder, &format!("{TEMPORARY}{}", nonce()));
        let fill = || -> io::Result<Box<dyn NewFile>> {
            let mut file = self.files.create_file(&temporary)?;
            file.write_all(content)?;
            if self.durability == Durability::Full {
                file.sync()?;
            }
            Ok(file)
        };
        match fill() {
            Ok(file) => Ok((temporary, file)),
            Err(e) => {
                self.discard(&temporary);
                Err(self.failed("write", folder)(e))
            }
        }
    }

    /// Cleans up after an error, which is what the caller reports; `gc` finds what stays.
    pub(super) fn discard(&self, path: &str) {
        let _ = self.files.remove_file(path);
    }

    /// Gives a temporary file its name. Before the file was held, `gc` may have taken it for a leftover; then another
    /// is made.
    fn put(
        &self,
        folder: &str,
        content: &[u8],
        name: impl Fn(&str) -> io::Result<()>,
        failed: impl Fn(io::Error) -> Error,
    ) -> Result<()> {
        loop {
            let (temporary, _held) = self.temporary(folder, content)?;
            match name(&temporary) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && self.is_gone(&temporary) => {}
                named => {
                    return named.map_err(|e| {
                        self.discard(&temporary);
                        failed(e)
                    });
                }
            }
        }
    }

    fn put_new_from(&self, folder: &str, path: &str, content: &[u8]) -> Result<()> {
        let name = |temporary: &str| self.files.rename_new(temporary, path);
        self.put(folder, content, name, self.failed("make", path))
    }

    fn is_gone(&self, path: &str) -> bool {
        self.files.entry(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    }
}

impl Backend for Local {
    fn claim(&self, folder: &str) -> Result<()> {
        self.make_folders(split(folder).0)?;
        self.files.create_dir(folder).map_err(self.failed("make the folder", folder))
    }

    fn upload(&self, path: &str) -> Result<Box<dyn Upload + '_>> {
        let (folder, _) = split(path);
        self.make_way(folder)?;
        let temporary = join(folder, &format!("{TEMPORARY}{}", nonce()));
        let file = self.files.create_file(&temporary).map_err(self.failed("make", &temporary))?;
        Ok(Box::new(LocalUpload { local: self, path: path.to_owned(), temporary, file: Some(file) }))
    }

    fn settle(&self, folder: &str) -> Result<()> {
        for entry in self.list(folder)? {
            if entry.kind == EntryKind::Folder {
                // A file that another process has removed has nothing to lose.
                let gone = |e: &Error| e.kind() == ErrorKind::NotFound;
                self.sync_dir(&join(folder, &entry.name))
                    .or_else(|e| if gone(&e) { Ok(()) } else { Err(e) })?;
            }
        }
        self.sync_dir(folder)
    }

    fn publish(&self, path: &str, content: &[u8]) -> Result<()> {
        let run = split(path).0;
        // Written next to the run and renamed into it, so that the modification time of the folder of runs shows the
        // commit.
        self.put_new_from(split(run).0, path, content)?;
        self.sync_upwards(run)
    }

    fn put_new(&self, path: &str, content: &[u8]) -> Result<()> {
        let folder = split(path).0;
        self.make_way(folder)?;
        self.put_new_from(folder, path, content)?;
        self.sync_upwards(folder)
    }

    fn update(&self, path: &str, change: Change<'_>) -> Result<()> {
        let run = split(path).0;
        let lock = join(run, ".lock");
        let _held = self.files.lock(&lock).map_err(self.failed("lock", &lock))?;
        let content = change(&crate::read::whole(&*self.open(path)?, &self.show(path))?)?;
        let name = |temporary: &str| self.files.replace(temporary, path);
        self.put(split(run).0, &content, name, self.failed("replace", path))?;
        self.sync_dir(run)
    }

    fn open(&self, path: &str) -> Result<Arc<dyn Source>> {
        self.files.open(path).map_err(self.failed("open", path))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let mut found = self.files.list(folder).map_err(self.failed("list the folder", folder))?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn entry(&self, path: &str) -> Result<Entry> {
        self.files.entry(path).map_err(self.failed("look at", path))
    }

    fn move_folder(&self, from: &str, to: &str) -> Result<()> {
        let (above, below) = (split(from).0, split(to).0);
        self.make_folders(below)?;
        // Sync the way to the new place, then the new place, then the old one: an entry in neither would be lost.
        if above != below {
            self.sync_upwards(split(below).0)?;
        }
        self.rename_folder(from, to)?;
        self.sync_dir(below)?;
        if above == below { Ok(()) } else { self.sync_dir(above) }
    }

    fn retire(&self, folder: &str) -> Result<()> {
        self.throw_away(folder)
    }

    fn sweep(&self, run: &str, is_garbage: &dyn Fn(&str) -> Result<bool>) -> Result<bool> {
        self.sweep_away(run, is_garbage)
    }

    fn empty_trash(&self, delete: bool) -> Result<Vec<Left>> {
        self.trash_emptied(delete)
    }

    fn hold(&self, path: &str, how: Hold) -> Result<MaybeHeld> {
        self.files.hold(path, how).map_err(self.failed("hold", path))
    }

    fn delete_folder(&self, folder: &str) -> Result<()> {
        for entry in self.list(folder)? {
            let path = join(folder, &entry.name);
            let deleted = match entry.kind {
                EntryKind::Folder => self.delete_folder(&path),
                _ => self.delete_file(&path),
            };
            // Another process may delete it too.
            deleted.or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
        }
        self.files.remove_dir(folder).map_err(self.failed("remove the folder", folder))
    }

    fn delete_file(&self, path: &str) -> Result<()> {
        self.files.remove_file(path).map_err(self.failed("remove", path))
    }

    /// The file is held while it is deleted, so that what is deleted is what was read.
    fn delete_if(&self, path: &str, is_meant: &dyn Fn(&[u8]) -> bool) -> Result<()> {
        let Some(_held) = self.hold_alone(path)? else { return Ok(()) };
        let found = crate::read::whole(&*self.open(path)?, &self.show(path))?;
        if is_meant(&found) { self.delete_file(path) } else { Ok(()) }
    }

    fn tick(&self, least: u64) -> Result<u64> {
        let path = format!("{INTERNAL}/clock");
        let mut held = self.files.lock(&path).map_err(self.failed("lock", &path))?;
        let content = held.read().map_err(self.failed("read", &path))?;
        let next = super::next_tick(&content, least)?;
        held.write(super::tick_text(next).as_bytes()).map_err(self.failed("write", &path))?;
        Ok(next)
    }

    fn with_durability(&self, durability: Durability) -> Arc<dyn Backend> {
        Arc::new(Local { files: self.files.clone(), durability })
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    /// Reading a record is mostly waiting for the system and building small values: threads overlap the two, but below
    /// 64 files a thread costs more than it gains.
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
        let failed = |action| self.local.failed(action, &self.path);
        let Some(file) = &mut self.file else { return Ok(()) };
        file.flush().map_err(failed("write"))?;
        if self.local.durability == Durability::Full {
            file.sync().map_err(failed("sync"))?;
        }
        self.local.files.rename_new(&self.temporary, &self.path).map_err(failed("make"))?;
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

pub(super) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}
