//! Changing saved runs: tags, user metadata, another experiment, removal.

use serde_json::{Value, json};

use crate::error::{Error, ErrorKind, Result};
use crate::fs::EntryKind;
use crate::metadata::{Metadata, check_tag, check_user_key};
use crate::names::{METADATA, check_experiment, check_run_path};
use crate::store::Store;

/// One change to a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Adds a tag.
    Tag(String),
    /// Removes a tag.
    Untag(String),
    /// Sets a user key.
    Set(String, Value),
    /// Removes a user key.
    Unset(String),
    /// Accepts a record that another program changed: it gets a new checksum.
    Accept,
}

impl Store {
    /// Applies all edits to a run's record, or none, and returns the new record with a new checksum. A record that
    /// another program changed stays marked as such until [`Edit::Accept`]. With `revision`, the edit is refused if the
    /// record has changed since that revision.
    ///
    /// # Errors
    /// If there is no such run, a key is reserved, a tag or key to remove does not exist, or the revision differs.
    pub fn edit(&self, path: &str, edits: &[Edit], revision: Option<u64>) -> Result<Metadata> {
        self.run(path)?;
        let mut changed = None;
        self.backend().update(&format!("{path}/{METADATA}"), &mut |text| {
            let mut metadata = Metadata::parse(text).map_err(|e| e.at(METADATA).at(path))?;
            let found = metadata.revision();
            if let Some(expected) = revision.filter(|expected| *expected != found) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("{path}: is at revision {found}, not {expected}: somebody else changed it"),
                )
                .hint("look at it again, then change it"));
            }
            edits.iter().try_for_each(|edit| apply(&mut metadata, edit).map_err(|e| e.at(path)))?;
            if let Some(store) = metadata.store_mut() {
                store.insert("revision".to_owned(), json!(found + 1));
            }
            let text = metadata.to_bytes();
            changed = Some(metadata);
            Ok(text)
        })?;
        changed.ok_or_else(|| self.no_run(path))
    }

    /// Moves a run to another experiment, and returns its new path.
    ///
    /// # Errors
    /// If there is no such run, the name is bad, or the experiment has a run of that name.
    pub fn move_run(&self, path: &str, experiment: &str) -> Result<String> {
        check_experiment(experiment)?;
        self.run_folder(path)?;
        let (_, below) = path.split_once('/').unwrap_or_default();
        let target = format!("{experiment}/{below}");
        if target == path {
            return Ok(target);
        }
        self.backend().move_folder(path, &target)?;
        Ok(target)
    }

    /// Renames an experiment: one rename of its folder.
    ///
    /// # Errors
    /// If there is no such experiment, the name is bad, or an experiment of that name exists.
    pub fn rename_experiment(&self, from: &str, to: &str) -> Result<()> {
        check_experiment(from)?;
        check_experiment(to)?;
        if !self.experiments()?.iter().any(|name| name == from) {
            return Err(self.no_experiment(from)?);
        }
        if from == to {
            return Ok(());
        }
        self.backend().move_folder(from, to).map_err(|e| match e.kind() {
            ErrorKind::Exists => {
                Error::new(ErrorKind::Exists, format!("there is an experiment `{to}` already"))
                    .hint(format!("move runs into it: easyroutine runs mv RUN {to}"))
            }
            _ => e,
        })
    }

    /// Removes a run: it becomes invisible by one rename, then its files are deleted.
    ///
    /// # Errors
    /// If there is no such run, or the system refuses.
    pub fn remove(&self, path: &str) -> Result<()> {
        self.run_folder(path)?;
        self.backend().retire(path)
    }

    /// The error for a missing experiment.
    pub(crate) fn no_experiment(&self, name: &str) -> Result<Error> {
        if self.backend().entry(name).is_ok_and(|entry| entry.kind == EntryKind::Link) {
            return Ok(Error::link(name));
        }
        let names = self.experiments()?;
        let error = Error::new(ErrorKind::NotFound, format!("there is no experiment `{name}`"));
        Ok(if names.is_empty() {
            error.hint("the store has no runs yet")
        } else {
            error.hint(format!("there are {}", names.join(", ")))
        })
    }

    /// A damaged run can still be moved or removed; only its folder must exist.
    fn run_folder(&self, path: &str) -> Result<()> {
        check_run_path(path)?;
        match self.backend().entry(&format!("{path}/{METADATA}")) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(self.no_run(path)),
            Err(error) => Err(error),
        }
    }
}

fn apply(metadata: &mut Metadata, edit: &Edit) -> Result<()> {
    let tags = |metadata: &Metadata| -> Vec<Value> {
        metadata
            .store()
            .and_then(|store| store.get("tags"))
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let put = |metadata: &mut Metadata, tags: Vec<Value>| {
        if let Some(store) = metadata.store_mut() {
            store.insert("tags".to_owned(), Value::Array(tags));
        }
    };
    match edit {
        Edit::Tag(tag) => {
            check_tag(tag)?;
            if !metadata.tags().contains(&tag.as_str()) {
                let mut all = tags(metadata);
                all.push(json!(tag));
                put(metadata, all);
            }
        }
        Edit::Untag(tag) => {
            if !metadata.tags().contains(&tag.as_str()) {
                return Err(Error::new(ErrorKind::NotFound, format!("it has no tag `{tag}`")));
            }
            let left = tags(metadata).into_iter().filter(|found| found != tag).collect();
            put(metadata, left);
            if metadata.get("tag").and_then(Value::as_str) == Some(tag) {
                metadata.fields_mut().insert("tag".to_owned(), Value::Null);
            }
        }
        Edit::Set(key, value) => {
            check_user_key(key)?;
            metadata.fields_mut().insert(key.clone(), value.clone());
        }
        Edit::Accept => metadata.accept(),
        Edit::Unset(key) => {
            check_user_key(key)?;
            // `shift_remove` keeps the order of the other keys.
            if metadata.fields_mut().shift_remove(key).is_none() {
                return Err(Error::new(ErrorKind::NotFound, format!("it has no key `{key}`")));
            }
        }
    }
    Ok(())
}
