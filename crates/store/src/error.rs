//! The one error type of the crate.

use std::fmt;
use std::io;

use crate::fs::{IS_A_LINK, link_of};

/// What every function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: a kind to branch on, a message that names the thing, and what would do.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<io::Error>,
}

/// Kinds of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such store, experiment, run or tensor.
    NotFound,
    /// A name that fits several runs.
    Ambiguous,
    /// Something of that name is there already; nothing is overwritten.
    Exists,
    /// Somebody else changed the run meanwhile.
    Conflict,
    /// The caller asked for something that cannot be: a bad name, a shape that does not fit, a condition that is wrong.
    Input,
    /// A file is damaged or not what it says.
    Damaged,
    /// Written by a newer version, or of a kind that is not read.
    Unsupported,
    /// The operating system refused to read or write.
    Io,
}

/// What would do where a link stands in a store.
const INSTEAD_OF_A_LINK: &str =
    "put what it leads to in its place; only the store's own folder may be named by a link";

impl Error {
    /// A new error.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, message: message.into(), hint: None, source: None }))
    }

    /// Something wrong in what the caller asked for.
    pub fn input(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Input, message)
    }

    /// A file that is not what it says.
    pub fn damaged(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Damaged, message)
    }

    /// What the operating system said while `action` was done to `path`.
    pub(crate) fn io(action: &str, path: impl fmt::Display, source: io::Error) -> Self {
        if let Some(link) = link_of(&source) {
            return Error::damaged(link.to_string()).hint(INSTEAD_OF_A_LINK);
        }
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => ErrorKind::Exists,
            _ => ErrorKind::Io,
        };
        let mut error = Error::new(kind, format!("{path}: cannot {action}: {source}"));
        let hint = match source.kind() {
            io::ErrorKind::StorageFull => Some("the disk is full: make room, then say it again"),
            io::ErrorKind::QuotaExceeded => Some("the quota is used up: make room, then say it again"),
            io::ErrorKind::FileTooLarge => Some("a limit on the size of files stands against it: ulimit -f"),
            _ => None,
        };
        error.0.source = Some(source);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// A link in a store, where nothing is one.
    pub(crate) fn link(path: impl fmt::Display) -> Self {
        Error::damaged(format!("{path} {IS_A_LINK}")).hint(INSTEAD_OF_A_LINK)
    }

    /// The same, of a place that is said elsewhere.
    pub(crate) fn link_here() -> Self {
        Error::damaged(IS_A_LINK).hint(INSTEAD_OF_A_LINK)
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Puts the place in front of the message: `metadata.json: ...`.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.0.message = format!("{place}: {}", self.0.message);
        self
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What the user can do about it, where there is something.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e as &(dyn std::error::Error + 'static))
    }
}
