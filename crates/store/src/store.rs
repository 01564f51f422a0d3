//! A store: the folder of all runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::backend::{self, Backend, Durability, Local};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Entry, EntryKind, FileSystem, OsFiles};
use crate::metadata::{Metadata, VERSION};
use crate::names::{INTERNAL, METADATA, ORIGINALS, check_experiment};
use crate::read;

/// The environment variable that names a store's folder.
pub const BASE_VARIABLE: &str = "ACTIVATION_BASE_DIR";

const MADE: &str = "a store is made by the first run that is saved to it";

/// A collection of runs: `BASE/experiment/model/time/`.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
}

/// A run that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// `experiment/model/time`, below the store.
    pub path: String,
    /// Its record.
    pub metadata: Metadata,
}

/// Something in the store that can't be read, and why. It hides nothing else.
#[derive(Debug)]
pub struct Problem {
    /// Its path, below the store.
    pub path: String,
    /// Why.
    pub error: Error,
    /// Whether it may be a run: while a run can't be read, runs can't be indexed.
    pub hides_a_run: bool,
}

impl Problem {
    /// A problem that may hide a run.
    pub(crate) fn new(path: impl Into<String>, error: Error) -> Self {
        Problem { path: path.into(), error, hides_a_run: true }
    }

    /// A link, which is not followed.
    pub(crate) fn link(path: impl Into<String>) -> Self {
        Problem::new(path, Error::link_here())
    }
}

/// The contents of a store.
#[derive(Debug, Default)]
pub struct Scan {
    /// Runs, in the order of their claims.
    pub runs: Vec<Found>,
    /// What can't be read.
    pub problems: Vec<Problem>,
}

impl Scan {
    /// Sorts by claim.
    pub(crate) fn sort(&mut self) {
        let order = |a: &Found, b: &Found| {
            a.metadata.run_id().cmp(b.metadata.run_id()).then_with(|| a.path.cmp(&b.path))
        };
        self.runs.sort_by(order);
    }
}

/// Whether a query wants a run.
pub(crate) type Wanted<'a> = dyn Fn(&Metadata) -> bool + Sync + 'a;

