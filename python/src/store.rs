//! Runs on disk.

use std::sync::{Mutex, MutexGuard, PoisonError};

use easyroutine::source::name_in_runs;
use easyroutine_app::filling::Annotations;
use easyroutine_app::reports::dtype_name;
use easyroutine_store::{self as store, Contents, Kind, Matching, Provenance, Query, Value, Which};
use pyo3::prelude::*;
use serde_json::Value as Json;

use crate::errors::Failure;
use crate::extract::{ExampleInput, ExtractionSettings};
use crate::filling::{self, DataSet, OpenRun, Place, Told};
use crate::model::{Model, dtype_of, object};
use crate::stored_run::Run;

/// A tensor to save.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct TensorInput {
    name: String,
    /// As safetensors spells it: `F32`.
    dtype: String,
    shape: Vec<usize>,
    /// `object`, `dense`, `rows` or `ragged_nd`.
    kind: String,
    data: Vec<u8>,
    /// For the ragged kinds.
    offsets: Vec<i64>,
}

impl TensorInput {
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

/// The store's folder, or the URL it was opened with.
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

    /// Saves a run and returns its path below the store. `values` is a JSON object.
    fn save(
        &self,
        py: Python<'_>,
        tensors: Vec<TensorInput>,
        values: &str,
        provenance: ProvenanceInput,
    ) -> Result<String, Failure> {
        let (provenance, values) = (provenance.read()?, object(values)?);
        py.detach(|| {
            let tensors = tensors.iter().map(TensorInput::tensor).collect::<Result<_, _>>()?;
            self.saver.save(&Contents { tensors, values }, &provenance).map_err(failure)
        })
    }

    /// Runs a data set and fills a run with it, unit by unit; see [`filling::run`].
    #[expect(clippy::too_many_arguments, reason = "a data set, what is kept of it, and where")]
    fn fill(
        &self,
        py: Python<'_>,
        model: &Model,
        rows: Vec<ExampleInput>,
        settings: ExtractionSettings,
        annotations: AnnotationsInput,
        place: Place,
        begun: Option<Py<PyAny>>,
        progress: Option<Py<PyAny>>,
    ) -> Result<Option<String>, Failure> {
        let told = Told { begun, progress };
        let data = DataSet { rows, settings };
        filling::run(py, &self.saver, model, data, annotations.read()?, &place, &told)
    }

    /// Begins or joins a run without writing anything yet: returns the open run, or its path below the store if it is
    /// complete.
    #[expect(clippy::too_many_arguments, reason = "as above")]
    fn open(
        &self,
        py: Python<'_>,
        model: Py<Model>,
        rows: Vec<ExampleInput>,
        settings: ExtractionSettings,
        annotations: AnnotationsInput,
        place: Place,
        begun: Option<Py<PyAny>>,
    ) -> Result<(Option<OpenRun>, Option<String>), Failure> {
        let data = DataSet { rows, settings };
        filling::open(py, &self.saver, model, data, annotations.read()?, &place, begun.as_ref())
    }

    /// Renames an experiment of this store.
    fn rename(&self, py: Python<'_>, from: &str, to: &str) -> Result<(), Failure> {
        py.detach(|| self.saver.store().rename_experiment(from, to)).map_err(failure)
    }
}

/// Python values as JSON, in which `{"_tensor": N}` is the Nth of the arrays.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct ValuesInput {
    json: String,
    arrays: Vec<ArrayInput>,
}

/// An array within values: its type as safetensors spells it, its shape, its bytes.
#[derive(FromPyObject)]
struct ArrayInput(String, Vec<usize>, Vec<u8>);

impl ValuesInput {
    /// The values by key; none if this is not a mapping.
    fn entries(&self) -> Result<Vec<(String, Value<'static>)>, Failure> {
        object(&self.json)?.into_iter().map(|(key, one)| Ok((key, self.value(one)?))).collect()
    }

    fn value(&self, given: Json) -> Result<Value<'static>, Failure> {
        Ok(match given {
            Json::Object(entries) => match entries.get("_tensor").and_then(Json::as_u64) {
                Some(number) => Value::Tensor(self.array(number)?),
                None => Value::Map(
                    entries
                        .into_iter()
                        .map(|(key, one)| Ok((key, self.value(one)?)))
                        .collect::<Result<_, Failure>>()?,
                ),
            },
            Json::Array(items) => {
                Value::List(items.into_iter().map(|one| self.value(one)).collect::<Result<_, Failure>>()?)
            }
            plain => plain.into(),
        })
    }

    fn array(&self, number: u64) -> Result<store::Tensor<'static>, Failure> {
        let found = usize::try_from(number).ok().and_then(|number| self.arrays.get(number));
        let ArrayInput(dtype, shape, bytes) =
            found.ok_or_else(|| Failure::input(format!("there is no array {number}")))?;
        Ok(store::Tensor::new("", dtype.parse().map_err(failure)?, shape, bytes.clone()))
    }
}

/// What the user adds to a run besides what is computed, as Python writes it; `types` is JSON, keyed by JSON pointers.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct AnnotationsInput {
    other_metadata: ValuesInput,
    types: String,
    tags: Vec<String>,
}

impl AnnotationsInput {
    fn read(&self) -> Result<Annotations, Failure> {
        Ok(Annotations {
            tags: self.tags.clone(),
            other_metadata: self.other_metadata.entries()?,
            types: object(&self.types)?,
            dataset: None,
        })
    }
}

