//! Generation, token by token.

use std::ops::ControlFlow;

use easyroutine::generate::{GenerateOptions, NewToken, Sampling, generate_until};
use easyroutine::positions::Context;
use easyroutine::{Error, ErrorKind, Stop};
use pyo3::prelude::*;

use crate::edits::{self, InterventionInput};
use crate::errors::Failure;
use crate::hooks::{HookInput, Hooks};
use crate::interrupt::Signals;
use crate::model::{Model, RowInput, views};

/// How rows are continued, as Python writes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct GenerationSettings {
    max_new_tokens: usize,
    /// `None` means greedy.
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    ends: Vec<u32>,
    seed: u64,
    /// Called with row, id and log-probability of each token; a true result ends the row.
    on_token: Option<Py<PyAny>>,
}

/// For each row its new ids, their log-probabilities and why it ended.
pub(crate) type Continued = Vec<(Vec<u32>, Vec<f64>, &'static str)>;

/// Continues rows under interventions and hooks.
pub(crate) fn run(
    py: Python<'_>,
    model: &Model,
    rows: &[RowInput],
    interventions: &[InterventionInput],
    hooks: Vec<HookInput>,
    settings: GenerationSettings,
) -> Result<Continued, Failure> {
    let views = views(rows, 0);
    let context = Context { special: model.special(), pivots: &[], seed: settings.seed };
    let changes = edits::read(interventions, model.model.arch())?;
    let mut edits = changes.checked(py, &model.model, &views, context)?;
    let mut hooks = Hooks::new(&model.model, hooks)?;
    let sampling = match settings.temperature {
        None => Sampling::Greedy,
        Some(temperature) => Sampling::Random { temperature, top_k: settings.top_k, top_p: settings.top_p },
    };
    let options = GenerateOptions {
        max_new_tokens: settings.max_new_tokens,
        sampling,
        ends: settings.ends,
        seed: settings.seed,
    };
    let prompts: Vec<&[u32]> = rows.iter().map(|(ids, _)| ids.as_slice()).collect();
    let on_token = settings.on_token;
    let mut raised = None;
    let signals = Signals::new();
    let result = py.detach(|| {
        let tap = (&mut edits, &mut hooks);
        let stop = Stop::When(&|| signals.is_stopped());
        let told = |new: NewToken| {
            let Some(function) = &on_token else { return Ok(ControlFlow::Continue(())) };
            let answer =
                Python::attach(|py| function.call1(py, (new.row, new.id, new.logprob))?.is_truthy(py));
            match answer {
                Ok(true) => Ok(ControlFlow::Break(())),
                Ok(false) => Ok(ControlFlow::Continue(())),
                Err(error) => {
                    raised = Some(error);
                    Err(Error::new(ErrorKind::Interrupted, "the callback raised an error"))
                }
            }
        };
        generate_until(&model.model, &prompts, &options, tap, stop, told)
            .map_err(|error| signals.failure(error))
    });
    match (result, raised) {
        (Err(_), Some(raised)) => Err(Failure::Python(raised)),
        (Err(failure), None) => Err(hooks.failure(failure)),
        (Ok(rows), _) => Ok(rows.into_iter().map(|row| (row.ids, row.logprobs, row.finish.name())).collect()),
    }
}
