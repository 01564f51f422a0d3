//! Errors of the engine as exceptions of `easyroutine.errors`.

use easyroutine::ErrorKind;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// An error on its way to Python.
pub(crate) enum Failure {
    /// From the engine.
    Engine(easyroutine::Error),
    /// An array that cannot be exchanged with another library, and the remedy.
    Exchange(String, Option<&'static str>),
    /// Raised by Python itself: by a signal or a callback.
    Python(PyErr),
}

impl Failure {
    /// An error in the caller's input.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Failure::Engine(easyroutine::Error::input(message))
    }

    /// An array that cannot be exchanged with another library.
    pub(crate) fn exchange(message: impl Into<String>) -> Self {
        Failure::Exchange(message.into(), None)
    }

    /// Not enough memory.
    pub(crate) fn memory(message: impl Into<String>) -> Self {
        Failure::Engine(easyroutine::Error::new(ErrorKind::Memory, message.into()))
    }

    /// Adds the remedy.
    pub(crate) fn hint(self, hint: &'static str) -> Self {
        match self {
            Failure::Engine(error) => Failure::Engine(error.hint(hint)),
            Failure::Exchange(message, _) => Failure::Exchange(message, Some(hint)),
            Failure::Python(error) => Failure::Python(error),
        }
    }
}

impl<E: Into<easyroutine::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Engine(error.into())
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> PyErr {
        let (kind, message, hint) = match failure {
            Failure::Python(error) => return error,
            Failure::Exchange(message, hint) => ("exchange", message, hint.map(str::to_owned)),
            Failure::Engine(error) => {
                (name(error.kind()), error.to_string(), error.hint_text().map(str::to_owned))
            }
        };
        let raised = Python::attach(|py| {
            let errors = py.import("easyroutine.errors")?;
            let exception = errors.call_method1("of_kind", (kind, &message, hint))?;
            Ok::<PyErr, PyErr>(PyErr::from_value(exception))
        });
        raised.unwrap_or_else(|_| PyRuntimeError::new_err(message))
    }
}

fn name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "not_found",
        ErrorKind::Offline => "offline",
        ErrorKind::Gated => "gated",
        ErrorKind::InvalidReference => "invalid_reference",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Config => "config",
        ErrorKind::Weights => "weights",
        ErrorKind::Format => "format",
        ErrorKind::Tokenizer => "tokenizer",
        ErrorKind::Input => "input",
        ErrorKind::Memory => "memory",
        ErrorKind::Network => "network",
        ErrorKind::Interrupted => "interrupted",
        ErrorKind::Io => "io",
        _ => "other",
    }
}
