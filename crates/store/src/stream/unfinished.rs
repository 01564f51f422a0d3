//! Runs that were begun and are not committed yet: what lists show beside the others.

use super::{OPEN_BEGINS, Opened};
use crate::error::{ErrorKind, Result};
use crate::read;
use crate::store::{Problem, Store};

/// A run that was begun and is not committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// The name it was begun under.
    pub name: String,
    /// Where it will be, below the store.
    pub path: String,
    /// When it was begun, as records say it.
    pub begun: String,
    /// Units that are written.
    pub written: usize,
    /// Units of its plan.
    pub units: usize,
}

impl Store {
    /// The runs of one experiment, or of all, that were begun and are not committed, in the order of their paths. A plan
    /// that can't be read is a problem beside them.
    ///
    /// # Errors
    /// The store can't be listed; a bad name.
    pub fn unfinished(&self, experiment: Option<&str>) -> Result<(Vec<Unfinished>, Vec<Problem>)> {
        let mut problems = Vec::new();
        let mut found = Vec::new();
        // Of folders that can't be read a scan of the runs says so.
        for folder in self.model_folders(experiment, &mut Vec::new())? {
            let Ok(entries) = self.backend().list(&folder) else { continue };
            for entry in entries.iter().filter(|entry| entry.name.starts_with(OPEN_BEGINS)) {
                let file = format!("{folder}/{}", entry.name);
                match self.unfinished_at(&folder, &file) {
                    Ok(run) => found.extend(run),
                    // Committed in this moment.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => problems.push(Problem { hides_a_run: false, ..Problem::new(file, error) }),
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((found, problems))
    }

    /// The run of a plan; nothing, where the record is there already.
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
        // A receipt that turns out to be torn counts here: this is what people look at, not what resuming goes by.
        let number = |name: &str| name.strip_suffix(".json")?.parse::<usize>().ok();
        let written =
            receipts.iter().filter(|entry| number(&entry.name).is_some_and(|unit| unit < units)).count();
        let (name, begun) = (opened.name().to_owned(), opened.save_time().to_owned());
        Ok(Some(Unfinished { name, path, begun, written, units }))
    }
}
