//! Clearing away what crashed writers left behind.
//!
//! Nothing is deleted in place. A writer holds its run's folder, and held runs are skipped. A run that is not held is
//! first moved out of the way and then checked again, since things may have changed meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Entry, EntryKind};
use crate::names::{INTERNAL, METADATA, TEMPORARY};
use crate::store::{Problem, Store};
use crate::stream::{OPEN_BEGINS, Opened};

/// Something cleared away, or that would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// Its path, below the store.
    pub path: String,
    /// What it is.
    pub what: &'static str,
}

/// The result of clearing away garbage.
#[derive(Debug, Default)]
pub struct Swept {
    /// Everything cleared away, or that would be.
    pub garbage: Vec<Garbage>,
    /// Everything left in place because it can't be read or deleted, or is a link.
    pub problems: Vec<Problem>,
}

/// Whether garbage is deleted or only listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// List it.
    Look,
    /// Delete it.
    Delete,
}

impl Store {
    /// Finds unfinished runs and files untouched for `idle`, files that no manifest names, and the contents of the
    /// trash; deletes them with [`Sweep::Delete`]. Committed runs are never touched; nor, in a folder, is any run or
    /// file that a living process is writing.
    ///
    /// # Errors
    /// If the store itself can't be listed. An error at a single path is a problem of the result, and does not stop the
    /// rest.
    pub fn gc(&self, idle: Duration, sweep: Sweep) -> Result<Swept> {
        let mut sweeper =
            Sweeper { store: self, backend: self.backend(), idle, sweep, swept: Swept::default() };
        sweeper.everywhere()?;
        Ok(sweeper.swept)
    }
}

struct Sweeper<'s> {
    store: &'s Store,
    backend: &'s dyn Backend,
    idle: Duration,
    sweep: Sweep,
    swept: Swept,
}

/// The plan of an open run.
struct Planned {
    file: String,
    text: Vec<u8>,
}

