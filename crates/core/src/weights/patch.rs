//! A checkpoint with some of its tensors taken from another.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::checkpoint::{Checkpoint, spellings};

/// Which tensors come from which checkpoint. Nothing is copied: both stay mapped.
#[derive(Debug)]
pub(crate) struct Patch {
    pub(super) base: Arc<Checkpoint>,
    pub(super) other: Arc<Checkpoint>,
    /// By their names in the base: prefix and rest of the names in the other.
    taken: BTreeMap<String, (String, String)>,
}

impl Patch {
    /// The base with these tensors of the other. `prefix` is that of the base model in the other.
    ///
    /// `taken`: names in the base and in the other.
    pub(crate) fn new<'a>(
        base: &Arc<Checkpoint>,
        other: &Arc<Checkpoint>,
        prefix: &str,
        taken: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Patch {
        let divided = |name: &str| match name.strip_prefix(prefix) {
            Some(rest) => (prefix.to_owned(), rest.to_owned()),
            None => (String::new(), name.to_owned()),
        };
        let taken = taken.into_iter().map(|(ours, theirs)| (ours.to_owned(), divided(theirs))).collect();
        Patch { base: Arc::clone(base), other: Arc::clone(other), taken }
    }

    /// The checkpoint that a tensor comes from, and its name there.
    pub(super) fn place<'s: 'n, 'n>(
        &'s self,
        prefix: &'n str,
        name: &'n str,
    ) -> (&'s Checkpoint, &'n str, &'n str) {
        match spellings(prefix, name).iter().find_map(|name| self.taken.get(name)) {
            Some((prefix, name)) => (&self.other, prefix, name),
            None => (&self.base, prefix, name),
        }
    }

    /// The same for a module, which is where its weight is.
    pub(super) fn module<'s: 'n, 'n>(
        &'s self,
        prefix: &'n str,
        module: &'n str,
    ) -> (&'s Checkpoint, &'n str, &'n str) {
        let taken =
            spellings(prefix, module).iter().find_map(|name| self.taken.get(&format!("{name}.weight")));
        match taken.and_then(|(prefix, name)| Some((prefix, name.strip_suffix(".weight")?))) {
            Some((prefix, module)) => (&self.other, prefix, module),
            None => (&self.base, prefix, module),
        }
    }

    /// Both checkpoints.
    pub(super) fn both(&self) -> [&Checkpoint; 2] {
        [&self.base, &self.other]
    }
}
