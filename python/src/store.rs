//! Runs on disk.

use std::sync::{Mutex, MutexGuard, PoisonError};

use easyroutine_store::{self as store, Contents, Kind, Matching, Query, Story, Value, Which};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use serde_json::Value as Json;

use crate::errors::Failure;
use crate::extract::{RowWritten, Wishes};
use crate::filling::{self, Place};
use crate::model::{Model, object};
use crate::stored_run::Run;
use crate::tensor::Tensor;

/// A tensor that is to be saved.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Written {
    name: String,
    /// In the spelling of safetensors: `F32`.
    dtype: String,
    shape: Vec<usize>,
    /// `object`, `dense`, `rows` or `ragged_nd`.
    kind: String,
    data: Vec<u8>,
    /// Of the ragged kinds.
    offsets: Vec<i64>,
}

impl Written {
    fn tensor(&self) -> Result<store::Tensor<'_>, Failure> {
        let dtype = self.dtype.parse().map_err(failure)?;
        let tensor = store::Tensor::new(&self.name, dtype, &self.shape, self.data.as_slice());
        Ok(match self.kind.as_str() {
            "dense" => tensor.dense(),
            "rows" => tensor.ragged(Kind::Rows, self.offsets.clone()),
            "ragged_nd" => tensor.ragged(Kind::RaggedNd, self.offsets.clone()),
            _ => tensor,
        })
    }
}

/// The folder that `ACTIVATION_BASE_DIR` names, in the environment or a `.env` file.
pub(crate) fn base_from_env() -> Result<String, Failure> {
    Ok(store::Store::base_from_env().map_err(failure)?.display().to_string())
}

/// The folder of a store, or the URL by which it was opened.
fn named(store: &store::Store, given: &str) -> String {
    store.path().map_or_else(|| given.trim_end_matches('/').to_owned(), |path| path.display().to_string())
}

/// Saves runs of one experiment.
#[pyclass(frozen, module = "easyroutine._core")]
pub(crate) struct Saver {
    /// The folder of the store, or its URL.
    #[pyo3(get)]
    base: String,
    saver: store::ActivationSaver,
}

#[pymethods]
impl Saver {
    #[new]
    fn new(base: &str, experiment: &str) -> Result<Saver, Failure> {
        let saver = store::ActivationSaver::new(base, experiment).map_err(failure)?;
        Ok(Saver { base: named(saver.store(), base), saver })
    }

    /// Saves a run and says where it is, below the store. `values` is a JSON object.
    fn save(
        &self,
        py: Python<'_>,
        tensors: Vec<Written>,
        values: &str,
        story: StoryWritten<'_>,
    ) -> Result<String, Failure> {
        let (story, values) = (story.read()?, object(values)?);
        py.detach(|| {
            let tensors = tensors.iter().map(Written::tensor).collect::<Result<_, _>>()?;
            self.saver.save(&Contents { tensors, values }, &story).map_err(failure)
        })
    }

    /// Runs a data set and fills a run with it, unit by unit; see [`filling::run`].
    #[expect(clippy::too_many_arguments, reason = "a data set, what is kept of it, and where")]
    fn fill(
        &self,
        py: Python<'_>,
        model: &Model,
        rows: Vec<RowWritten>,
        wishes: Wishes,
        story: StoryWritten<'_>,
        place: Place,
        progress: Option<Py<PyAny>>,
    ) -> Result<Option<String>, Failure> {
        filling::run(py, &self.saver, model, rows, &wishes, &story.read()?, &place, progress)
    }

    /// Renames an experiment of this store.
    fn rename(&self, py: Python<'_>, from: &str, to: &str) -> Result<(), Failure> {
        py.detach(|| self.saver.store().rename_experiment(from, to)).map_err(failure)
    }
}

/// How a run came about, as Python writes it: the model's name, commit, dtype and digest; positions and configuration as JSON.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct StoryWritten<'py> {
    model: (String, Option<String>, Option<String>, Option<String>),
    positions: String,
    extraction_config: String,
    interventions: Option<Bound<'py, PyAny>>,
    other_metadata: Bound<'py, PyDict>,
    tag: Option<String>,
}

