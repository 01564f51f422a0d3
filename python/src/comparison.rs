//! Activations of another program beside those of a model.

use std::path::Path;

use easyroutine::Stop;
use easyroutine::compare::{compare, compare_exact, tolerance};
use easyroutine_app::reports::comparison;
use pyo3::prelude::*;

use crate::errors::Failure;
use crate::interrupt::Signals;
use crate::model::Model;

/// What of `easyroutine.compare/1` a comparison says, as JSON.
pub(crate) fn run(
    py: Python<'_>,
    model: &Model,
    file: &Path,
    allowed: Option<f64>,
    exact: bool,
) -> Result<String, Failure> {
    let (signals, engine, names) = (Signals::new(), &model.model, &model.names);
    let found = py.detach(|| {
        let allowed = allowed.unwrap_or_else(|| tolerance(engine));
        match exact {
            true => {
                let stop = Stop::When(&|| signals.is_stopped());
                compare_exact(engine, engine, names, file, allowed, stop)
            }
            false => compare(engine, names, file, allowed),
        }
    });
    Ok(comparison(&found.map_err(|error| signals.failure(error))?).to_string())
}
