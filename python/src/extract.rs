//! Runs a data set through a model in packed batches.

use easyroutine::edit::{Edits, Intervention};
use easyroutine::extract::{Collect, End, Example, Extraction, Options, Progress};
use easyroutine::extraction::ExtractionConfig;
use easyroutine::positions::{Context, Row};
use easyroutine::request::Request;
use easyroutine::{Batch, Error, ErrorKind, Stop, Tap};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::cache;
use crate::edits::{self, InterventionInput};
use crate::errors::Failure;
use crate::interrupt::Signals;
use crate::model::{Model, object, specifiers};

/// A row: its ids; its text with the span of each token, where known; and where its groups begin, if it has its own.
pub(crate) type ExampleInput = (Vec<u32>, Option<(String, Vec<(usize, usize)>)>, Option<Vec<i64>>);

/// What is kept of a data set and how it runs, as Python writes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct ExtractionSettings {
    /// As JSON.
    positions: String,
    /// As JSON.
    config: String,
    interventions: Vec<InterventionInput>,
    /// Where groups begin in every row without pivots of its own.
    pivots: Vec<i64>,
    seed: u64,
    /// The most tokens in a batch.
    pub(crate) batch_tokens: usize,
}

impl ExtractionSettings {
    pub(crate) fn request(&self) -> Result<Request, Failure> {
        let config = ExtractionConfig::from_json(&object(&self.config)?)?;
        Ok(config.request(&specifiers(&self.positions)?)?)
    }

    /// What all rows share.
    pub(crate) fn context<'a>(&'a self, model: &'a Model) -> Context<'a> {
        Context { special: model.special(), pivots: &self.pivots, seed: self.seed }
    }
}

/// Runs the rows and collects what is kept of them, in order. `progress` is called with tokens done and tokens in all.
pub(crate) fn run<'py>(
    py: Python<'py>,
    model: &Model,
    rows: Vec<ExampleInput>,
    settings: &ExtractionSettings,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let request = settings.request()?;
    let examples = examples(rows);
    let context = settings.context(model);
    let changes = edits::read(&settings.interventions, model.model.arch())?;
    let rows: Vec<Row<'_>> = examples.iter().map(Example::row).collect();
    changes.checked(py, &model.model, &rows, context)?;
    let signals = Signals::new();
    let tell = |done: Progress| told(progress.as_ref(), done);
    let work = || {
        let options = Options {
            batch_tokens: settings.batch_tokens,
            context,
            progress: Some(&tell),
            stop: Stop::When(&|| signals.is_stopped()),
            ..Options::default()
        };
        let mut collect = Collect::default();
        let mut first = |_: &Batch, rows: &[Row<'_>]| -> Result<Box<dyn Tap + '_>, Error> {
            let edits = Edits::new(&changes.interventions, model.model.arch(), rows, context)?;
            Ok(Box::new((edits, changes.of_features(&model.model, rows, context)?)))
        };
        let extraction = Extraction::new(&model.model, &request, &examples, options)?;
        match extraction.run_after(&mut first, &mut collect)? {
            End::Finished => Ok(collect.finish()?.1),
            End::Stopped => {
                Err(signals.failure(Error::new(ErrorKind::Interrupted, "stopped before the last row")))
            }
        }
    };
    let cache = py.detach(work)?;
    cache::to_python(py, cache)
}

/// The rows as examples, numbered from 0.
pub(crate) fn examples(rows: Vec<ExampleInput>) -> Vec<Example> {
    let example = |(number, (ids, text, pivots))| Example { number, ids, text, pivots, ..Example::default() };
    rows.into_iter().enumerate().map(example).collect()
}

/// Checks the interventions against all rows before the first runs, warning once about anything odd.
pub(crate) fn checked(
    py: Python<'_>,
    model: &Model,
    examples: &[Example],
    settings: &ExtractionSettings,
    context: Context<'_>,
) -> Result<Vec<Intervention>, Failure> {
    let interventions =
        edits::read_activations(&settings.interventions, "a run of a store is not recorded under it")?;
    let rows: Vec<Row<'_>> = examples.iter().map(Example::row).collect();
    edits::checked(py, &interventions, &model.model, &rows, context)?;
    Ok(interventions)
}

/// Reports progress. An error in the callback is shown and does not end the run.
pub(crate) fn told(progress: Option<&Py<PyAny>>, done: Progress) {
    let Some(function) = progress else { return };
    Python::attach(|py| {
        if let Err(error) = function.call1(py, (done.tokens, done.all_tokens)) {
            error.write_unraisable(py, None);
        }
    });
}
