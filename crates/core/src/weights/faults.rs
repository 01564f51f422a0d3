//! Faults of a model's files.

use std::collections::BTreeSet;

use crate::error::{Error, ErrorKind, Result, list};

/// Faults of the files, collected so that all can be named at once.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) missing: BTreeSet<String>,
    /// Tensors of another shape or type, in words.
    pub(super) unfit: BTreeSet<String>,
}

impl Faults {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.missing.len() + self.unfit.len()
    }

    /// Checks that there are none.
    ///
    /// # Errors
    /// Names all.
    pub(super) fn check(&self) -> Result<()> {
        let missing: Vec<&String> = self.missing.iter().collect();
        let said = match missing.as_slice() {
            [] => None,
            [_] => Some(format!("the weights have no tensor {}", list(&missing))),
            _ => Some(format!("the weights have no tensors {}", list(&missing))),
        };
        const SHOWN: usize = 20;
        let more = self.unfit.len().saturating_sub(SHOWN);
        let more = (more > 0).then(|| format!("{more} more tensors do not fit either"));
        let unfit = self.unfit.iter().take(SHOWN).cloned();
        let all: Vec<String> = said.into_iter().chain(unfit).chain(more).collect();
        if all.is_empty() { Ok(()) } else { Err(Error::new(ErrorKind::Weights, all.join("; "))) }
    }
}

/// Limit on faults: a file with more belongs to another model.
pub(super) const MOST_FAULTS: usize = 1000;
