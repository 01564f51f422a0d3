//! Moves and deletes many objects as if they were a folder, in an order in which no run is ever seen in part.

use futures_util::{StreamExt, TryStreamExt};
use object_store::{ObjectStoreExt, PutMode};

use super::{AT_ONCE, CLAIMED, Cloud};
use crate::backend::split;
use crate::error::{Error, ErrorKind, Result};
use crate::names::METADATA;

/// Paths of one or more runs, grouped by their role for readers.
#[derive(Debug, Default)]
struct Objects {
    records: Vec<String>,
    claims: Vec<String>,
    others: Vec<String>,
}

impl Cloud {
    /// Copies shards, then records, then deletes records, then the rest: at each moment every run is whole in one place
    /// or in both.
    pub(super) fn move_objects(&self, from: &str, to: &str) -> Result<()> {
        let found = self.objects_below(from)?;
        // Objects there without a record come from a process that died during a move: overwrite them.
        if !self.objects_below(to).map(|there| there.records.is_empty()).or_else(none_is_fine)? {
            return Err(Error::new(ErrorKind::Exists, format!("{}: is there already", self.show(to))));
        }
        // Claims first: no writer can write into these runs from here on, and what was written before is found below.
        self.delete(found.claims)?;
        let found = self.objects_below(from)?;
        let moved = |path: &String| format!("{to}{}", &path[from.len()..]);
        self.copy(found.others.iter().map(|path| (path.clone(), moved(path))).collect())?;
        for record in &found.records {
            let (content, _) = self.get(record)?;
            self.put(&moved(record), &content, PutMode::Create)?;
        }
        self.delete(found.records)?;
        self.delete(found.others)
    }

    /// Deletes everything below a path, so that it becomes invisible at once.
    pub(super) fn delete_objects(&self, folder: &str) -> Result<()> {
        let found = self.objects_below(folder)?;
        self.delete(found.records)?;
        self.delete(found.claims)?;
        self.delete(found.others)
    }

    fn objects_below(&self, folder: &str) -> Result<Objects> {
        let mut objects = Objects::default();
        let found = self.below(folder)?;
        if found.is_empty() {
            return Err(self.no_folder(folder));
        }
        for object in found {
            let path = self.path(&object.location);
            let list = match split(&path).1 {
                METADATA => &mut objects.records,
                CLAIMED => &mut objects.claims,
                _ => &mut objects.others,
            };
            list.push(path);
        }
        Ok(objects)
    }

    fn copy(&self, pairs: Vec<(String, String)>) -> Result<()> {
        let first = pairs.first().map_or_else(String::new, |(from, _)| from.clone());
        let keys = pairs.iter().map(|(from, to)| Ok((self.key(from)?, self.key(to)?)));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        let objects = self.objects.clone();
        let copied = self.wait(async move {
            let copies = keys.into_iter().map(|(from, to)| {
                let objects = objects.clone();
                async move { objects.copy(&from, &to).await }
            });
            futures_util::stream::iter(copies).buffer_unordered(AT_ONCE).try_collect::<()>().await
        })?;
        copied.map_err(|e| self.failed("copy", &first, e))
    }
}

fn none_is_fine(error: Error) -> Result<bool> {
    if error.kind() == ErrorKind::NotFound { Ok(true) } else { Err(error) }
}
