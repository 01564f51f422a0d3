//! The error type of the crate.

use std::fmt;
use std::io;

use crate::fs::{IS_A_LINK, link_of};

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: a kind to branch on, a message that names the thing, and a hint at what to do.
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
    /// A name that matches several runs.
    Ambiguous,
    /// Something of that name exists; nothing is overwritten.
    Exists,
    /// Another process changed the run meanwhile.
    Conflict,
    /// The request is invalid: a bad name, a shape that does not match, a malformed condition.
    Input,
    /// A file is damaged or inconsistent.
    Damaged,
    /// Written by a newer version, or in an unsupported format.
    Unsupported,
    /// The operating system refused to read or write.
    Io,
}

/// The hint for a link in a store.
const INSTEAD_OF_A_LINK: &str =
    "put what it leads to in its place; only the store's own folder may be named by a link";

impl Error {
    /// A new error.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, message: message.into(), hint: None, source: None }))
    }

    /// An invalid request.
    pub fn input(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Input, message)
    }

    /// A damaged or inconsistent file.
    pub fn damaged(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Damaged, message)
    }

    /// The operating system's error while doing `action` to `path`.
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
            io::ErrorKind::StorageFull => Some("the disk is full: make room, then repeat the command"),
            io::ErrorKind::QuotaExceeded => Some("the quota is used up: make room, then repeat the command"),
            io::ErrorKind::FileTooLarge => Some("a limit on file size prevents it: ulimit -f"),
            _ => None,
        };
        error.0.source = Some(source);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// The error for a link in a store.
    pub(crate) fn link(path: impl fmt::Display) -> Self {
        Error::damaged(format!("{path} {IS_A_LINK}")).hint(INSTEAD_OF_A_LINK)
    }

    /// The same, for a place named elsewhere.
    pub(crate) fn link_here() -> Self {
        Error::damaged(IS_A_LINK).hint(INSTEAD_OF_A_LINK)
    }

    /// Adds a hint at what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Prefixes the message with a place: `metadata.json: ...`.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.0.message = format!("{place}: {}", self.0.message);
        self
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The hint at what the user can do, if there is one.
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
