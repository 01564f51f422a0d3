//! Runs begun but not committed, for listings.

use super::{OPEN_BEGINS, Opened};
use crate::error::{ErrorKind, Result};
use crate::read;
use crate::store::{Problem, Store};

/// A run begun but not committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// The name under which it was begun.
    pub name: String,
    /// Its future path, below the store.
    pub path: String,
    /// When it was begun, in the format of records.
    pub begun: String,
    /// Units written.
    pub written: usize,
    /// Units of its plan.
    pub units: usize,
}

impl Store {
    /// The unfinished runs of one experiment, or of all, sorted by path. A plan that can't be read is a problem.
    ///
    /// # Errors
    /// If the store can't be listed, or the name is bad.
    pub fn unfinished(&self, experiment: Option<&str>) -> Result<(Vec<Unfinished>, Vec<Problem>)> {
        let mut problems = Vec::new();
        let mut found = Vec::new();
        // A scan of the runs reports folders that can't be read.
        for folder in self.model_folders(experiment, &mut Vec::new())? {
            let Ok(entries) = self.backend().list(&folder) else { continue };
            for entry in entries.iter().filter(|entry| entry.name.starts_with(OPEN_BEGINS)) {
                let file = format!("{folder}/{}", entry.name);
                match self.unfinished_at(&folder, &file) {
                    Ok(run) => found.extend(run),
                    // Committed at this moment.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => problems.push(Problem { hides_a_run: false, ..Problem::new(file, error) }),
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((found, problems))
    }

    /// The run of a plan; `None` if the record exists already.
    fn unfinished_at(&self, folder: &str, file: &str) -> Result<Option<Unfinished>> {
        let opened = Opened::parse(&read::whole(&*self.backend().open(file)?, file)?)?;
        let path = format!("{folder}/{}", opened.folder());
        if self.record(&path)?.is_some() {
            return Ok(None);
        }
        let units = opened.plan().n_units();
        let receipts = match self.backend().list(&format!("{path}/parts")) {
            Ok(receipts) => receipts,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        // A torn receipt counts here: this listing is for people, and resuming does not rely on it.
        let number = |name: &str| name.strip_suffix(".json")?.parse::<usize>().ok();
        let written =
            receipts.iter().filter(|entry| number(&entry.name).is_some_and(|unit| unit < units)).count();
        let (name, begun) = (opened.name().to_owned(), opened.save_time().to_owned());
        Ok(Some(Unfinished { name, path, begun, written, units }))
    }
}