impl StoryWritten<'_> {
    fn read(&self) -> Result<Story<'static>, Failure> {
        let interventions = self.interventions.as_ref().map(|given| value(given, "interventions", 0));
        let other_metadata = self.other_metadata.iter().map(|(key, given)| {
            let key = key.extract::<String>().map_err(|_| {
                Failure::input(format!("a key of other_metadata is a string, and {key} is none"))
            })?;
            let given = value(&given, &format!("other_metadata[{key:?}]"), 0)?;
            Ok((key, given))
        });
        let (name, revision, dtype, digest) = self.model.clone();
        Ok(Story {
            model: store::Model { name, revision, dtype, digest },
            target_token_positions: json(&self.positions)?,
            interventions: interventions.transpose()?,
            extraction_config: json(&self.extraction_config)?,
            other_metadata: other_metadata.collect::<Result<_, Failure>>()?,
            tag: self.tag.clone(),
            dataset: None,
        })
    }
}

/// What a loader looks for, as Python writes it; all but the experiment as JSON.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Asked<'py> {
    experiment_name: Option<String>,
    model_name: Option<String>,
    target_token_positions: Option<String>,
    pivot_positions: Option<String>,
    save_time: Option<String>,
    custom_keys: Option<String>,
    extraction_config: Option<String>,
    interventions: Option<Bound<'py, PyAny>>,
    tag: Option<String>,
    exact: bool,
    condition: Option<String>,
}

/// Finds runs.
#[pyclass(frozen, module = "easyroutine._core")]
pub(crate) struct Loader {
    /// The folder of the store, or its URL.
    #[pyo3(get)]
    base: String,
    loader: store::ActivationLoader,
}

#[pymethods]
impl Loader {
    #[new]
    fn new(base: &str, experiment: &str) -> Result<Loader, Failure> {
        let loader = store::ActivationLoader::new(base, experiment).map_err(failure)?;
        Ok(Loader { base: named(loader.store(), base), loader })
    }

    /// The runs for which everything holds.
    fn query(&self, py: Python<'_>, asked: Asked<'_>) -> Result<Found, Failure> {
        let parsed = |text: Option<String>| text.as_deref().map(json).transpose();
        let query = Query {
            experiment_name: asked.experiment_name,
            model_name: asked.model_name,
            target_token_positions: parsed(asked.target_token_positions)?,
            pivot_positions: parsed(asked.pivot_positions)?,
            save_time: asked.save_time,
            custom_keys: asked.custom_keys.as_deref().map(object).transpose()?.unwrap_or_default(),
            extraction_config: parsed(asked.extraction_config)?,
            matching: if asked.exact { Matching::Exact } else { Matching::Subset },
            interventions: asked.interventions.map(|given| sought(&given)).transpose()?,
            tag: asked.tag,
            condition: asked.condition.map(|text| text.parse()).transpose().map_err(failure)?,
        };
        let found = py.detach(|| self.loader.query(&query)).map_err(failure)?;
        Ok(Found { result: Mutex::new(found) })
    }

    /// The runs at these paths below the store.
    fn at(&self, py: Python<'_>, paths: Vec<String>) -> Result<Found, Failure> {
        let found = py.detach(|| self.loader.at(&paths)).map_err(failure)?;
        Ok(Found { result: Mutex::new(found) })
    }
}

/// Runs that a query found.
#[pyclass(frozen, module = "easyroutine._core")]
pub(crate) struct Found {
    result: Mutex<store::QueryResult>,
}

#[pymethods]
impl Found {
    /// Path below the store and record (JSON) of each run.
    fn runs(&self) -> Vec<(String, String)> {
        let record = |run: &store::Found| Json::Object(run.metadata.fields().clone()).to_string();
        self.lock().runs().iter().map(|run| (run.path.clone(), record(run))).collect()
    }

    /// What could not be read while looking.
    fn problems(&self) -> Vec<String> {
        let shown = |problem: &store::Problem| format!("{}: {}", problem.path, problem.error);
        self.lock().problems().iter().map(shown).collect()
    }

    /// Some of the runs, by their places.
    fn pick(&self, places: Vec<usize>) -> Found {
        Found { result: Mutex::new(self.lock().pick(&places)) }
    }

    /// Opens a run; nothing of its tensors is read.
    fn open(&self, which: &Bound<'_, PyAny>) -> Result<Run, Failure> {
        Ok(Run::new(self.lock().load(which_of(which)?).map_err(failure)?))
    }

    fn remove(&self, py: Python<'_>, which: &Bound<'_, PyAny>) -> Result<(), Failure> {
        let which = which_of(which)?;
        py.detach(|| self.lock().remove(which)).map_err(failure)
    }

