//! A loaded model.

use std::path::PathBuf;
use std::sync::Arc;

use easyroutine::arch::Head;
use easyroutine::cache::{RunningMean, parse_bytes};
use easyroutine::extraction::ExtractionConfig;
use easyroutine::identity::Identity;
use easyroutine::load::{self, LoadOptions};
use easyroutine::names::Names;
use easyroutine::positions::{Context, Row, Specifier};
use easyroutine::source::ModelFiles;
use easyroutine::tokens::Tokenizer as Engine;
use easyroutine::{Batch, Dtype, Stop};
use easyroutine_app::memory::bounded;
use easyroutine_app::reports::Subject;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::{Map, Value};

use crate::attribution;
use crate::cache;
use crate::comparison;
use crate::dla;
use crate::edges;
use crate::edits::{self, InterventionInput};
use crate::errors::Failure;
use crate::extract;
use crate::generate;
use crate::gradients;
use crate::graph;
use crate::hooks::{HookInput, Hooks};
use crate::interrupt::{Signals, waiting};
use crate::patching;
use crate::source;
use crate::tensor::Tensor;
use crate::tokenizer::Tokenizer;

/// A model with its weights packed.
#[pyclass(frozen, module = "easyroutine._core")]
pub(crate) struct Model {
    pub(crate) model: Arc<easyroutine::Model>,
    pub(crate) files: ModelFiles,
    pub(crate) model_type: &'static str,
    pub(crate) tokenizer: Option<Arc<Engine>>,
    /// The requested rule for cutting text.
    pre: Option<String>,
    config: Map<String, Value>,
    pub(crate) identity: Identity,
    /// How its files name tensors and modules.
    pub(crate) names: Names,
}

/// One row of a batch: its ids; and its text with the span of each token, where known.
pub(crate) type RowInput = (Vec<u32>, Option<(String, Vec<(usize, usize)>)>);

#[pymethods]
impl Model {
    /// Finds a model's files and loads them.
    #[staticmethod]
    #[pyo3(signature = (reference, *, dtype, threads=None, memory=None, revision=None, offline=false, allow_config_keys=Vec::new(), allow_tensors=Vec::new(), adapter=None, with_adapter=true, pre=None, progress=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python function")]
    fn open(
        py: Python<'_>,
        reference: &str,
        dtype: &str,
        threads: Option<usize>,
        memory: Option<String>,
        revision: Option<String>,
        offline: bool,
        allow_config_keys: Vec<String>,
        allow_tensors: Vec<String>,
        adapter: Option<String>,
        with_adapter: bool,
        pre: Option<String>,
        progress: Option<Py<PyAny>>,
    ) -> Result<Model, Failure> {
        let dtype = dtype_of(dtype)?;
        let memory = memory.as_deref().map(parse_bytes).transpose()?;
        let adapter = source::adapter(adapter, with_adapter);
        let files = source::find(py, reference, revision, offline, adapter, progress)?;
        waiting(py, move || {
            let options = LoadOptions {
                dtype,
                threads,
                memory,
                allowed_keys: allow_config_keys,
                allowed_tensors: allow_tensors,
                ..LoadOptions::default()
            };
            let opened = load::open(&files, &options)?;
            let options = bounded(&opened, options)?;
            let model_type = opened.reading.family.model_type;
            let config = opened.config.clone();
            let identity = opened.identity.clone();
            let names = opened.reading.names.clone();
            let model = Arc::new(opened.build(&options)?);
            // A model without a tokenizer still runs on ids; asking for the tokenizer raises the error.
            let tokenizer = load::tokenizer(&files, pre.as_deref()).ok().map(Arc::new);
            Ok(Model { model, files, model_type, tokenizer, pre, config, identity, names })
        })
    }

    /// The hub id, else the stem of the folder or file name.
    #[getter]
    pub(crate) fn name(&self) -> &str {
        &self.files.name
    }

    /// The commit on the hub, if known.
    #[getter]
    fn commit(&self) -> Option<&str> {
        self.files.commit.as_deref()
    }

    /// A digest of its content; the first call reads all files.
    fn digest(&self, py: Python<'_>) -> Result<String, Failure> {
        Ok(py.detach(|| self.identity.digest().map(str::to_owned))?)
    }

