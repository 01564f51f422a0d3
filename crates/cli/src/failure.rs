//! What went wrong, as the user sees it: one line, a hint, an exit status.

use std::io::Write;

use easyroutine::{Error, ErrorKind};
use easyroutine_view::printable;

use easyroutine_app::filling;

/// The exit status where all went well.
pub(crate) const SUCCESS: u8 = 0;

/// The exit status where something did not work.
pub(crate) const FAILED: u8 = 1;

/// What each exit status means.
pub(crate) const EXIT_CODES: &[(u8, &str)] = &[
    (0, "all went well; also where the reader of a pipe went away"),
    (1, "something did not work: a damaged file, a full disk, a law that a model breaks"),
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
    /// Something wrong in what was typed.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure { message: message.into(), hint: None, code: 2 }
    }

    /// Something that did not work.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Failure { message: message.into(), hint: None, code: 1 }
    }

    /// Too little memory.
    pub(crate) fn memory(message: impl Into<String>) -> Self {
        Failure { message: message.into(), hint: None, code: 5 }
    }

    /// The reader of our output went away: nothing to say, and no failure of ours.
    pub(crate) fn quiet() -> Self {
        Failure { message: String::new(), hint: None, code: 0 }
    }

    /// What is wrong, on one line.
    pub(crate) fn message(&self) -> String {
        one_line(&self.message)
    }

    /// What would do.
    pub(crate) fn hint_text(&self) -> Option<String> {
        self.hint.as_deref().map(one_line)
    }

    /// The exit status that it has on the command line.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Whether it says no more than that the reader went away.
    pub(crate) fn is_quiet(&self) -> bool {
        self.code == SUCCESS && self.message.is_empty()
    }

    /// Adds what would do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts the place in front of the message.
    pub(crate) fn at(mut self, place: impl std::fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Prints `error:` and `hint:` and gives the exit status.
    pub(crate) fn report(&self) -> u8 {
        let mut err = anstream::stderr();
        if !self.message.is_empty() {
            // If standard error is gone too there is nobody left to tell.
            let _ = writeln!(err, "\u{1b}[1;31merror:\u{1b}[0m {}", one_line(&self.message));
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(err, "\u{1b}[1;36mhint:\u{1b}[0m {}", one_line(hint));
        }
        self.code
    }
}

/// Names from files and prompts may hold anything: what reaches a terminal is made printable, spaces kept as they are.
pub(crate) fn one_line(text: &str) -> String {
    text.split(' ').map(printable).collect::<Vec<_>>().join(" ")
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
