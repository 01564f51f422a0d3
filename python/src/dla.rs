//! Direct logit attribution.

use easyroutine::dla::{self, By, Direction};
use easyroutine::positions::Context;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::cache;
use crate::edits::{self, InterventionInput};
use crate::errors::Failure;
use crate::model::{Model, RowInput, specifiers, views};
use crate::tensor::Tensor;

/// What is attributed, as Python writes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct AttributionSettings {
    /// `part`, `head` or `neuron`.
    by: String,
    /// The answer and what it is measured against: one pair for all rows, or one per row.
    directions: Vec<(u32, Option<u32>)>,
    /// As JSON.
    positions: String,
    interventions: Vec<InterventionInput>,
    seed: u64,
    first_row: usize,
}

/// Contributions by name, `bias` [B] and `logit_diff` [B, T], as entries of a cache.
pub(crate) fn run<'py>(
    py: Python<'py>,
    model: &Model,
    rows: &[RowInput],
    settings: &AttributionSettings,
) -> PyResult<Bound<'py, PyDict>> {
    let by = match settings.by.as_str() {
        "part" => By::Part,
        "head" => By::Head,
        "neuron" => By::Neuron,
        other => return Err(Failure::input(format!("by is part, head or neuron, not {other}")).into()),
    };
    let directions: Vec<Direction> = settings
        .directions
        .iter()
        .map(|(answer, against)| Direction { answer: *answer, against: *against })
        .collect();
    let positions = specifiers(&settings.positions)?;
    let views = views(rows, settings.first_row);
    let context = Context { special: model.special(), seed: settings.seed, ..Context::default() };
    let changes = edits::read(&settings.interventions, model.model.arch())?;
    let edits = changes.checked(py, &model.model, &views, context)?;
    let found = py
        .detach(|| dla::direct_attribution(&model.model, &views, &directions, &positions, by, context, edits))
        .map_err(Failure::from)?;
    let result = PyDict::new(py);
    result.set_item("selection", cache::selection(&found.selection))?;
    let bias: Vec<f32> = found.bias.iter().map(|x| *x as f32).collect();
    let shape = vec![bias.len()];
    let mut entries = Vec::new();
    for (name, kept) in found.contributions {
        entries.push((name, cache::value(py, kept)?));
    }
    entries.push(("logit_diff".to_owned(), cache::value(py, found.logit_diff)?));
    result.set_item("entries", entries)?;
    result.set_item("bias", Tensor::f32(bias, shape))?;
    Ok(result)
}
