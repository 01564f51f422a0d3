//! A data set through a model into a run of a store, unit by unit.

use easyroutine::extract::Progress;
use easyroutine::{Error, ErrorKind, Stop};
use easyroutine_app::filling::{self, Annotations, Field, Filled, Filling};
use easyroutine_store::{ActivationSaver, Joining};
use pyo3::prelude::*;
use serde_json::Value;

use crate::errors::Failure;
use crate::extract::{self, ExampleInput, ExtractionSettings};
use crate::interrupt::Signals;
use crate::model::Model;
use crate::store::failure;

/// Where the run is, as Python writes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Place {
    /// Its name.
    run: String,
    /// Whether it may be there already, and is gone on with.
    resume: bool,
    /// This process's share: number from 1, of how many.
    part: Option<(usize, usize)>,
    /// What is kept of each row beside its activations, as JSON: `[["label", ["a", "b"]], …]`.
    fields: String,
    /// Examples of a unit; as many as a shard holds where it is nothing.
    unit: Option<u64>,
    /// What made conversations of the prompts, as JSON.
    chat: Option<String>,
}

/// What is called meanwhile.
pub(crate) struct Told {
    /// Where a run that was to be gone on with begins here, since there was none.
    pub(crate) begun: Option<Py<PyAny>>,
    /// With tokens done and tokens in all.
    pub(crate) progress: Option<Py<PyAny>>,
}

/// Writes the units that are missing, or this process's share of them, and commits the run if none is left. Says where the
/// run is, below the store; nothing where other parts have not written their share.
#[expect(clippy::too_many_arguments, reason = "a data set, what is kept of it, and where")]
pub(crate) fn run(
    py: Python<'_>,
    saver: &ActivationSaver,
    model: &Model,
    rows: Vec<ExampleInput>,
    settings: &ExtractionSettings,
    annotations: Annotations,
    place: &Place,
    told: &Told,
) -> Result<Option<String>, Failure> {
    let (part, parts) = place.part.map_or((0, 1), |(number, of)| (number.wrapping_sub(1), of));
    if part >= parts || place.unit == Some(0) {
        return Err(Failure::input(
            "a part is (1, 8) to (8, 8) of eight, and a unit has at least one example",
        ));
    }
    let request = settings.request()?;
    if request.reduction != Default::default() {
        return Err(Failure::input("a store keeps activations of every token: means are for extract_cache"));
    }
    let examples = extract::examples(rows);
    let context = settings.context(model);
    let interventions = extract::checked(py, model, &examples, settings, context)?;
    let joining = match (place.part, place.resume) {
        (Some(_), _) => Joining::Share,
        (None, true) => Joining::Resume,
        (None, false) => Joining::New,
    };
    let fields: Vec<Field> = serde_json::from_str(&place.fields)
        .map_err(|e| Failure::input(format!("fields of rows are no JSON: {e}")))?;
    let chat = place.chat.as_deref().map(serde_json::from_str).transpose();
    let chat: Option<Value> = chat.map_err(|e| Failure::input(format!("the chat is no JSON: {e}")))?;
    let signals = Signals::new();
    let work = || {
        let tell = |done: Progress| extract::told(told.progress.as_ref(), done);
        let filling = Filling {
            model: &model.model,
            files: &model.files,
            digest: model.identity.digest()?,
            request: &request,
            examples: &examples,
            fields: &fields,
            context,
            interventions: &interventions,
            generated: None,
            chat: chat.as_ref(),
            batch_tokens: settings.batch_tokens,
            on_nan: None,
            stop: Stop::When(&|| signals.is_stopped()),
        };
        let place = filling::Place {
            saver,
            run: &place.run,
            joining,
            share: (part, parts),
            unit: place.unit,
            on_beginning: &|| begin(told.begun.as_ref()),
        };
        match filling.fill(place, annotations, &tell) {
            Ok(Filled::Saved(path)) => Ok(Some(path)),
            Ok(Filled::Shared(..)) => Ok(None),
            Ok(Filled::Stopped(..)) => {
                Err(signals.failure(Error::new(ErrorKind::Interrupted, "stopped before the last row")))
            }
            Err(filling::Error::Engine(error)) => Err(error.into()),
            Err(filling::Error::Store(error)) => Err(failure(error)),
        }
    };
    py.detach(work)
}

/// Tells that a run which was to be resumed begins here. An error of the callback is shown and does not end the run.
fn begin(function: Option<&Py<PyAny>>) {
    let Some(function) = function else { return };
    Python::attach(|py| {
        if let Err(error) = function.call0(py) {
            error.write_unraisable(py, None);
        }
    });
}
