//! The trash of a store in a folder: removed runs, and garbage being cleared away.

use std::io::Write;

use uuid::Uuid;

use super::local::{Local, join};
use super::{Backend, Left, split};
use crate::error::{ErrorKind, Result};
use crate::fs::{Entry, EntryKind, Held};
use crate::names::{INTERNAL, METADATA};

/// The ending of the file that says where something in the trash came from. Only what was taken for garbage has one.
const FROM: &str = ".from";

impl Local {
    /// Moves a run into the trash, so that a power cut does not bring it back, and deletes it.
    pub(super) fn throw_away(&self, run: &str) -> Result<()> {
        let thrown = format!("{}/{}", trash(), Uuid::new_v4());
        self.rename_folder(run, &thrown)?;
        self.sync_dir(split(run).0)?;
        // It is gone, whatever the deletion reports: `gc` finishes it.
        let _ = self.delete_folder(&thrown);
        Ok(())
    }

    /// Moves a run into the trash, where no reader finds it, and checks it there; then it is deleted or put back. Its
    /// origin is written down first, so that if this process dies the next one knows where it belongs.
    pub(super) fn sweep_away(&self, run: &str, is_garbage: &dyn Fn(&str) -> Result<bool>) -> Result<bool> {
        self.is_folder(run)?;
        self.make_folders(&trash())?;
        let moved = format!("{}/{}", trash(), Uuid::new_v4());
        let from = format!("{moved}{FROM}");
        // Held until this returns, so that no other process takes it for a leftover.
        let mut note = self.files.create_file(&from).map_err(self.failed("make", &from))?;
        note.write_all(run.as_bytes()).and_then(|()| note.sync()).map_err(self.failed("write", &from))?;
        let swept = self.sync_dir(&trash()).and_then(|()| self.rename_folder(run, &moved)).and_then(|()| {
            match is_garbage(&moved) {
                Ok(true) => self.delete_folder(&moved).map(|()| true),
                kept => self.put_back(&moved, run).and(kept),
            }
        });
        // A run that could neither be deleted nor put back still needs its note.
        if self.entry(&moved).is_err() {
            self.discard(&from);
        }
        swept
    }

    /// Puts a run back in its place, or next to it if another run is there now.
    fn put_back(&self, moved: &str, run: &str) -> Result<()> {
        let mut place = run.to_owned();
        for number in 2.. {
            match self.rename_folder(moved, &place) {
                Err(error) if error.kind() == ErrorKind::Exists => place = format!("{run}-{number}"),
                done => {
                    done?;
                    break;
                }
            }
        }
        self.sync_dir(split(run).0)?;
        self.sync_dir(&trash())
    }

    /// Deletes what is in the trash, and puts back a run that was committed while it was taken for garbage.
    pub(super) fn trash_emptied(&self, delete: bool) -> Result<Vec<Left>> {
        let entries = match self.list(&trash()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut left = Vec::new();
        for entry in &entries {
            let path = join(&trash(), &entry.name);
            if entry.kind != EntryKind::Folder {
                left.extend(self.loose_emptied(entry, &entries, delete)?);
                continue;
            }
            let from = format!("{path}{FROM}");
            let note = match self.open(&from) {
                Ok(note) => crate::read::whole(&*note, &from)?,
                Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error),
            };
            let run = String::from_utf8(note).unwrap_or_default();
            let belongs = crate::names::check_run_path(&run).is_ok();
            // Another process may be working on it.
            let Some(_held) = self.hold_alone(&path)? else { continue };
            if belongs && self.entry(&join(&path, METADATA)).is_ok() {
                if delete {
                    self.put_back(&path, &run)?;
                    self.discard(&from);
                }
                left.push((path, "a committed run that was taken for garbage: put back"));
                continue;
            }
            if delete {
                self.delete_folder(&path)?;
                self.discard(&from);
            }
            left.push((path, "a removed run"));
        }
        Ok(left)
    }

    /// An entry that is not a folder: a note whose run is gone, a link.
    fn loose_emptied(&self, entry: &Entry, entries: &[Entry], delete: bool) -> Result<Option<Left>> {
        let path = join(&trash(), &entry.name);
        let what = match entry.kind {
            EntryKind::Link => "a symbolic link in the trash; what it leads to stays",
            _ => "a file in the trash",
        };
        let of = entry.name.strip_suffix(FROM);
        let is_needed = of.is_some_and(|of| entries.iter().any(|other| other.name == of));
        let held = match entry.kind {
            EntryKind::File => self.hold_alone(&path)?,
            _ => Some(Box::new(()) as Box<dyn Held>),
        };
        if is_needed || held.is_none() {
            return Ok(None);
        }
        if delete {
            self.delete_file(&path)?;
        }
        Ok(Some((path, what)))
    }
}

fn trash() -> String {
    format!("{INTERNAL}/trash")
}
