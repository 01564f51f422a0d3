//! A model's files, kept open while weights are still to be read from them.

use std::sync::{Arc, OnceLock, Weak};

use super::Checkpoint;
use crate::error::{Error, ErrorKind, Result};

/// A model's files, until all its weights are packed. Anything that may read them does so within [`Files::during`].
#[derive(Debug, Default)]
pub(crate) struct Files {
    checkpoint: Weak<Checkpoint>,
    /// What happened to them while weights were read: what was packed then is uncertain, and no run may use it.
    spoilt: OnceLock<String>,
}

impl Files {
    pub(crate) fn of(checkpoint: &Arc<Checkpoint>) -> Self {
        Files { checkpoint: Arc::downgrade(checkpoint), spoilt: OnceLock::new() }
    }

    /// Calls `read`, which may read weights, and returns its result if the files are still unchanged since the model
    /// was loaded.
    ///
    /// # Errors
    /// If a file has changed (it is named), and the errors of `read`.
    pub(crate) fn during<T>(&self, read: impl FnOnce() -> Result<T>) -> Result<T> {
        // Held, so that a file whose last weight is packed meanwhile is still checked.
        let held = self.checkpoint.upgrade();
        self.check(held.as_deref())?;
        let done = read();
        self.check(held.as_deref())?;
        done
    }

    fn check(&self, held: Option<&Checkpoint>) -> Result<()> {
        if let Some(what) = self.spoilt.get() {
            return Err(Error::new(ErrorKind::Format, what.clone()));
        }
        let Some(Err(error)) = held.map(Checkpoint::check_unchanged) else { return Ok(()) };
        self.spoilt.get_or_init(|| error.to_string());
        Err(error)
    }
}
