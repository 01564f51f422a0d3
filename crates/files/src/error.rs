use std::fmt;
use std::path::Path;

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A file that could not be read: where, why, and what to do instead.
///
/// Programs can act on [`Error::kind`]; the text is for people.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    context: Vec<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The kind of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused: no such file, no permission, no memory map.
    Io,
    /// The file contradicts itself: cut short, overlapping, inconsistent.
    Malformed,
    /// The file may be well formed, but this crate does not read its format.
    Unsupported,
    /// Something is missing: a shard, a tensor that the index names.
    Missing,
    /// The caller asked for what the file does not have: a row beyond the last, a value of another type.
    Request,
}

impl Error {
    /// The kind of this failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same error, located within `place`: a file, a tensor, a key.
    #[must_use]
    pub fn within(mut self, place: impl fmt::Display) -> Self {
        self.context.push(place.to_string());
        self
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), context: Vec::new(), source: None }
    }

    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Malformed, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Unsupported, message)
    }

    pub(crate) fn missing(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Missing, message)
    }

    pub(crate) fn request(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Request, message)
    }

    pub(crate) fn io(path: &Path, action: &str, source: std::io::Error) -> Self {
        let message = format!("cannot {action}: {source}");
        Error { source: Some(Box::new(source)), ..Error::new(ErrorKind::Io, message) }.within(path.display())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in self.context.iter().rev() {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}
