//! Symbolic links in a store: they are not followed, and they are reported.

use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Entry, EntryKind};
use crate::names::INTERNAL;
use crate::run::Run;
use crate::store::{Problem, Store};
use crate::verify::Damage;

impl Store {
    /// Links among the store's own files. A scan reports those among experiments, models and runs.
    ///
    /// # Errors
    /// The system's error.
    pub fn links(&self) -> Result<Vec<Problem>> {
        let links = self.links_in(INTERNAL)?.into_iter();
        Ok(links
            .map(|name| Problem { hides_a_run: false, ..Problem::link(format!("{INTERNAL}/{name}")) })
            .collect())
    }

    /// Names of links in a folder; none if the folder is missing.
    fn links_in(&self, folder: &str) -> Result<Vec<String>> {
        let is_link = |entry: &Entry| entry.kind == EntryKind::Link;
        match self.backend().list(folder) {
            Ok(entries) => Ok(entries.into_iter().filter(is_link).map(|entry| entry.name).collect()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl Run {
    /// Links in the folders of a run and its shards.
    pub(crate) fn links(&self) -> Result<Vec<Damage>> {
        let mut found = self.store().links_in(self.path())?;
        if !found.iter().any(|name| name == "data") {
            let shards = self.store().links_in(&format!("{}/data", self.path()))?;
            found.extend(shards.into_iter().map(|name| format!("data/{name}")));
        }
        let what = Error::link_here().to_string();
        Ok(found.into_iter().map(|file| Damage { file, tensor: None, what: what.clone() }).collect())
    }
}