    /// The folder, or the GGUF file.
    #[getter]
    fn path(&self) -> String {
        self.files.path().display().to_string()
    }

    #[getter]
    fn model_type(&self) -> &'static str {
        self.model_type
    }

    /// Warnings about how its files were read.
    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.model.warnings().to_vec()
    }

    /// What reads its last stream: `unembedding`, `score` or `nothing`.
    #[getter]
    fn head(&self) -> &'static str {
        match self.model.arch().head {
            Head::Unembedding => "unembedding",
            Head::Score(_) => "score",
            Head::Nothing { .. } => "nothing",
        }
    }

    /// The folder of the applied adapter.
    #[getter]
    fn adapter(&self) -> Option<String> {
        self.files.adapter.as_ref().map(|folder| folder.display().to_string())
    }

    /// The adapter's name in records.
    #[getter]
    fn adapter_name(&self) -> Option<String> {
        self.files.adapter_name()
    }

    /// config.json, or its equivalent in a GGUF file.
    #[getter]
    fn config(&self) -> String {
        Value::Object(self.config.clone()).to_string()
    }

    /// Sizes, under transformers' names.
    #[getter]
    fn sizes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let arch = self.model.arch();
        let sizes = PyDict::new(py);
        let entries = [
            ("num_hidden_layers", arch.layers.len()),
            ("hidden_size", arch.d_model),
            ("num_attention_heads", arch.n_heads),
            ("num_key_value_heads", arch.n_kv_heads),
            ("num_key_value_groups", arch.n_heads / arch.n_kv_heads.max(1)),
            ("head_dim", arch.d_head),
            ("vocab_size", arch.vocabulary),
            ("max_position_embeddings", arch.context),
        ];
        entries.into_iter().try_for_each(|(name, size)| sizes.set_item(name, size))?;
        Ok(sizes)
    }

    #[getter]
    pub(crate) fn dtype(&self) -> &'static str {
        match self.model.dtype() {
            Dtype::F32 => "float32",
            _ => "bfloat16",
        }
    }

    #[getter]
    fn threads(&self) -> usize {
        self.model.cpu().threads()
    }

    /// Whether it has a readable tokenizer.
    #[getter]
    fn has_tokenizer(&self) -> bool {
        self.tokenizer.is_some()
    }

    /// The model's tokenizer.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer, Failure> {
        let tokenizer = match &self.tokenizer {
            Some(tokenizer) => Arc::clone(tokenizer),
            None => Arc::new(load::tokenizer(&self.files, self.pre.as_deref())?),
        };
        Ok(Tokenizer { tokenizer })
    }

    /// Runs rows and keeps what the configuration requests; see `cache::to_python` for the result.
    ///
    /// `running` holds means over the first `running_rows` examples, `avg_pattern_L0H0` and so on. `n_new` counts the
    /// generated ids at the end of each row; empty means none.
    #[pyo3(signature = (rows, *, positions, config, interventions=Vec::new(), hooks=Vec::new(), pivots=Vec::new(),
        seed=0, first_row=0, running=Vec::new(), running_rows=0, n_new=Vec::new()))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python function")]
    fn forward<'py>(
        &self,
        py: Python<'py>,
        rows: Vec<RowInput>,
        positions: &str,
        config: &str,
        interventions: Vec<InterventionInput>,
        hooks: Vec<HookInput>,
        pivots: Vec<i64>,
        seed: u64,
        first_row: usize,
        running: Vec<(String, Py<Tensor>)>,
        running_rows: usize,
        n_new: Vec<usize>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let mean = running_mean(&running, running_rows)?;
        let config = ExtractionConfig::from_json(&object(config)?).map_err(Failure::from)?;
        let request = config.request(&specifiers(positions)?).map_err(Failure::from)?;
        let mut views = views(&rows, first_row);
        views.iter_mut().zip(n_new).for_each(|(row, n_new)| row.n_new = n_new);
        let context = Context { special: self.special(), pivots: &pivots, seed };
        let changes = edits::read(&interventions, self.model.arch())?;
        let edits = changes.checked(py, &self.model, &views, context)?;
        let mut hooks = Hooks::new(&self.model, hooks)?;
        let signals = Signals::new();
        let work = || {
            let batch = Batch::new(&rows.iter().map(|(ids, _)| ids.as_slice()).collect::<Vec<_>>())?;
            let tokens = request.tokens(&views, context)?;
            let mut capture = request.capture(self.model.arch(), tokens, mean)?;
            let mut taps = (edits, (&mut hooks, &mut capture));
            let stop = Stop::When(&|| signals.is_stopped());
            self.model.forward_until(&batch, &mut taps, stop).map_err(|error| signals.failure(error))?;
            Ok(capture.finish(&batch))
        };
        let kept = py.detach(work).map_err(|failure| hooks.failure(failure))?;
        cache::to_python(py, kept)
    }

    /// Runs a data set in packed batches; see `cache::to_python` for the result.
    fn extract<'py>(
        &self,
        py: Python<'py>,
        rows: Vec<extract::ExampleInput>,
        settings: extract::ExtractionSettings,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        extract::run(py, self, rows, &settings, progress)
    }

    /// Continues rows; for each, returns its new ids, their log-probabilities and why it ended.
    fn generate(
        &self,
        py: Python<'_>,
        rows: Vec<RowInput>,
        settings: generate::GenerationSettings,
        interventions: Vec<InterventionInput>,
        hooks: Vec<HookInput>,
    ) -> Result<generate::Continued, Failure> {
        generate::run(py, self, &rows, &interventions, hooks, settings)
    }

    /// Raises the error of a hook whose places do not exist.
    fn check_hook(&self, py: Python<'_>, component: String) -> Result<(), Failure> {
        Hooks::new(&self.model, vec![(component, py.None(), true)]).map(|_| ())
    }

    /// Ids after which a text ends.
    fn end_ids(&self) -> Result<Vec<u32>, Failure> {
        Ok(load::end_ids(&self.files)?)
    }

    /// Puts activations of base rows into target rows; `labels` are the tokens of base and target.
    fn patching<'py>(
        &self,
        py: Python<'py>,
        base: Vec<RowInput>,
        target: Vec<RowInput>,
        patches: Vec<patching::PatchInput>,
        labels: Option<Vec<(u32, u32)>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        patching::compute(py, self, &base, &target, &patches, labels)
    }

    /// Direct contributions to a logit difference; see `dla::run` for the result.
    fn direct_attribution<'py>(
        &self,
        py: Python<'py>,
        rows: Vec<RowInput>,
        wishes: dla::AttributionSettings,
    ) -> PyResult<Bound<'py, PyDict>> {
        dla::run(py, self, &rows, &wishes)
    }

    /// Gradients of a metric or of vectors; see `gradients::run` for the result.
    fn gradients<'py>(
        &self,
        py: Python<'py>,
        rows: Vec<RowInput>,
        wishes: gradients::GradientSettings,
    ) -> PyResult<Bound<'py, PyDict>> {
        gradients::run(py, self, &rows, &wishes)
    }

    /// Scores of attribution patching; see `attribution::patching` for the result.
    fn attribution_patching<'py>(
        &self,
        py: Python<'py>,
        base: Vec<RowInput>,
        target: Vec<RowInput>,
        wishes: attribution::PatchingSettings,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        attribution::patching(py, self, &base, &target, &wishes, progress)
    }

    /// Integrated gradients; see `attribution::integrated` for the result.
    fn integrated_gradients<'py>(
        &self,
        py: Python<'py>,
        rows: Vec<RowInput>,
        baseline: Option<Vec<RowInput>>,
        wishes: attribution::IntegralSettings,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        attribution::integrated(py, self, &rows, baseline.as_deref(), &wishes, progress)
    }

    /// The circuit of the largest edges; see `edges::edges` for the result.
    fn edges(
        &self,
        py: Python<'_>,
        clean: Vec<RowInput>,
        corrupt: Vec<RowInput>,
        wishes: edges::EdgeSettings,
        progress: Option<Py<PyAny>>,
    ) -> Result<String, Failure> {
        edges::edges(py, self, &clean, &corrupt, &wishes, progress)
    }

    /// The attribution graph of a row, and warnings.
    fn attribution_graph(
        &self,
        py: Python<'_>,
        row: Vec<u32>,
        wishes: graph::GraphSettings,
        progress: Option<Py<PyAny>>,
    ) -> Result<(graph::AttributionGraph, Vec<String>), Failure> {
        graph::make(py, self, &row, wishes, progress)
    }

    /// Fits a Jacobian lens and writes it; returns the file's description as JSON.
    fn fit_jacobian(
        &self,
        py: Python<'_>,
        rows: Vec<Vec<u32>>,
        path: PathBuf,
        skip_first: usize,
        resume: bool,
        progress: Option<Py<PyAny>>,
    ) -> Result<String, Failure> {
        edges::fit_jacobian(py, self, &rows, &path, skip_first, resume, progress)
    }

    /// Compares the activations in a file with ours; returns JSON.
    fn compare(
        &self,
        py: Python<'_>,
        file: PathBuf,
        tolerance: Option<f64>,
        exact: bool,
    ) -> Result<String, Failure> {
        comparison::run(py, self, &file, tolerance, exact)
    }

    /// Trains a tuned lens and saves it; returns the mean loss of every step.
    fn tune(
        &self,
        py: Python<'_>,
        rows: Vec<Vec<u32>>,
        folder: PathBuf,
        wishes: edges::TuneSettings,
        progress: Option<Py<PyAny>>,
    ) -> Result<Vec<f64>, Failure> {
        edges::tune(py, self, &rows, &folder, &wishes, progress)
    }

    /// Makes a sweep's changes to one row, one after another; returns the grid as JSON.
    fn sweep(
        &self,
        py: Python<'_>,
        row: Vec<u32>,
        sweep: patching::SweepInput,
        progress: Option<Py<PyAny>>,
    ) -> Result<String, Failure> {
        patching::sweep(py, self, &row, sweep, progress)
    }
}

