//! The error type of the crate.

use std::fmt;
use std::path::Path;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: a kind to branch on, a message that names the thing, and a hint at what to do.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Kinds of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The model does not exist.
    NotFound,
    /// The model is not cached, and downloading is not allowed.
    Offline,
    /// The model's licence must be accepted on the hub first, or a token is missing.
    Gated,
    /// The reference names neither a path nor a model.
    InvalidReference,
    /// The model is known but not supported.
    Unsupported,
    /// config.json is wrong.
    Config,
    /// Weights are missing, surplus, or of the wrong shape.
    Weights,
    /// A file is damaged or inconsistent.
    Format,
    /// The tokenizer cannot be built or cannot read the text.
    Tokenizer,
    /// The caller requested something that does not exist: a name, a layer, a position.
    Input,
    /// Not enough memory.
    Memory,
    /// Downloading failed.
    Network,
    /// The caller stopped the run.
    Interrupted,
    /// The operating system refused to read or write.
    Io,
}

impl Error {
    /// A new error.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, message: message.into(), hint: None, source: None }))
    }

    /// An invalid request.
    pub fn input(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Input, message)
    }

    /// Adds a hint at what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the error that caused it.
    #[must_use]
    pub fn because(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(source));
        self
    }

    /// Prefixes the message with a place: `model.safetensors: ...`.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.0.message = format!("{place}: {}", self.0.message);
        self
    }

    /// [`Error::at`] a file, unless the message names it already.
    #[must_use]
    pub(crate) fn in_file(self, path: &Path) -> Self {
        let place = path.display().to_string();
        if self.0.message.contains(&place) { self } else { self.at(place) }
    }

    /// Both errors in one, with the kind of the first.
    #[must_use]
    pub(crate) fn and(mut self, other: Error) -> Self {
        let other = *other.0;
        self.0.message = format!("{}; {}", self.0.message, other.message);
        self.0.hint = match (self.0.hint.take(), other.hint) {
            (Some(ours), Some(theirs)) if ours != theirs => Some(format!("{ours}; {theirs}")),
            (ours, theirs) => ours.or(theirs),
        };
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

/// Names for a message, in backquotes; a long list is shortened, and the rest counted.
pub(crate) fn list<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 40;
    let quoted = |name: &S| {
        let name: String = name.as_ref().chars().take(200).flat_map(char::escape_debug).collect();
        format!("`{name}`")
    };
    let mut text = names.iter().take(SHOWN).map(quoted).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as &(dyn std::error::Error + 'static))
    }
}

impl From<easyroutine_files::Error> for Error {
    fn from(error: easyroutine_files::Error) -> Self {
        use easyroutine_files::ErrorKind as Files;
        let kind = match error.kind() {
            Files::Io => ErrorKind::Io,
            Files::Unsupported => ErrorKind::Unsupported,
            Files::Missing => ErrorKind::NotFound,
            Files::Malformed => ErrorKind::Format,
            _ => ErrorKind::Weights,
        };
        Error::new(kind, error.to_string()).because(error)
    }
}

impl From<easyroutine_sites::NameError> for Error {
    fn from(error: easyroutine_sites::NameError) -> Self {
        Error::input(error.to_string())
    }
}