impl Store {
    /// Opens an existing store: in a folder, or, with the feature `cloud`, at `s3://bucket/prefix`, `gs://…` or
    /// `az://…`.
    ///
    /// # Errors
    /// If there is no such folder or store, the bucket can't be reached, or the store is of a newer version.
    pub fn open(base: impl AsRef<Path>) -> Result<Self> {
        let base = base.as_ref();
        if let Some(url) = backend::url(base) {
            let store = Store::over(backend::connect(url)?)?;
            // A prefix need not exist: without this check a mistyped name would be a store without runs.
            return match store.backend.entry(&format!("{INTERNAL}/store.json")) {
                Ok(_) => Ok(store),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    Err(Error::new(ErrorKind::NotFound, format!("{url}: there is no store")).hint(MADE))
                }
                Err(error) => Err(error),
            };
        }
        let files = OsFiles::open(base).map_err(|e| {
            let error = Error::io("open the store", base.display(), e);
            if error.kind() == ErrorKind::NotFound { error.hint(MADE) } else { error }
        })?;
        Store::on(Arc::new(files))
    }

    /// Opens a store, created if missing; a bucket must exist.
    ///
    /// # Errors
    /// If it can't be created, or is of a newer version.
    pub fn create(base: impl AsRef<Path>) -> Result<Self> {
        let base = base.as_ref();
        if let Some(url) = backend::url(base) {
            let missing = |e: Error| match e.kind() {
                ErrorKind::NotFound => e.hint("the bucket must be there already"),
                _ => e,
            };
            let store = Store::over(backend::connect(url)?)?.made().map_err(missing)?;
            return store.replaces_nothing().map_err(|e| e.at(url)).map(|()| store);
        }
        let files = OsFiles::create(base).map_err(|e| Error::io("make the store", base.display(), e))?;
        Store::on(Arc::new(files))?.made()
    }

    /// A store on any file system.
    ///
    /// # Errors
    /// If the store is of a newer version.
    pub fn on(files: Arc<dyn FileSystem>) -> Result<Self> {
        Store::over(Arc::new(Local::new(files)))
    }

    /// A store on in-memory object storage, for tests of buckets; it ends with the process.
    ///
    /// # Errors
    /// If the system refuses a thread.
    #[cfg(feature = "cloud")]
    pub fn in_memory() -> Result<Self> {
        Store::over(Arc::new(backend::Cloud::in_memory()?))
    }

    pub(crate) fn over(backend: Arc<dyn Backend>) -> Result<Self> {
        let store = Store { backend };
        store.check_version()?;
        Ok(store)
    }

    /// The folder that `ACTIVATION_BASE_DIR` names, in the environment or else in the nearest `.env` file.
    ///
    /// # Errors
    /// If it is not set, or the file can't be read.
    pub fn base_from_env() -> Result<PathBuf> {
        if let Some(base) = std::env::var_os(BASE_VARIABLE).filter(|base| !base.is_empty()) {
            return Ok(base.into());
        }
        let not_found = || {
            Error::new(
                ErrorKind::NotFound,
                format!("the variable {BASE_VARIABLE} is not set, and no .env file sets it"),
            )
            .hint(format!("export {BASE_VARIABLE}=./activations"))
        };
        let lines = match dotenvy::dotenv_iter() {
            Ok(lines) => lines,
            Err(error) if error.not_found() => return Err(not_found()),
            Err(error) => return Err(Error::input(format!(".env: {error}"))),
        };
        for line in lines {
            let (name, value) = line.map_err(|e| Error::input(format!(".env: {e}")))?;
            if name == BASE_VARIABLE && !value.is_empty() {
                return Ok(value.into());
            }
        }
        Err(not_found())
    }

    /// The same store, with another durability for savers.
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> Self {
        Store { backend: self.backend.with_durability(durability) }
    }

    /// Its path on this machine, if it has one.
    pub fn path(&self) -> Option<&Path> {
        self.backend.local_path()
    }

    /// Names of all experiments.
    ///
    /// # Errors
    /// If the store can't be listed.
    pub fn experiments(&self) -> Result<Vec<String>> {
        self.folders("", &mut Vec::new())
    }

    /// Every run of one experiment, or of all, in the order of their claims, and everything that can't be read.
    ///
    /// # Errors
    /// If the store itself can't be listed. A missing experiment has no runs.
    pub fn scan(&self, experiment: Option<&str>) -> Result<Scan> {
        self.scan_for(experiment, &|_| true)
    }

    /// The wanted runs; records of other runs are dropped at once.
    pub(crate) fn scan_for(&self, experiment: Option<&str>, wanted: &Wanted<'_>) -> Result<Scan> {
        let mut scan = Scan::default();
        for folder in self.model_folders(experiment, &mut scan.problems)? {
            self.scan_folder(&folder, wanted, &mut scan);
        }
        scan.sort();
        Ok(scan)
    }

    /// `experiment/model` of each model of an experiment, or of all. Links, and folders that can't be listed, are
    /// problems.
    ///
    /// # Errors
    /// If the store itself can't be listed, or the name is bad.
    pub(crate) fn model_folders(
        &self,
        experiment: Option<&str>,
        problems: &mut Vec<Problem>,
    ) -> Result<Vec<String>> {
        experiment.map_or(Ok(()), check_experiment)?;
        let mut found = Vec::new();
        for above in
            self.folders("", problems)?.into_iter().filter(|e| experiment.is_none_or(|name| name == e))
        {
            match self.folders(&above, problems) {
                Ok(models) => found.extend(models.into_iter().map(|model| format!("{above}/{model}"))),
                Err(error) => problems.push(Problem::new(above, error)),
            }
        }
        // Problems of other experiments were not asked for.
        problems.retain(|problem| experiment.is_none_or(|name| problem.path.split('/').next() == Some(name)));
        Ok(found)
    }

    /// Reads the records of all runs of one model, and keeps the wanted ones.
    fn scan_folder(&self, folder: &str, wanted: &Wanted<'_>, scan: &mut Scan) {
        let entries = match self.backend.list(folder) {
            Ok(entries) => entries,
            Err(error) => return scan.problems.push(Problem::new(folder, error)),
        };
        let entries: Vec<Entry> = entries.into_iter().filter(|entry| !entry.name.starts_with('.')).collect();
        let share = entries.len().div_ceil(self.backend.readers(entries.len())).max(1);
        let read = |entries: &[Entry]| {
            let mut scan = Scan::default();
            entries.iter().for_each(|entry| self.scan_entry(folder, entry, wanted, &mut scan));
            scan
        };
        // This thread reads the first share: a thread costs more than reading one record.
        let parts = std::thread::scope(|scope| {
            let mut shares = entries.chunks(share);
            let first = shares.next();
            let started: Vec<_> = shares.map(|part| scope.spawn(move || read(part))).collect();
            let first = first.map(read);
            first
                .into_iter()
                .chain(started.into_iter().filter_map(|part| part.join().ok()))
                .collect::<Vec<_>>()
        });
        for part in parts {
            scan.runs.extend(part.runs);
            scan.problems.extend(part.problems);
        }
    }

    fn scan_entry(&self, folder: &str, entry: &Entry, wanted: &Wanted<'_>, scan: &mut Scan) {
        let path = format!("{folder}/{}", entry.name);
        match entry.kind {
            EntryKind::Folder => match self.record(&path) {
                Ok(Some(metadata)) if wanted(&metadata) => scan.runs.push(Found { path, metadata }),
                Ok(_) => {}
                Err(error) => scan.problems.push(self.unread(path, error)),
            },
            EntryKind::Link => scan.problems.push(Problem::link(path)),
            // A stray file is not a run, and does no harm.
            EntryKind::File | EntryKind::Other => {}
        }
    }

    /// The record of a run; `None` if it is not committed (yet).
    ///
    /// # Errors
    /// If the record can't be read, or is wrong.
    pub(crate) fn record(&self, path: &str) -> Result<Option<Metadata>> {
        let file = format!("{path}/{METADATA}");
        let source = match self.backend.open(&file) {
            Ok(source) => source,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = Metadata::parse(&read::whole(&*source, METADATA)?).map_err(|e| e.at(METADATA))?;
        let experiment = path.split('/').next().unwrap_or_default();
        Ok(Some(metadata.in_experiment(experiment)))
    }

    /// The problem of a folder whose record can't be read. A folder with the original's tensor file is not a run of
    /// this store; a lone record that is not ours may be a damaged one of ours.
    pub(crate) fn unread(&self, path: String, error: Error) -> Problem {
        let is_originals = error.kind() == ErrorKind::Unsupported
            && self.backend.entry(&format!("{path}/{ORIGINALS}")).is_ok();
        Problem { hides_a_run: !is_originals, ..Problem::new(path, error) }
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Names of folders that are not the store's own. Links are problems.
    fn folders(&self, above: &str, problems: &mut Vec<Problem>) -> Result<Vec<String>> {
        let mut folders = Vec::new();
        for entry in self.backend.list(above)?.into_iter().filter(|entry| !entry.name.starts_with('.')) {
            match entry.kind {
                EntryKind::Folder => folders.push(entry.name),
                EntryKind::Link if above.is_empty() => problems.push(Problem::link(entry.name)),
                EntryKind::Link => problems.push(Problem::link(format!("{above}/{}", entry.name))),
                EntryKind::File | EntryKind::Other => {}
            }
        }
        Ok(folders)
    }

    /// Writes the file that marks this folder as a store.
    pub(crate) fn made(self) -> Result<Self> {
        let path = format!("{INTERNAL}/store.json");
        match self.backend.entry(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            found => return found.map(|_| self),
        }
        let about = json!({"schema": "easyroutine.store", "version": VERSION, "min_reader": VERSION, "id": Uuid::new_v4().to_string()});
        match self.backend.put_new(&path, format!("{about:#}\n").as_bytes()) {
            // Two processes may create the store at once.
            Err(error) if error.kind() != ErrorKind::Exists => Err(error),
            _ => Ok(self),
        }
    }

    /// Refuses storage that ignores the condition of a put: all guarantees depend on it.
    fn replaces_nothing(&self) -> Result<()> {
        let path = format!("{INTERNAL}/conditions");
        let there_is_fine = |e: Error| if e.kind() == ErrorKind::Exists { Ok(()) } else { Err(e) };
        self.backend.put_new(&path, b"kept\n").or_else(there_is_fine)?;
        match self.backend.put_new(&path, b"ignored\n") {
            Err(error) if error.kind() == ErrorKind::Exists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(Error::new(ErrorKind::Unsupported, "replaces objects although it is told not to")
                .hint("the storage must keep to `If-None-Match: *`, as S3 does")),
        }
    }

    fn check_version(&self) -> Result<()> {
        let path = format!("{INTERNAL}/store.json");
        let source = match self.backend.open(&path) {
            Ok(source) => source,
            // A store of the original, or an empty folder.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let text = read::whole(&*source, &path)?;
        let about: Value =
            serde_json::from_slice(&text).map_err(|e| Error::damaged(e.to_string()).at(&path))?;
        match about.get("min_reader").and_then(Value::as_u64) {
            Some(least) if least <= VERSION => Ok(()),
            Some(least) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("{path}: needs a reader of version {least}; this one has {VERSION}"),
            )
            .hint("a newer easyroutine reads it")),
            None => Err(Error::damaged(format!("{path}: `min_reader` is not a number"))),
        }
    }
}
