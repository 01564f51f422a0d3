//! Failures as the user sees them: one line, a hint, an exit status.

use std::io::Write;

use easyroutine::{Error, ErrorKind};
// Names from files and prompts may contain anything, so text for a terminal is made printable.
pub(crate) use easyroutine_view::one_line;

use easyroutine_app::filling;

/// The exit status for success.
pub(crate) const SUCCESS: u8 = 0;

/// The exit status for failure.
pub(crate) const FAILED: u8 = 1;

/// The meaning of each exit status.
pub(crate) const EXIT_CODES: &[(u8, &str)] = &[
    (0, "success; also if the reader of a pipe went away"),
    (1, "failure: a damaged file, a full disk, a law that a model breaks"),
    (2, "the command line is wrong: an unknown flag, name, layer or position"),
    (3, "the model was not found, is not in the cache while offline, or is gated"),
    (4, "the model is of a kind that is not supported"),
    (5, "there is not enough memory"),
    (130, "interrupted"),
];

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// An error in the command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure { message: message.into(), hint: None, code: 2 }
    }

    /// Something that failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Failure { message: message.into(), hint: None, code: 1 }
    }

    /// Too little memory.
    pub(crate) fn memory(message: impl Into<String>) -> Self {
        Failure { message: message.into(), hint: None, code: 5 }
    }

    /// The reader of our output went away: there is nothing to report, and it is not our failure.
    pub(crate) fn quiet() -> Self {
        Failure { message: String::new(), hint: None, code: 0 }
    }

    /// The error, on one line.
    pub(crate) fn message(&self) -> String {
        one_line(&self.message)
    }

    /// The hint, if there is one.
    pub(crate) fn hint_text(&self) -> Option<String> {
        self.hint.as_deref().map(one_line)
    }

    /// Its exit status on the command line.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Whether it only means that the reader went away.
    pub(crate) fn is_quiet(&self) -> bool {
        self.code == SUCCESS && self.message.is_empty()
    }

    /// Adds a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Prefixes the message with a place.
    pub(crate) fn at(mut self, place: impl std::fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Prints `error:` and `hint:`, and returns the exit status.
    pub(crate) fn report(&self) -> u8 {
        let mut err = anstream::stderr();
        if !self.message.is_empty() {
            // If standard error is gone too, there is nowhere to report it.
            let _ = writeln!(err, "\u{1b}[1;31merror:\u{1b}[0m {}", one_line(&self.message));
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(err, "\u{1b}[1;36mhint:\u{1b}[0m {}", one_line(hint));
        }
        self.code
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Input | ErrorKind::InvalidReference => 2,
            ErrorKind::NotFound | ErrorKind::Offline | ErrorKind::Gated => 3,
            ErrorKind::Unsupported => 4,
            ErrorKind::Memory => 5,
            ErrorKind::Interrupted => 130,
            _ => 1,
        };
        Failure { message: error.to_string(), hint: error.hint_text().map(str::to_owned), code }
    }
}

impl From<easyroutine_store::Error> for Failure {
    fn from(error: easyroutine_store::Error) -> Self {
        let code = if error.kind() == easyroutine_store::ErrorKind::Input { 2 } else { 1 };
        Failure { message: error.to_string(), hint: error.hint_text().map(str::to_owned), code }
    }
}

impl From<filling::Error> for Failure {
    fn from(error: filling::Error) -> Self {
        match error {
            filling::Error::Engine(error) => error.into(),
            filling::Error::Store(error) => error.into(),
        }
    }
}

impl From<easyroutine_view::Error> for Failure {
    fn from(error: easyroutine_view::Error) -> Self {
        Failure::failed(error.to_string())
    }
}
