//! Finds the files of a reference, as the command line does.

use easyroutine::source::{self, AdapterChoice, ModelFiles, ProgressCallback, ResolveOptions};
use pyo3::prelude::*;

use crate::errors::Failure;
use crate::interrupt::waiting;

/// The given adapter, else the one beside the weights, or none.
pub(crate) fn adapter(reference: Option<String>, with_adapter: bool) -> AdapterChoice {
    match (reference, with_adapter) {
        (Some(reference), _) => AdapterChoice::Named(reference),
        (None, true) => AdapterChoice::Beside,
        (None, false) => AdapterChoice::Without,
    }
}

/// Finds a model's files, downloading them where allowed; `progress` is called with file, bytes done and bytes in all.
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

/// Reports progress. An error in the callback is shown and does not end the download.
fn told(callback: Py<PyAny>) -> ProgressCallback {
    ProgressCallback::new(move |progress| {
        Python::attach(|py| {
            if let Err(error) = callback.call1(py, (progress.file, progress.done, progress.total)) {
                error.write_unraisable(py, None);
            }
        });
    })
}
