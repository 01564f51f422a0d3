//! Runs a data set through a model into a run of a store, unit by unit.

use std::sync::Arc;

use easyroutine::edit::Intervention;
use easyroutine::extract::{End, Example, Progress};
use easyroutine::request::Request;
use easyroutine::{Error, ErrorKind, Stop};
use easyroutine_app::filling::{self, Annotations, Features, Field, Filled, Filling, Opened, Units};
use easyroutine_dictionaries::Dictionaries;
use easyroutine_store::{ActivationSaver, Joining};
use pyo3::prelude::*;
use serde_json::{Map, Value};

use crate::dictionary::Dictionary;
use crate::errors::Failure;
use crate::extract::{self, ExampleInput, ExtractionSettings};
use crate::interrupt::Signals;
use crate::model::{Model, object};
use crate::store::failure;

/// Where the run is, as Python writes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Place {
    /// Its name.
    run: String,
    /// Whether to continue a run that exists already.
    resume: bool,
    /// This process's share: its number, from 1, and the number of shares.
    part: Option<(usize, usize)>,
    /// What is kept of each row besides its activations, as JSON: `[["label", ["a", "b"]], …]`.
    fields: String,
    /// Examples in a unit; `None` means as many as a shard holds.
    unit: Option<u64>,
    /// What turned the prompts into conversations, as JSON.
    chat: Option<String>,
    /// Dictionaries whose features are kept, each with its name.
    dictionaries: Vec<(String, Py<Dictionary>)>,
    /// What Python knows of each, by name, as JSON.
    dictionary_record: String,
}

/// The callbacks.
pub(crate) struct Told {
    /// Called when a run to be continued begins here because none existed.
    pub(crate) begun: Option<Py<PyAny>>,
    /// Called with tokens done and tokens in all.
    pub(crate) progress: Option<Py<PyAny>>,
}

/// Writes the missing units, or this process's share of them, and commits the run if none is left. Returns the run's
/// path below the store, or nothing if other processes have yet to write their shares.
pub(crate) fn run(
    py: Python<'_>,
    saver: &ActivationSaver,
    model: &Model,
    data: DataSet,
    annotations: Annotations,
    place: &Place,
    told: &Told,
) -> Result<Option<String>, Failure> {
    let checked = data.checked(py, model, place)?;
    let signals = Signals::new();
    let tell = |done: Progress| extract::told(told.progress.as_ref(), done);
    py.detach(|| {
        let stop = || signals.is_stopped();
        let on_beginning = || begin(told.begun.as_ref());
        let place = place.read(saver, &on_beginning)?;
        match checked.filling(model, &stop)?.fill(place, annotations, &tell) {
            Ok(Filled::Saved(path)) => Ok(Some(path)),
            Ok(Filled::Shared(..)) => Ok(None),
            Ok(Filled::Stopped(..)) => Err(stopped(&signals)),
            Err(error) => Err(failed(error)),
        }
    })
}

/// An open run, whose units any process may write in any order.
#[pyclass(frozen, module = "easyroutine._core")]
pub(crate) struct OpenRun {
    model: Py<Model>,
    data: Checked,
    units: Units,
}

#[pymethods]
impl OpenRun {
    /// The rows of each unit, in order.
    #[getter]
    fn units(&self) -> Vec<usize> {
        (0..self.units.len()).map(|unit| self.units.examples(unit).len()).collect()
    }

    /// The units not yet written.
    fn missing(&self, py: Python<'_>) -> Result<Vec<usize>, Failure> {
        py.detach(|| self.units.missing()).map_err(failed)
    }

    /// Runs the rows of a unit and writes what is kept of them. An existing unit is left alone.
    fn write(&self, py: Python<'_>, unit: usize) -> Result<(), Failure> {
        if unit >= self.units.len() {
            return Err(Failure::input(format!("the run has {} units; {unit} is none", self.units.len())));
        }
        let model = self.model.get();
        let signals = Signals::new();
        py.detach(|| {
            let stop = || signals.is_stopped();
            match self.data.filling(model, &stop)?.write(&self.units, &[unit], &|_| ()).map_err(failed)? {
                End::Finished => Ok(()),
                End::Stopped => Err(stopped(&signals)),
            }
        })
    }

    /// Publishes a run whose units are all there and returns its path below the store.
    fn commit(&self, py: Python<'_>) -> Result<String, Failure> {
        py.detach(|| self.units.commit()).map_err(failed)
    }
}

