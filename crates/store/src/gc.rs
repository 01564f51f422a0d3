//! Clearing away what crashed writers left.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{ErrorKind, Result};
use crate::fs::EntryKind;
use crate::names::{INTERNAL, METADATA, TEMPORARY};
use crate::store::Store;
use crate::stream::{OPEN_BEGINS, Opened};

/// What was cleared away, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// Where, below the store.
    pub path: String,
    /// What it is.
    pub what: &'static str,
}

/// Whether garbage is only looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// List it.
    Look,
    /// Delete it.
    Delete,
}

impl Store {
    /// Finds runs that were begun and not touched for `idle`, unfinished files as old, files that no manifest names,
    /// and what is in the trash; deletes it if told to. Committed runs are never touched.
    ///
    /// # Errors
    /// What the system says.
    pub fn gc(&self, idle: Duration, sweep: Sweep) -> Result<Vec<Garbage>> {
        let mut found = Vec::new();
        let trash = format!("{INTERNAL}/trash");
        for name in self.names(&trash)? {
            found.push((
                Garbage { path: format!("{trash}/{name}"), what: "a removed run" },
                EntryKind::Folder,
            ));
        }
        self.unfinished(INTERNAL, idle, &mut found)?;
        for experiment in self.experiments()? {
            for model in self.model_folders(&experiment, &mut Vec::new()) {
                self.unfinished(&model, idle, &mut found)?;
                for name in self.names(&model)?.into_iter().filter(|name| !name.starts_with('.')) {
                    self.of_run(&format!("{model}/{name}"), idle, &mut found)?;
                }
                self.plans(&model, idle, &mut found)?;
            }
        }
        if sweep == Sweep::Delete {
            for (garbage, kind) in &found {
                let deleted = match kind {
                    EntryKind::Folder => self.backend().delete_folder(&garbage.path),
                    _ => self.backend().delete_file(&garbage.path),
                };
                // Another process may clear up too.
                deleted.or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
            }
        }
        Ok(found.into_iter().map(|(garbage, _)| garbage).collect())
    }

    fn of_run(&self, run: &str, idle: Duration, found: &mut Vec<(Garbage, EntryKind)>) -> Result<()> {
        if self.backend().entry(run).is_ok_and(|entry| entry.kind != EntryKind::Folder) {
            return Ok(());
        }
        if self.backend().entry(&format!("{run}/{METADATA}")).is_err() {
            let touched = [run.to_owned(), format!("{run}/data"), format!("{run}/parts")];
            if touched.iter().all(|path| self.is_idle(path, idle)) {
                found.push((
                    Garbage { path: run.to_owned(), what: "a run that was never committed" },
                    EntryKind::Folder,
                ));
            }
            return Ok(());
        }
        self.unfinished(&format!("{run}/data"), idle, found)?;
        if self.backend().entry(&format!("{run}/parts")).is_ok() {
            found.push((
                Garbage { path: format!("{run}/parts"), what: "receipts of a committed run" },
                EntryKind::Folder,
            ));
        }
        // A run that can't be read is left as it is: what belongs to it isn't known.
        let Ok(opened) = self.run(run) else { return Ok(()) };
        for name in self.names(&format!("{run}/data"))? {
            let file = format!("data/{name}");
            let named = opened.manifest().shards.iter().any(|shard| shard.file == file);
            let path = format!("{run}/{file}");
            if !named && !name.starts_with('.') && self.is_idle(&path, idle) {
                found.push((Garbage { path, what: "a shard that no manifest names" }, EntryKind::File));
            }
        }
        Ok(())
    }

    /// Plans whose run is committed or gone.
    fn plans(&self, model: &str, idle: Duration, found: &mut Vec<(Garbage, EntryKind)>) -> Result<()> {
        for name in self.names(model)?.into_iter().filter(|name| name.starts_with(OPEN_BEGINS)) {
            let path = format!("{model}/{name}");
            let text = crate::read::whole(&*self.backend().open(&path)?, &path)?;
            let run = Opened::parse(&text).map(|opened| format!("{model}/{}", opened.folder()));
            let is_swept = |run: &String| found.iter().any(|(garbage, _)| garbage.path == *run);
            let is_done = |run: &String| self.backend().entry(&format!("{run}/{METADATA}")).is_ok();
            let is_gone = |run: &String| self.backend().entry(run).is_err() && self.is_idle(&path, idle);
            if run.is_ok_and(|run| is_done(&run) || is_swept(&run) || is_gone(&run)) {
                found.push((
                    Garbage { path, what: "the plan of a run that is no longer written" },
                    EntryKind::File,
                ));
            }
        }
        Ok(())
    }

    fn unfinished(&self, folder: &str, idle: Duration, found: &mut Vec<(Garbage, EntryKind)>) -> Result<()> {
        for name in self.names(folder)?.into_iter().filter(|name| name.starts_with(TEMPORARY)) {
            let path = format!("{folder}/{name}");
            if self.is_idle(&path, idle) {
                found.push((Garbage { path, what: "an unfinished file" }, EntryKind::File));
            }
        }
        Ok(())
    }

    /// Names in a folder; none where it is not there.
    fn names(&self, folder: &str) -> Result<Vec<String>> {
        match self.backend().list(folder) {
            Ok(entries) => Ok(entries.into_iter().map(|entry| entry.name).collect()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Whether nothing happened at a path for a while; what is not there counts as idle.
    fn is_idle(&self, path: &str, idle: Duration) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i128;
        !self.backend().entry(path).is_ok_and(|entry| now - entry.modified < idle.as_nanos() as i128)
    }
}
