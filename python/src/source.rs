//! From a reference to files, as the command line finds them.

use easyroutine::source::{self, AdapterChoice, ModelFiles, ProgressCallback, ResolveOptions};
use pyo3::prelude::*;

use crate::errors::Failure;
use crate::interrupt::waiting;

/// The adapter of this reference, or else the one beside the weights, or none.
pub(crate) fn adapter(reference: Option<String>, with_adapter: bool) -> AdapterChoice {
    match (reference, with_adapter) {
        (Some(reference), _) => AdapterChoice::Named(reference),
        (None, true) => AdapterChoice::Beside,
        (None, false) => AdapterChoice::Without,
    }
}

/// Finds a model's files, downloading them where that is allowed; `progress` is called with file, bytes done and bytes
/// in all.
pub(crate) fn find(
    py: Python<'_>,
    reference: &str,
    revision: Option<String>,
    offline: bool,
    adapter: AdapterChoice,
    progress: Option<Py<PyAny>>,
) -> Result<ModelFiles, Failure> {
    let reference = reference.to_owned();
    let options = ResolveOptions {
        revision,
        offline,
        adapter,
        progress: progress.map(told),
        ..ResolveOptions::default()
    };
    waiting(py, move || source::resolve(&reference, &options))
}

/// Passes progress on. An error of the callback is shown and does not end the download.
fn told(callback: Py<PyAny>) -> ProgressCallback {
    ProgressCallback::new(move |progress| {
        Python::attach(|py| {
            if let Err(error) = callback.call1(py, (progress.file, progress.done, progress.total)) {
                error.write_unraisable(py, None);
            }
        });
    })
}
