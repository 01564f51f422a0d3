//! The error of this crate.

use std::fmt;

/// The kind of an error, for programs to react to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The text is not a report that this version reads.
    Report,
    /// An unknown name.
    Name,
    /// The picture would not fit into memory or the format.
    Size,
    /// A picture could not be drawn.
    Draw,
}

/// A picture that could not be made: what, where, and what to do instead.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The kind of this error, for programs to react to.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
