//! Runs on disk.

use std::sync::{Mutex, MutexGuard, PoisonError};

use easyroutine_store::{self as store, Contents, Kind, Matching, Query, Story, Value, Which};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use serde_json::Value as Json;

use crate::errors::Failure;
use crate::model::object;
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

/// Saves runs of one experiment.
#[pyclass(frozen, module = "easyroutine._core")]
pub(crate) struct Saver {
    saver: store::ActivationSaver,
}

#[pymethods]
impl Saver {
    /// Without a folder: the one that `ACTIVATION_BASE_DIR` names.
    #[new]
    fn new(base: Option<&str>, experiment: &str) -> Result<Saver, Failure> {
        let saver = match base {
            Some(base) => store::ActivationSaver::new(base, experiment),
            None => store::ActivationSaver::from_env(experiment),
        };
        Ok(Saver { saver: saver.map_err(failure)? })
    }

    /// The folder of the store.
    #[getter]
    fn base(&self) -> Option<String> {
        self.saver.store().path().map(|path| path.display().to_string())
    }

    /// Saves a run and says where it is, below the store.
    ///
    /// `values` is a JSON object; `model` its name, commit and dtype; positions and configuration are JSON.
    #[expect(clippy::too_many_arguments, reason = "what a run is made of")]
    fn save(
        &self,
        py: Python<'_>,
        tensors: Vec<Written>,
        values: &str,
        model: (String, Option<String>, Option<String>),
        positions: &str,
        extraction_config: &str,
        interventions: Option<&Bound<'_, PyAny>>,
        other_metadata: &Bound<'_, PyDict>,
        tag: Option<String>,
    ) -> Result<String, Failure> {
        let interventions = interventions.map(|given| value(given, "interventions", 0)).transpose()?;
        let other_metadata = other_metadata
            .iter()
            .map(|(key, given)| {
                let key = key.extract::<String>().map_err(|_| {
                    Failure::input(format!("a key of other_metadata is a string, and {key} is none"))
                })?;
                let given = value(&given, &format!("other_metadata[{key:?}]"), 0)?;
                Ok((key, given))
            })
            .collect::<Result<Vec<_>, Failure>>()?;
        let (name, revision, dtype) = model;
        let story = Story {
            model: store::Model { name, revision, dtype, config_digest: None },
            target_token_positions: json(positions)?,
            interventions,
            extraction_config: json(extraction_config)?,
            other_metadata,
            tag,
            dataset: None,
        };
        let values = object(values)?;
        py.detach(|| {
            let tensors = tensors.iter().map(Written::tensor).collect::<Result<_, _>>()?;
            self.saver.save(&Contents { tensors, values }, &story).map_err(failure)
        })
    }

    /// Renames an experiment of this store.
    fn rename(&self, py: Python<'_>, from: &str, to: &str) -> Result<(), Failure> {
        py.detach(|| self.saver.store().rename_experiment(from, to)).map_err(failure)
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
    loader: store::ActivationLoader,
}

#[pymethods]
impl Loader {
    /// Without a folder: the one that `ACTIVATION_BASE_DIR` names.
    #[new]
    fn new(base: Option<&str>, experiment: &str) -> Result<Loader, Failure> {
        let loader = match base {
            Some(base) => store::ActivationLoader::new(base, experiment),
            None => store::ActivationLoader::from_env(experiment),
        };
        Ok(Loader { loader: loader.map_err(failure)? })
    }

    /// The folder of the store.
    #[getter]
    fn base(&self) -> Option<String> {
        self.loader.store().path().map(|path| path.display().to_string())
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
}

/// Runs that a query found.
#[pyclass(frozen, module = "easyroutine._core")]
pub(crate) struct Found {
    result: Mutex<store::QueryResult>,
}

/// Type, shape, kind, numbers and offsets of a stored tensor.
type Read<'py> = (String, String, Vec<usize>, String, Bound<'py, PyBytes>, Vec<i64>);

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

    fn text(&self) -> String {
        self.lock().to_string()
    }

    /// Path below the store, tensors, values (JSON) and record (JSON) of one run; `names` are those that are read, all
    /// where it is nothing.
    fn load<'py>(
        &self,
        py: Python<'py>,
        which: &Bound<'py, PyAny>,
        names: Option<Vec<String>>,
    ) -> Result<(String, Vec<Read<'py>>, String, String), Failure> {
        let run = self.lock().load(which_of(which)?).map_err(failure)?;
        let names = names.unwrap_or_else(|| run.names().map(str::to_owned).collect());
        let mut tensors = Vec::with_capacity(names.len());
        for name in names {
            let read = py.detach(|| run.read(&name)).map_err(failure)?;
            let kind = match read.kind {
                Kind::Dense => "dense",
                Kind::Rows => "rows",
                Kind::RaggedNd => "ragged_nd",
                Kind::Object => "object",
            };
            let bytes = PyBytes::new(py, &read.bytes);
            tensors.push((name, read.dtype.to_string(), read.shape, kind.to_owned(), bytes, read.offsets));
        }
        let values = Json::Object(run.manifest().values.clone()).to_string();
        let record = Json::Object(run.metadata().fields().clone()).to_string();
        Ok((run.path().to_owned(), tensors, values, record))
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
fn failure(error: store::Error) -> Failure {
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