impl Sweeper<'_> {
    fn everywhere(&mut self) -> Result<()> {
        match self.backend.empty_trash(self.sweep == Sweep::Delete) {
            Ok(left) => left.into_iter().for_each(|(path, what)| self.found(path, what)),
            Err(error) => self.at(&format!("{INTERNAL}/trash"), Err(error)),
        }
        let unfinished = self.unfinished(INTERNAL);
        self.at(INTERNAL, unfinished);
        for model in self.store.model_folders(None, &mut self.swept.problems)? {
            let swept = self.of_model(&model);
            self.at(&model, swept);
        }
        Ok(())
    }

    /// Records an error at one path and goes on.
    fn at(&mut self, path: &str, done: Result<()>) {
        match done {
            // Another process may clear up too, or move it away.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => self.swept.problems.push(Problem::new(path, error)),
            Ok(()) => {}
        }
    }

    fn found(&mut self, path: impl Into<String>, what: &'static str) {
        self.swept.garbage.push(Garbage { path: path.into(), what });
    }

    fn of_model(&mut self, model: &str) -> Result<()> {
        self.unfinished(model)?;
        let entries = self.backend.list(model)?;
        let mut plans = BTreeMap::new();
        for entry in entries.iter().filter(|entry| entry.name.starts_with(OPEN_BEGINS)) {
            let file = format!("{model}/{}", entry.name);
            let opened = self.plan(&file);
            match opened {
                Ok((run, text)) => drop(plans.insert(format!("{model}/{run}"), Planned { file, text })),
                Err(error) => self.at(&file, Err(error)),
            }
        }
        for entry in entries.iter().filter(|entry| !entry.name.starts_with('.')) {
            let run = format!("{model}/{}", entry.name);
            let swept = match entry.kind {
                EntryKind::Folder => self.of_run(&run, plans.remove(&run)),
                EntryKind::Link => Err(Error::link_here()),
                EntryKind::File | EntryKind::Other => Ok(()),
            };
            self.at(&run, swept);
        }
        for (run, plan) in plans {
            let swept = self.of_no_run(&run, &plan);
            self.at(&plan.file, swept);
        }
        Ok(())
    }

    /// The run folder of a plan, and the plan as stored.
    fn plan(&self, file: &str) -> Result<(String, Vec<u8>)> {
        let text = crate::read::whole(&*self.backend.open(file)?, file)?;
        Ok((Opened::parse(&text)?.folder().to_owned(), text))
    }

    fn of_run(&mut self, run: &str, plan: Option<Planned>) -> Result<()> {
        if self.is_published(run)? { self.published(run, plan) } else { self.unpublished(run, plan) }
    }

    fn is_published(&self, run: &str) -> Result<bool> {
        match self.backend.entry(&format!("{run}/{METADATA}")) {
            Ok(entry) => self.no_link(run, &entry).map(|()| true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn no_link(&self, folder: &str, entry: &Entry) -> Result<()> {
        match entry.kind {
            EntryKind::Link => Err(Error::link(format_args!("{folder}/{}", entry.name))),
            _ => Ok(()),
        }
    }

    /// An uncommitted run. The plan goes first, while the run is held: a process that joins looks for the plan after it
    /// holds the run.
    fn unpublished(&mut self, run: &str, plan: Option<Planned>) -> Result<()> {
        for entry in self.backend.list(run)? {
            self.no_link(run, &entry)?;
        }
        if !self.is_untouched(run) {
            return Ok(());
        }
        let Some(_held) = self.backend.hold_alone(run)? else { return Ok(()) };
        if self.sweep == Sweep::Delete {
            if let Some(plan) = &plan {
                self.backend.delete_if(&plan.file, &|text| text == plan.text)?;
            }
            let is_garbage = |at: &str| Ok(!self.is_published(at)? && self.is_untouched(at));
            let swept = self.backend.sweep(run, &is_garbage);
            if !matches!(swept, Ok(true)) {
                if let Some(plan) = plan.filter(|_| !self.is_published(run).unwrap_or(false)) {
                    // A writer has resumed it.
                    let is_there = |e: Error| if e.kind() == ErrorKind::Exists { Ok(()) } else { Err(e) };
                    self.backend.put_new(&plan.file, &plan.text).or_else(is_there)?;
                }
                return swept.map(|_| ());
            }
        }
        self.found(run, "a run that was never committed");
        if let Some(plan) = plan {
            self.found(plan.file, UNUSED_PLAN);
        }
        Ok(())
    }

    fn published(&mut self, run: &str, plan: Option<Planned>) -> Result<()> {
        if let Some(plan) = plan {
            self.drop_plan(plan)?;
        }
        let (data, parts) = (format!("{run}/data"), format!("{run}/parts"));
        match self.backend.entry(&parts) {
            Ok(entry) => {
                self.no_link(run, &entry)?;
                if self.sweep == Sweep::Delete {
                    self.backend.delete_folder(&parts)?;
                }
                self.found(parts, "receipts of a committed run");
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.unfinished(&data)?;
        // A run that can't be read is left alone, because its files are not known.
        let Ok(opened) = self.store.run(run) else { return Ok(()) };
        for entry in self.backend.list(&data)?.into_iter().filter(|entry| !entry.name.starts_with('.')) {
            let file = format!("data/{}", entry.name);
            let named = opened.manifest().shards.iter().any(|shard| shard.file == file);
            let path = format!("{run}/{file}");
            if !named && entry.kind == EntryKind::File && self.is_idle(&path) {
                self.drop_file(path, "a shard that no manifest names")?;
            }
        }
        Ok(())
    }

    /// The plan of a run whose folder is missing. The folder is created and held, so that no process joins meanwhile.
    fn of_no_run(&mut self, run: &str, plan: &Planned) -> Result<()> {
        if !self.is_idle(&plan.file) {
            return Ok(());
        }
        if self.sweep == Sweep::Delete {
            match self.backend.claim(run) {
                Err(error) if error.kind() == ErrorKind::Exists => return Ok(()),
                claimed => claimed?,
            }
            let Some(_held) = self.backend.hold_alone(run)? else { return Ok(()) };
            self.backend.delete_if(&plan.file, &|text| text == plan.text)?;
            self.backend.delete_folder(run)?;
        }
        self.found(plan.file.clone(), UNUSED_PLAN);
        Ok(())
    }

    fn drop_plan(&mut self, plan: Planned) -> Result<()> {
        if self.sweep == Sweep::Delete {
            self.backend.delete_if(&plan.file, &|text| text == plan.text)?;
        }
        self.found(plan.file, UNUSED_PLAN);
        Ok(())
    }

    fn drop_file(&mut self, path: String, what: &'static str) -> Result<()> {
        if self.sweep == Sweep::Delete {
            match self.backend.delete_file(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                deleted => deleted?,
            }
        }
        self.found(path, what);
        Ok(())
    }

    /// Unfinished files. Their writers hold them.
    fn unfinished(&mut self, folder: &str) -> Result<()> {
        let entries = match self.backend.list(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries.into_iter().filter(|entry| entry.name.starts_with(TEMPORARY)) {
            let path = format!("{folder}/{}", entry.name);
            match entry.kind {
                EntryKind::File if self.is_idle(&path) => {
                    let Some(_held) = self.backend.hold_alone(&path)? else { continue };
                    self.drop_file(path, "an unfinished file")?;
                }
                EntryKind::Link => {
                    self.drop_file(path, "a symbolic link among unfinished files; what it leads to stays")?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the folders of a run have been untouched for a while.
    fn is_untouched(&self, run: &str) -> bool {
        let folders = [run.to_owned(), format!("{run}/data"), format!("{run}/parts")];
        folders.iter().all(|path| self.is_idle(path))
    }

    /// Whether a path has been untouched for a while; a missing path counts as idle.
    fn is_idle(&self, path: &str) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i128;
        // A time in the future comes from another clock.
        let is_old = |entry: Entry| (now - entry.modified).max(0) >= self.idle.as_nanos() as i128;
        self.backend.entry(path).map_or_else(|e| e.kind() == ErrorKind::NotFound, is_old)
    }
}

const UNUSED_PLAN: &str = "the plan of a run that is no longer written";
