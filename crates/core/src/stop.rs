//! Ending long work early.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// When a run ends early. A forward pass asks before each block, an extraction before each batch.
#[derive(Clone, Copy, Default)]
pub enum Stop<'a> {
    /// The run goes on to its end.
    #[default]
    Never,
    /// The run ends once this returns true. It is called often, so it must be quick.
    When(&'a dyn Fn() -> bool),
}

impl Stop<'_> {
    /// Whether the run should end now.
    pub fn is_due(&self) -> bool {
        match self {
            Stop::Never => false,
            Stop::When(is_due) => is_due(),
        }
    }

    /// Fails where the run should end now.
    ///
    /// # Errors
    /// [`Interrupted`](ErrorKind::Interrupted) if the run should end now.
    pub fn check(&self) -> Result<()> {
        match self.is_due() {
            true => Err(Error::new(ErrorKind::Interrupted, "the run was stopped")),
            false => Ok(()),
        }
    }
}

impl fmt::Debug for Stop<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stop::Never => "Never",
            Stop::When(_) => "When",
        })
    }
}