impl Model {
    /// The subject of a report on a prompt.
    pub(crate) fn subject<'a>(&'a self, tokenizer: &'a Engine, ids: &'a [u32]) -> Subject<'a> {
        Subject {
            files: &self.files,
            model_type: self.model_type,
            model: &self.model,
            tokenizer,
            ids,
            starts_with_bos: tokenizer.bos_id().is_some() && ids.first().copied() == tokenizer.bos_id(),
        }
    }

    /// Ids that the tokenizer marks as special.
    pub(crate) fn special(&self) -> &[u32] {
        self.tokenizer.as_ref().map_or(&[], |tokenizer| tokenizer.special_ids())
    }
}

/// Rows as the engine takes them, numbered from `first_row`, the first one's number in the data set.
pub(crate) fn views(rows: &[RowInput], first_row: usize) -> Vec<Row<'_>> {
    rows.iter().enumerate().map(|(number, row)| view(first_row + number, row)).collect()
}

fn view(number: usize, (ids, text): &RowInput) -> Row<'_> {
    Row { number, ids, text: text.as_ref().map(|(text, spans)| (text.as_str(), spans.as_slice())), n_new: 0 }
}

/// The means over earlier examples to continue from.
fn running_mean(means: &[(String, Py<Tensor>)], rows: usize) -> Result<RunningMean, Failure> {
    let mut running = RunningMean::default();
    for (key, tensor) in means {
        let point = key.strip_prefix("avg_").unwrap_or(key).parse().map_err(easyroutine::Error::from)?;
        let tensor = tensor.get();
        // One row of [T, T]: the first axis is that row.
        let shape = tensor.shape.get(1..).unwrap_or(&[]);
        running.seed(point, shape, &tensor.floats(), rows)?;
    }
    Ok(running)
}

/// The type that matrix products read.
pub(crate) fn dtype_of(name: &str) -> Result<Dtype, Failure> {
    match name {
        "float32" | "f32" => Ok(Dtype::F32),
        "bfloat16" | "bf16" => Ok(Dtype::Bf16),
        _ => Err(Failure::input(format!("dtype is float32 or bfloat16, not {name}"))),
    }
}

/// A JSON object.
pub(crate) fn object(text: &str) -> Result<Map<String, Value>, Failure> {
    serde_json::from_str(text).map_err(|e| Failure::input(format!("this is not a JSON object: {e}")))
}

/// Positions as a JSON list.
pub(crate) fn specifiers(text: &str) -> Result<Vec<Specifier>, Failure> {
    let list: Vec<Value> = serde_json::from_str(text)
        .map_err(|e| Failure::input(format!("this is not a list of positions: {e}")))?;
    Ok(list.iter().map(Specifier::from_json).collect::<easyroutine::Result<_>>()?)
}
