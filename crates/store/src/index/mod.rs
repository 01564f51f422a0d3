//! An index of the records: a cache in SQLite on this machine's own disk.
//!
//! The folders are the truth. Before each answer the index compares the modification time of every folder of runs,
//! which shows each commit, removal, move and edit, and rereads what has changed. Each hit is confirmed by its own
//! file. A checksum of the whole database reveals damage; any error means: discard it and scan the folders.

mod memory;
mod table;

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, ErrorKind, Result};
use crate::fs::{EntryKind, FileSystem, OsFiles, link_of};
use crate::hash::Sum;
use crate::names::METADATA;
use crate::query::Criteria;
use crate::read;
use crate::store::{Found, Problem, Scan, Store};
use table::{Stamp, Table};

/// A time this close to the present may stand for two changes: file system clocks tick in milliseconds, and clocks of
/// other machines differ by more.
const UNSURE: i128 = 3_000_000_000;

/// The index of one store.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    folder: PathBuf,
    name: String,
}

/// The folder for indexes: `EASYROUTINE_CACHE`, or the user's cache folder.
pub(crate) fn default_folder() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("EASYROUTINE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("easyroutine")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/easyroutine")))?;
    Some(cache.join("index"))
}

impl Index {
    /// The index of a store in a folder; `None` if the store is not on this machine.
    pub(crate) fn of(store: &Store, folder: PathBuf) -> Option<Self> {
        let base = fs::canonicalize(store.path()?).ok()?;
        let name = crate::hash::of(base.as_os_str().as_encoded_bytes());
        Some(Index { folder, name })
    }

    /// Runs that meet the criteria, as [`Store::scan`] finds them.
    ///
    /// # Errors
    /// If the index can't be used; the caller then scans.
    pub(crate) fn find(
        &self,
        store: &Store,
        experiment: Option<&str>,
        criteria: &Criteria<'_>,
    ) -> Result<Scan> {
        fs::create_dir_all(&self.folder).map_err(unusable)?;
        // The folder itself may be named through a link, but SQLite follows none.
        let folder = fs::canonicalize(&self.folder).map_err(unusable)?;
        let files = OsFiles::open(folder).map_err(unusable)?;
        let lock = self.file("lock");
        let locked = files.lock(&lock).or_else(|e| match link_of(&e) {
            // Not ours: remove it, and leave the link's target alone.
            Some(_) => files.remove_file(&lock).and_then(|()| files.lock(&lock)),
            None => Err(e),
        });
        let _alone = locked.map_err(unusable)?;
        let answer = self.find_alone(&files, store, experiment, criteria);
        if answer.is_err() {
            self.forget(&files);
        }
        answer
    }

    fn find_alone(
        &self,
        files: &OsFiles,
        store: &Store,
        experiment: Option<&str>,
        criteria: &Criteria<'_>,
    ) -> Result<Scan> {
        if self.sum(files).ok() != self.kept_sum(files).ok() {
            self.forget(files);
        }
        let folder = files.local_path().unwrap_or(&self.folder);
        let mut table = Table::open(&folder.join(self.file("sqlite")))?;
        let mut scan = Scan::default();
        let folders = store.model_folders(experiment, &mut scan.problems)?;
        let mut changed = table.forget_others(experiment, &folders)?;
        for folder in &folders {
            changed |= refresh(store, folder, &mut table, &mut scan.problems)?;
        }
        for path in table.candidates(experiment, criteria)? {
            // Confirmed by the file itself; a run that has since disappeared is not a hit.
            if let Some(metadata) = memory::record(store, &self.name, &path)?
                && criteria.hold(&metadata)
            {
                scan.runs.push(Found { path, metadata });
            }
        }
        drop(table);
        if changed {
            self.keep_sum(files, &self.sum(files)?).map_err(unusable)?;
        }
        scan.sort();
        Ok(scan)
    }

    /// The checksum of the whole database.
    fn sum(&self, files: &OsFiles) -> Result<String> {
        let source = files.open(&self.file("sqlite")).map_err(unusable)?;
        let mut sum = Sum::default();
        match source.mapped() {
            Some(bytes) => sum.add(bytes),
            None => {
                let mut bytes = vec![0; usize::try_from(source.size()).unwrap_or(0)];
                source.read_at(0, &mut bytes).map_err(unusable)?;
                sum.add(&bytes);
            }
        }
        Ok(sum.finish())
    }

    /// The recorded checksum.
    fn kept_sum(&self, files: &OsFiles) -> Result<String> {
        let file = self.file("sum");
        let text = read::whole(&*files.open(&file).map_err(unusable)?, &file)?;
        String::from_utf8(text).map_err(unusable)
    }

    fn keep_sum(&self, files: &OsFiles, sum: &str) -> io::Result<()> {
        let file = self.file("sum");
        // It may be a link: remove it, and leave its target alone.
        files.remove_file(&file).or_else(|e| match e.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(e),
        })?;
        files.create_file(&file)?.write_all(sum.as_bytes())
    }

    fn forget(&self, files: &OsFiles) {
        for ending in ["sqlite", "sqlite-journal", "sum"] {
            // A file that can't be removed has a checksum that no longer matches.
            let _ = files.remove_file(&self.file(ending));
        }
    }

    fn file(&self, ending: &str) -> String {
        format!("{}.{ending}", self.name)
    }
}

/// Rereads what has changed in a folder of runs; returns whether the table changed.
fn refresh(store: &Store, folder: &str, table: &mut Table, problems: &mut Vec<Problem>) -> Result<bool> {
    let before = now();
    let modified = store.backend().entry(folder)?.modified;
    if table.is_fresh(folder, modified)? {
        return Ok(false);
    }
    let known = table.stamps(folder)?;
    let mut seen = Vec::new();
    let mut sure = before - modified > UNSURE;
    for entry in store.backend().list(folder)?.into_iter().filter(|entry| !entry.name.starts_with('.')) {
        let path = format!("{folder}/{}", entry.name);
        if entry.kind == EntryKind::Link {
            problems.push(Problem::link(path));
            sure = false;
            continue;
        }
        if entry.kind != EntryKind::Folder {
            continue;
        }
        let stamp = match store.backend().entry(&format!("{path}/{METADATA}")) {
            // A time that does not fit counts as unknown.
            Ok(file) => i64::try_from(file.modified)
                .map_or(Stamp::UNKNOWN, |modified| Stamp { size: file.size as i64, modified }),
            // Being written.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let is_settled = stamp != Stamp::UNKNOWN && before - i128::from(stamp.modified) > UNSURE;
        if is_settled && known.get(&path) == Some(&stamp) {
            seen.push(path);
            continue;
        }
        match store.record(&path) {
            Ok(Some(metadata)) => {
                // A stamp that may stand for two contents counts as unknown.
                let stamp = if is_settled { stamp } else { Stamp::UNKNOWN };
                table.put(&path, folder, stamp, &metadata)?;
                seen.push(path);
            }
            Ok(None) => {}
            Err(error) => {
                problems.push(store.unread(path, error));
                sure = false;
            }
        }
    }
    table.keep(folder, &seen)?;
    table.set_folder(folder, if sure { Some(modified) } else { None })?;
    Ok(true)
}

fn now() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i128
}

fn unusable(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Io, format!("the index can't be used: {error}"))
}