/// Begins or joins a run; returns the path below the store if it is already complete.
pub(crate) fn open(
    py: Python<'_>,
    saver: &ActivationSaver,
    model: Py<Model>,
    data: DataSet,
    annotations: Annotations,
    place: &Place,
    begun: Option<&Py<PyAny>>,
) -> Result<(Option<OpenRun>, Option<String>), Failure> {
    let data = data.checked(py, model.get(), place)?;
    let opened = py.detach(|| {
        let on_beginning = || begin(begun);
        let place = place.read(saver, &on_beginning)?;
        data.filling(model.get(), &|| false)?.open(place, annotations).map_err(failed)
    })?;
    Ok(match opened {
        Opened::Committed(path) => (None, Some(path)),
        Opened::Open(units) => (Some(OpenRun { model, data, units }), None),
    })
}

/// Rows, and what is kept of them.
pub(crate) struct DataSet {
    pub(crate) rows: Vec<ExampleInput>,
    pub(crate) settings: ExtractionSettings,
}

impl DataSet {
    fn checked(self, py: Python<'_>, model: &Model, place: &Place) -> Result<Checked, Failure> {
        let DataSet { rows, settings } = self;
        let request = settings.request()?;
        if request.reduction != Default::default() {
            return Err(Failure::input(
                "a store keeps activations of every token: means are for extract_cache",
            ));
        }
        let examples = extract::examples(rows);
        let interventions = extract::checked(py, model, &examples, &settings, settings.context(model))?;
        let fields = serde_json::from_str(&place.fields)
            .map_err(|e| Failure::input(format!("fields of rows are not JSON: {e}")))?;
        let chat = place.chat.as_deref().map(serde_json::from_str).transpose();
        let chat = chat.map_err(|e| Failure::input(format!("the chat is not JSON: {e}")))?;
        let features = place.features(model)?;
        Ok(Checked { settings, request, examples, interventions, fields, chat, features })
    }
}

/// The same, read and checked.
struct Checked {
    settings: ExtractionSettings,
    request: Request,
    examples: Vec<Example>,
    interventions: Vec<Intervention>,
    fields: Vec<Field>,
    chat: Option<Value>,
    features: Option<KeptFeatures>,
}

/// Dictionaries fitted to the model, and the keys of their features.
struct KeptFeatures {
    dictionaries: Dictionaries,
    keys: Vec<String>,
    record: Map<String, Value>,
}

impl Checked {
    fn filling<'a>(&'a self, model: &'a Model, stop: &'a dyn Fn() -> bool) -> Result<Filling<'a>, Failure> {
        Ok(Filling {
            model: &model.model,
            files: &model.files,
            digest: model.identity.digest()?,
            request: &self.request,
            examples: &self.examples,
            fields: &self.fields,
            context: self.settings.context(model),
            interventions: &self.interventions,
            features: self.features.as_ref().map(|kept| Features {
                dictionaries: &kept.dictionaries,
                keys: &kept.keys,
                changes: &[],
                record: &kept.record,
            }),
            generated: None,
            chat: self.chat.as_ref(),
            batch_tokens: self.settings.batch_tokens,
            folder: None,
            on_nan: None,
            stop: Stop::When(stop),
        })
    }
}

impl Place {
    /// The features to keep, if any.
    fn features(&self, model: &Model) -> Result<Option<KeptFeatures>, Failure> {
        if self.dictionaries.is_empty() {
            return Ok(None);
        }
        let mut dictionaries = Dictionaries::default();
        for (name, one) in &self.dictionaries {
            dictionaries.add(name, Arc::clone(&one.get().dictionary), model.model.arch())?;
        }
        let keys = dictionaries.keys();
        Ok(Some(KeptFeatures { dictionaries, keys, record: object(&self.dictionary_record)? }))
    }

    fn read<'a>(
        &'a self,
        saver: &'a ActivationSaver,
        on_beginning: &'a dyn Fn(),
    ) -> Result<filling::Place<'a>, Failure> {
        let (part, parts) = self.part.map_or((0, 1), |(number, of)| (number.wrapping_sub(1), of));
        if part >= parts || self.unit == Some(0) {
            return Err(Failure::input(
                "a part is (1, 8) to (8, 8) of eight, and a unit has at least one example",
            ));
        }
        let joining = match (self.part, self.resume) {
            (Some(_), _) => Joining::Share,
            (None, true) => Joining::Resume,
            (None, false) => Joining::New,
        };
        Ok(filling::Place {
            saver,
            run: &self.run,
            joining,
            share: (part, parts),
            unit: self.unit,
            on_beginning,
        })
    }
}

fn failed(error: filling::Error) -> Failure {
    match error {
        filling::Error::Engine(error) => error.into(),
        filling::Error::Store(error) => failure(error),
    }
}

fn stopped(signals: &Signals) -> Failure {
    signals.failure(Error::new(ErrorKind::Interrupted, "stopped before the last row"))
}

/// Reports that a run to be resumed begins here. An error in the callback is shown and does not end the run.
fn begin(function: Option<&Py<PyAny>>) {
    let Some(function) = function else { return };
    Python::attach(|py| {
        if let Err(error) = function.call0(py) {
            error.write_unraisable(py, None);
        }
    });
}
