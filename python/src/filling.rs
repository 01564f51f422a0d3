//! A data set through a model into a run of a store, unit by unit.

use easyroutine::extract::{End, Progress};
use easyroutine::{Error, ErrorKind, Stop};
use easyroutine_cli::filling::{self, Field, Filling, finish_values};
use easyroutine_store::{ActivationSaver, Begun, Joining, Story};
use pyo3::prelude::*;
use serde_json::{Map, Value};

use crate::errors::Failure;
use crate::extract::{self, RowWritten, Wishes};
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
    rows: Vec<RowWritten>,
    wishes: &Wishes,
    story: &Story<'_>,
    place: &Place,
    told: &Told,
) -> Result<Option<String>, Failure> {
    let (part, parts) = place.part.map_or((0, 1), |(number, of)| (number.wrapping_sub(1), of));
    if part >= parts || place.unit == Some(0) {
        return Err(Failure::input(
            "a part is (1, 8) to (8, 8) of eight, and a unit has at least one example",
        ));
    }
    let request = wishes.request()?;
    if request.reduction != Default::default() {
        return Err(Failure::input("a store keeps activations of every token: means are for extract_cache"));
    }
    let examples = extract::examples(rows);
    let context = wishes.context(model);
    let interventions = extract::checked(py, model, &examples, wishes, context)?;
    let joining = match (place.part, place.resume) {
        (Some(_), _) => Joining::Share,
        (None, true) => Joining::Resume,
        (None, false) => Joining::New,
    };
    let fields: Vec<Field> = serde_json::from_str(&place.fields)
        .map_err(|e| Failure::input(format!("fields of rows are no JSON: {e}")))?;
    let mut story = story.clone();
    if !fields.is_empty() {
        story.other_metadata.push(("fields".to_owned(), filling::summary(&fields).into()));
    }
    let signals = Signals::new();
    let work = || {
        let filling = Filling {
            model: &model.model,
            request: &request,
            examples: &examples,
            fields: &fields,
            context,
            interventions: &interventions,
            batch_tokens: wishes.batch_tokens,
            on_nan: None,
            stop: Stop::When(&|| signals.is_stopped()),
        };
        let whole = filling.whole()?;
        let plan = filling.plan(&whole, spec(model, wishes)?, place.unit)?;
        let run = match saver.begin(&place.run, &plan, &story, joining).map_err(failure)? {
            Begun::Committed(path) => return Ok(Some(path)),
            Begun::Open(run) => run,
        };
        if let (Joining::Resume, true, Some(function)) = (joining, run.is_begun_here(), &told.begun) {
            Python::attach(|py| function.call0(py).map(drop)).map_err(Failure::Python)?;
        }
        let missing = run.missing().map_err(failure)?;
        let mine: Vec<usize> = missing.into_iter().filter(|unit| unit % parts == part).collect();
        let tell = |done: Progress| extract::told(told.progress.as_ref(), done);
        match filling.write(&whole, &run, &mine, &tell) {
            Ok(End::Finished) => {}
            Ok(End::Stopped) => {
                return Err(
                    signals.failure(Error::new(ErrorKind::Interrupted, "stopped before the last row"))
                );
            }
            Err(filling::Error::Engine(error)) => return Err(error.into()),
            Err(filling::Error::Store(error)) => return Err(failure(error)),
        }
        if !run.missing().map_err(failure)?.is_empty() {
            return Ok(None);
        }
        run.commit(finish_values).map(Some).map_err(failure)
    };
    py.detach(work)
}

/// All that makes the run what it is, beside its rows.
fn spec(model: &Model, wishes: &Wishes) -> Result<Map<String, Value>, Failure> {
    let mut spec = filling::spec_of_model(&model.files, model.identity.digest()?, &model.model);
    spec.extend(wishes.spec());
    Ok(spec)
}
