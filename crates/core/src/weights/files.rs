//! A model's files, for as long as weights are still to be read there.

use std::sync::{Arc, OnceLock, Weak};

use super::Checkpoint;
use crate::error::{Error, ErrorKind, Result};

/// A model's files, until all its weights are packed. Whatever may read them does it [`Files::during`] a call.
#[derive(Debug, Default)]
pub(crate) struct Files {
    checkpoint: Weak<Checkpoint>,
    /// What became of them while weights were read: what was packed then is not known, and no run may use it.
    spoilt: OnceLock<String>,
}

impl Files {
    pub(crate) fn of(checkpoint: &Arc<Checkpoint>) -> Self {
        Files { checkpoint: Arc::downgrade(checkpoint), spoilt: OnceLock::new() }
    }

    /// Calls what may read weights, and gives its result if the files are afterwards what they were when the model was
    /// loaded.
    ///
    /// # Errors
    /// The file that is not; as the call.
    pub(crate) fn during<T>(&self, read: impl FnOnce() -> Result<T>) -> Result<T> {
        // Held, so that a file whose last weight is packed meanwhile is still looked at.
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