/// How a run came about, as Python writes it: the model's name, commit, dtype, digest and adapter; positions and
/// configuration as JSON; and `types` of the metadata as JSON, keyed by JSON pointers.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct ProvenanceInput {
    model: (String, Option<String>, Option<String>, Option<String>, Option<String>),
    positions: String,
    extraction_config: String,
    /// Under the key `interventions`, if there are any.
    interventions: ValuesInput,
    other_metadata: ValuesInput,
    types: String,
    tags: Vec<String>,
}

impl ProvenanceInput {
    fn read(&self) -> Result<Provenance<'static>, Failure> {
        let (name, revision, dtype, digest, adapter) = self.model.clone();
        let dtype = dtype.map(|name| dtype_of(&name).map(|d| dtype_name(d).to_owned()).unwrap_or(name));
        Ok(Provenance {
            model: store::Model { name, revision, adapter, dtype, digest },
            target_token_positions: json(&self.positions)?,
            interventions: self.interventions.entries()?.pop().map(|(_, value)| value),
            extraction_config: json(&self.extraction_config)?,
            other_metadata: self.other_metadata.entries()?,
            types: object(&self.types)?,
            tags: self.tags.clone(),
            dataset: None,
        })
    }
}

/// A loader's query, as Python writes it; everything but the experiment is JSON.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Asked {
    experiment_name: Option<String>,
    model_name: Option<String>,
    target_token_positions: Option<String>,
    pivot_positions: Option<String>,
    save_time: Option<String>,
    custom_keys: Option<ValuesInput>,
    extraction_config: Option<String>,
    /// Under the key `interventions`; null for runs without any.
    interventions: Option<ValuesInput>,
    /// The same in the spelling of older versions.
    or_interventions: Option<ValuesInput>,
    tags: Vec<String>,
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

    /// The runs that match every condition.
    fn query(&self, py: Python<'_>, asked: Asked) -> Result<Found, Failure> {
        let parsed = |text: Option<String>| text.as_deref().map(json).transpose();
        let custom_keys = asked.custom_keys.map_or(Ok(Vec::new()), |given| given.entries())?;
        let query = Query {
            experiment_name: asked.experiment_name,
            or_model_name: asked.model_name.as_deref().and_then(name_in_runs),
            model_name: asked.model_name,
            target_token_positions: parsed(asked.target_token_positions)?,
            pivot_positions: parsed(asked.pivot_positions)?,
            save_time: asked.save_time,
            custom_keys: custom_keys
                .into_iter()
                .map(|(key, value)| Ok((key.clone(), value.to_json(&key)?)))
                .collect::<store::Result<_>>()
                .map_err(failure)?,
            extraction_config: parsed(asked.extraction_config)?,
            matching: if asked.exact { Matching::Exact } else { Matching::Subset },
            interventions: only(asked.interventions)?,
            or_interventions: only(asked.or_interventions)?,
            tags: asked.tags,
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
    /// The path below the store and the record (JSON) of each run.
    fn runs(&self) -> Vec<(String, String)> {
        let record = |run: &store::Found| Json::Object(run.metadata.fields().clone()).to_string();
        self.lock().runs().iter().map(|run| (run.path.clone(), record(run))).collect()
    }

    /// What could not be read during the search.
    fn problems(&self) -> Vec<String> {
        let shown = |problem: &store::Problem| format!("{}: {}", problem.path, problem.error);
        self.lock().problems().iter().map(shown).collect()
    }

    /// Some of the runs, by index.
    fn pick(&self, places: Vec<usize>) -> Found {
        Found { result: Mutex::new(self.lock().pick(&places)) }
    }

    /// Refuses indices counted from the end while a run is unreadable.
    fn countable(&self) -> Result<(), Failure> {
        self.lock().is_countable().map_err(failure)
    }

    /// Runs whose records were changed after easyroutine wrote them, with remarks.
    fn edited(&self) -> Vec<String> {
        let said = |run: &store::Found| {
            run.metadata.warning().map(|warning| format!("{}: metadata.json {warning}", run.path))
        };
        self.lock().runs().iter().filter_map(said).collect()
    }

    /// Opens a run without reading its tensors. With `verify`, later reads are compared with their checksums.
    #[pyo3(signature = (which, verify=true))]
    fn open(&self, which: &Bound<'_, PyAny>, verify: bool) -> Result<Run, Failure> {
        let run = self.lock().load(which_of(which)?).map_err(failure)?;
        Ok(Run::new(if verify { run } else { run.unverified() }))
    }

    fn remove(&self, py: Python<'_>, which: &Bound<'_, PyAny>) -> Result<(), Failure> {
        let which = which_of(which)?;
        py.detach(|| self.lock().remove(which)).map_err(failure)
    }

    /// Moves a run to another experiment and returns its new path.
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

/// The value of an object with one entry.
fn only(given: Option<ValuesInput>) -> Result<Option<Value<'static>>, Failure> {
    let entries = given.map(|given| given.entries()).transpose()?;
    Ok(entries.and_then(|mut entries| entries.pop().map(|(_, value)| value)))
}

fn which_of(which: &Bound<'_, PyAny>) -> Result<Which, Failure> {
    if let Ok(name) = which.extract::<String>() {
        return Ok(Which::Name(name));
    }
    which.extract::<i64>().map(Which::Index).map_err(|_| {
        Failure::input(format!("a run is named by a number or the name of its folder, not by {which}"))
    })
}

fn json(text: &str) -> Result<Json, Failure> {
    serde_json::from_str(text).map_err(|e| Failure::input(format!("this is not JSON: {e}")))
}

/// A store error as an error of the engine.
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
