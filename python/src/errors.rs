//! Errors of the engine as exceptions of `easyroutine.errors`.

use easyroutine::ErrorKind;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// An error on its way to Python.
pub(crate) enum Failure {
    /// Of the engine.
    Engine(easyroutine::Error),
    /// Raised by Python itself: a signal, a callback.
    Python(PyErr),
}

impl Failure {
    /// Something wrong in what the caller gave.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Failure::Engine(easyroutine::Error::input(message))
    }
}

impl<E: Into<easyroutine::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Engine(error.into())
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> PyErr {
        let error = match failure {
            Failure::Python(error) => return error,
            Failure::Engine(error) => error,
        };
        let raised = Python::attach(|py| {
            let errors = py.import("easyroutine.errors")?;
            let exception =
                errors.call_method1("of_kind", (name(error.kind()), error.to_string(), error.hint_text()))?;
            Ok::<PyErr, PyErr>(PyErr::from_value(exception))
        });
        raised.unwrap_or_else(|_| PyRuntimeError::new_err(error.to_string()))
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