    /// Moves a run to another experiment and says where it is now.
    fn move_to(&self, py: Python<'_>, which: &Bound<'_, PyAny>, experiment: &str) -> Result<String, Failure> {
        let which = which_of(which)?;
        py.detach(|| self.lock().update_run_experiment(which, experiment)).map_err(failure)
    }
}

impl Found {
    fn lock(&self) -> MutexGuard<'_, store::QueryResult> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn which_of(which: &Bound<'_, PyAny>) -> Result<Which, Failure> {
    if let Ok(name) = which.extract::<String>() {
        return Ok(Which::Name(name));
    }
    which.extract::<i64>().map(Which::Index).map_err(|_| {
        Failure::input(format!("a run is named by a number or the name of its folder, not by {which}"))
    })
}

/// Interventions that are looked for; an empty list is what runs without any have.
fn sought(given: &Bound<'_, PyAny>) -> Result<Value<'static>, Failure> {
    let is_empty = given.cast::<PyList>().is_ok_and(PyListMethods::is_empty);
    if is_empty { Ok(Json::Null.into()) } else { value(given, "interventions", 0) }
}

/// A value of Python's that is kept with a run.
fn value(given: &Bound<'_, PyAny>, place: &str, depth: usize) -> Result<Value<'static>, Failure> {
    if depth > 64 {
        return Err(Failure::input(format!("{place} is nested more than 64 deep")));
    }
    let inner = |given: &Bound<'_, PyAny>, name: &str| value(given, &format!("{place}.{name}"), depth + 1);
    if let Ok(tensor) = given.cast::<Tensor>() {
        let tensor = tensor.get();
        return Ok(Value::Tensor(store::Tensor::f32("", &tensor.shape, &tensor.floats())));
    }
    let wrong = |what: &str| Failure::input(format!("{place} is {what}, which cannot be kept with a run"));
    Ok(if given.is_none() {
        Json::Null.into()
    } else if given.cast::<PyBool>().is_ok() {
        Json::from(given.is_truthy().map_err(Failure::Python)?).into()
    } else if given.cast::<PyInt>().is_ok() {
        let number =
            given.extract::<i64>().map(Json::from).or_else(|_| given.extract::<u64>().map(Json::from));
        number.map_err(|_| wrong("a whole number beyond 64 bits"))?.into()
    } else if let Ok(number) = given.cast::<PyFloat>() {
        let number = number.extract::<f64>().map_err(Failure::Python)?;
        serde_json::Number::from_f64(number)
            .map(Json::Number)
            .ok_or_else(|| wrong("no finite number"))?
            .into()
    } else if let Ok(text) = given.cast::<PyString>() {
        Json::from(text.extract::<String>().map_err(Failure::Python)?).into()
    } else if let Ok(map) = given.cast::<PyDict>() {
        let entry = |(key, one): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
            let key = key.str().map_err(Failure::Python)?.to_string();
            let one = inner(&one, &key)?;
            Ok::<_, Failure>((key, one))
        };
        Value::Map(map.iter().map(entry).collect::<Result<_, _>>()?)
    } else if given.cast::<PyList>().is_ok() || given.cast::<PyTuple>().is_ok() {
        let items = given.try_iter().map_err(Failure::Python)?.enumerate();
        let item = |(number, one): (usize, PyResult<Bound<'_, PyAny>>)| {
            inner(&one.map_err(Failure::Python)?, &number.to_string())
        };
        Value::List(items.map(item).collect::<Result<_, _>>()?)
    } else {
        let kind = given.get_type().name().map_or_else(|_| "something".to_owned(), |name| name.to_string());
        return Err(wrong(&format!("of type {kind}")));
    })
}

fn json(text: &str) -> Result<Json, Failure> {
    serde_json::from_str(text).map_err(|e| Failure::input(format!("this is no JSON: {e}")))
}

/// An error of the store as one of the engine.
pub(crate) fn failure(error: store::Error) -> Failure {
    use easyroutine::ErrorKind as Engine;
    let kind = match error.kind() {
        store::ErrorKind::NotFound => Engine::NotFound,
        store::ErrorKind::Damaged => Engine::Format,
        store::ErrorKind::Unsupported => Engine::Unsupported,
        store::ErrorKind::Io => Engine::Io,
        _ => Engine::Input,
    };
    let failure = easyroutine::Error::new(kind, error.to_string());
    Failure::Engine(match error.hint_text() {
        Some(hint) => failure.hint(hint.to_owned()),
        None => failure,
    })
}
