//! From files to a model: config, architecture, weights.

mod roads;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use easyroutine_files::gguf::{Array, Value as Metadatum};
use easyroutine_files::{Container, Gguf, GgufFile, MappedFile, OpenFile};
use easyroutine_kernels::{Cpu, Dtype, Simd};
use serde_json::{Map, Value, json};

use crate::adapter::{Adapter, Task};
use crate::arch::Arch;
use crate::cache::readable;
use crate::config::{Config, read_small};
use crate::error::{Error, ErrorKind, Result};
use crate::families::heads::{Asked, Kind};
use crate::families::{self, Reading, gguf};
use crate::identity::{self, Identity};
use crate::lens::LogitLens;
use crate::model::Model;
use crate::source::{self, FilesKind, ModelFiles};
use crate::tokens::Tokenizer;
use crate::weights::{Allowed, Checkpoint};
pub use roads::{TokenRoads, token_roads};

/// Options for loading a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The type of inputs to matrix products, and of packed weights.
    pub dtype: Dtype,
    /// Threads of the arithmetic; all cores by default.
    pub threads: Option<usize>,
    /// The instruction set; by default from the environment, else the best available.
    pub simd: Option<Simd>,
    /// Unknown config keys to accept.
    pub allowed_keys: Vec<String>,
    /// Surplus tensors to ignore, by name or by a pattern with `*` and `?`.
    pub allowed_tensors: Vec<String>,
    /// Bytes that weights and activations may take. A model whose weights take more is read layer by layer in each run, and
    /// an extraction takes many batches through a layer before it reads the next. Results are the same to the bit.
    pub memory: Option<u64>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            dtype: Dtype::F32,
            threads: None,
            simd: None,
            allowed_keys: Vec::new(),
            allowed_tensors: Vec::new(),
            memory: None,
        }
    }
}

impl LoadOptions {
    /// The arithmetic that these options ask for.
    ///
    /// # Errors
    /// The variable `EASYROUTINE_SIMD` names no instruction set that this processor has.
    pub fn cpu(&self) -> Result<Cpu> {
        let simd = match self.simd {
            Some(simd) => simd,
            None => Simd::from_env().map_err(Error::input)?,
        };
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Cpu::new(simd, self.threads.unwrap_or_else(all).max(1)))
    }
}

/// The tokenizer of a model. `pre` names the pre-tokenization rule for a GGUF file that does not state it.
///
/// # Errors
/// If the files have no readable tokenizer, or `pre` is given for a folder.
pub fn tokenizer(files: &ModelFiles, pre: Option<&str>) -> Result<Tokenizer> {
    match (&files.kind, pre) {
        (FilesKind::Folder(folder), None) => Tokenizer::from_folder(folder),
        (FilesKind::Folder(folder), Some(pre)) => {
            Err(Error::input(format!("`{}` names a rule for GGUF files", pre.escape_debug()))
                .hint("the tokenizer.json of a folder has its own")
                .at(folder.display()))
        }
        (FilesKind::Gguf(file), pre) => Tokenizer::from_gguf_cut_as(GgufFile::open(file)?.gguf(), pre),
    }
}

/// A model whose config is read and whose files are mapped; no weight has been read yet.
#[derive(Debug)]
pub struct Opened {
    /// The contents of the config.
    pub reading: Reading,
    /// The config as transformers writes it; for a GGUF file derived from its metadata.
    pub config: Map<String, Value>,
    /// The model's identity: covers every file it is built from, and every choice that changes its numbers. Anything
    /// else that is read or chosen while building is added to it.
    pub identity: Identity,
    /// Notes to the user on what is left out of the model.
    pub notes: Vec<String>,
    /// Warnings about how the files are read: allowed keys, sources that disagree, an adapter.
    pub warnings: Vec<String>,
    pub(crate) checkpoint: Arc<Checkpoint>,
}

impl Opened {
    /// What the model computes.
    pub fn arch(&self) -> &Arch {
        &self.reading.arch
    }

    /// Number of tensors in each part of the model that is left out, such as a vision tower, by name prefix.
    pub fn left_out(&self) -> BTreeMap<&str, usize> {
        self.checkpoint.left_out(&self.reading.names)
    }

    /// The adapter applied.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.checkpoint.adapter()
    }

    /// Finds all weights and reads the small ones. Matrices are read on demand and packed as soon as that pays; until
    /// then the files must not change, which every run checks.
    ///
    /// # Errors
    /// If a tensor is missing, surplus, of the wrong shape or not floating point, or memory does not hold a layer.
    pub fn build(self, options: &LoadOptions) -> Result<Model> {
        let memory = match options.memory {
            Some(memory) => {
                Some((memory, self.weight_bytes(options.dtype)?)).filter(|(of, needed)| needed > of)
            }
            None => None,
        };
        let Opened { reading, checkpoint, mut warnings, notes, .. } = self;
        warnings.extend(notes);
        let mut model = Model::build(
            reading.arch,
            &reading.names,
            checkpoint,
            options.cpu()?,
            options.dtype,
            memory.map(|(of, _)| of),
        )?;
        model.warned_before(warnings);
        if let Some((memory, needed)) = memory {
            model.warned(format!(
                "the weights need {} and memory holds {}: each run reads them layer by layer",
                readable(needed),
                readable(memory)
            ));
        }
        Ok(model)
    }

    /// Reads only the final norm and the unembedding.
    ///
    /// # Errors
    /// As [`Opened::build`], for these tensors.
    pub fn lens(self, options: &LoadOptions) -> Result<LogitLens> {
        let cpu = options.cpu()?;
        let unembedding = crate::model::build_unembedding(
            &self.reading.arch,
            &self.reading.names,
            &self.checkpoint,
            &cpu,
            options.dtype,
        )?;
        self.checkpoint.check_unchanged()?;
        Ok(LogitLens::of_arch(Arc::new(unembedding), cpu, &self.reading.arch))
    }
}

/// Opens a model and finds all its weights.
///
/// # Errors
/// As [`open`] and [`Opened::build`].
pub fn load(files: &ModelFiles, options: &LoadOptions) -> Result<Model> {
    open(files, options)?.build(options)
}

/// Reads a model's config and maps its files.
///
/// # Errors
/// If files cannot be read, no family reads the config, it has unknown keys, or tensors are surplus.
pub fn open(files: &ModelFiles, options: &LoadOptions) -> Result<Opened> {
    let adapter =
        files.adapter.as_deref().map(|folder| Adapter::open(folder, &options.allowed_keys)).transpose()?;
    let mut opened = match &files.kind {
        FilesKind::Folder(folder) => open_folder(folder, adapter, options)?,
        FilesKind::Gguf(file) => open_gguf(file, adapter, options).map_err(|e| e.in_file(file))?,
    };
    let mut let_through = opened.reading.let_through.clone();
    let_through.extend(opened.adapter().into_iter().flat_map(|adapter| adapter.let_through().to_vec()));
    for key in &let_through {
        opened.warnings.push(format!("config key `{key}` was let through: it is not computed"));
    }
    // Metadata of a GGUF file may be named without its architecture.
    let is = |whole: &str, key: &str| {
        whole.strip_suffix(key).is_some_and(|start| start.is_empty() || start.ends_with('.'))
    };
    let idle = |key: &&String| !let_through.iter().any(|whole| is(whole, key));
    let idle: Vec<&String> = options.allowed_keys.iter().filter(idle).collect();
    if !idle.is_empty() {
        let names = crate::error::list(&idle);
        opened
            .warnings
            .push(format!("no unknown config key is called {names}: allowing that changes nothing"));
    }
    let of_adapter = opened.adapter().map(|adapter| adapter_warnings(adapter, files, &opened)).transpose()?;
    opened.warnings.extend(of_adapter.into_iter().flatten());
    Ok(opened)
}

/// Warnings about an adapter: that it is applied, and where it disagrees with the model's files.
fn adapter_warnings(adapter: &Adapter, files: &ModelFiles, opened: &Opened) -> Result<Vec<String>> {
    let modules = opened.checkpoint.names(&opened.reading.names);
    let modules: Vec<&str> = modules.into_iter().filter_map(|name| name.strip_suffix(".weight")).collect();
    let place = adapter.folder().display();
    let mut warnings = vec![source::adapter_warning(files).unwrap_or_else(|| {
        format!("the adapter of {place} is applied; --no-adapter reads the model without it")
    })];
    let missing = adapter.missing(modules.into_iter());
    if !missing.is_empty() {
        let names = crate::error::list(&missing);
        warnings
            .push(format!("the adapter has no tensors of {names}, which it targets: they stay as they are"));
    }
    let own = adapter.folder().join("tokenizer.json");
    if own.is_file() && adapter.folder() != files.path() {
        let base = match &files.kind {
            FilesKind::Folder(folder) => std::fs::read(folder.join("tokenizer.json")).ok(),
            FilesKind::Gguf(_) => None,
        };
        if base.is_none() || base != std::fs::read(&own).ok() {
            warnings.push(format!(
                "{}: text is cut by the base model's tokenizer, not by this other one",
                own.display()
            ));
        }
    }
    Ok(warnings)
}

/// The ids that end this model's text: `eos_token_id` of generation_config.json, else of config.json; for a GGUF file,
/// the tokens that end a sequence, a turn or a message. Empty if none are stated.
///
/// # Errors
/// If a file cannot be read, or holds invalid ids.
pub fn end_ids(files: &ModelFiles) -> Result<Vec<u32>> {
    let wrong = |place: &Path| {
        Error::new(ErrorKind::Format, format!("{}: `eos_token_id` holds no id", place.display()))
    };
    match &files.kind {
        FilesKind::Folder(folder) => {
            for name in ["generation_config.json", "config.json"] {
                let path = folder.join(name);
                if !path.exists() {
                    continue;
                }
                let config: Value = serde_json::from_slice(&read_small(&path)?).map_err(|e| {
                    Error::new(ErrorKind::Format, format!("{}: {e}", path.display())).because(e)
                })?;
                let id = |value: &Value| {
                    value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong(&path))
                };
                match config.get("eos_token_id") {
                    None | Some(Value::Null) => {}
                    Some(Value::Array(list)) => return list.iter().map(id).collect(),
                    Some(one) => return Ok(vec![id(one)?]),
                }
            }
            Ok(Vec::new())
        }
        FilesKind::Gguf(file) => {
            let opened = GgufFile::open(file)?;
            let keys = ["eos_token_id", "eot_token_id", "eom_token_id"];
            let ids = keys.iter().filter_map(|key| {
                match opened.gguf().metadata.get(&format!("tokenizer.ggml.{key}")) {
                    Some(Metadatum::Unsigned(id)) => u32::try_from(*id).ok(),
                    _ => None,
                }
            });
            Ok(ids.collect())
        }
    }
}

fn open_folder(folder: &Path, adapter: Option<Adapter>, options: &LoadOptions) -> Result<Opened> {
    let path = folder.join("config.json");
    let bytes = read_small(&path)?;
    let config = Config::parse(&bytes).map_err(|e| e.at(folder.display()))?;
    let mut reading = families::read_with(&config, asked_head(adapter.as_ref()), &options.allowed_keys)?;
    let container = Container::open(folder)?;
    refuse_quantised(&container)?;
    settle_prefix(&mut reading, &container);
    let allowed = Allowed::parse(&options.allowed_tensors)?;
    let checkpoint = Arc::new(Checkpoint::plain(container).adapted(adapter).allowing(allowed));
    let mut warnings = reading.warnings.clone();
    warnings.extend(source::beside_warnings(folder)?);
    let mut identity = identity_of(&checkpoint, &reading);
    identity.add("config", identity::of_config(config.as_map()));
    for name in source::files_of_tokens().filter(|name| folder.join(name).is_file()) {
        match OpenFile::open(folder.join(name)) {
            Ok(file) => identity.add_file(name, Arc::new(file)),
            // A model runs on ids without its tokenizer; using the tokenizer reports the error.
            Err(_) => identity.add(name, json!("cannot be read")),
        }
    }
    let notes = notes_of(&checkpoint, &reading);
    Ok(Opened { reading, config: config.as_map().clone(), identity, notes, warnings, checkpoint })
}

/// Notes on what is left out.
fn notes_of(checkpoint: &Checkpoint, reading: &Reading) -> Vec<String> {
    let parts = checkpoint.left_out(&reading.names).into_iter();
    let parts: Vec<String> = parts.map(|(part, count)| format!("{count} of `{part}*`")).collect();
    let Some(wrapper) = reading.wrapper else {
        let of_further = || format!("tensors that predict further tokens are left out: {}", parts.join(", "));
        return (!parts.is_empty()).then(of_further).into_iter().collect();
    };
    let tensors = if parts.is_empty() { "the files hold no others".to_owned() } else { parts.join(", ") };
    vec![format!("only the text decoder of this {wrapper} is read; tensors left out: {tensors}")]
}

/// The head that an adapter was trained with. An adapter for feature extraction keeps the base's.
fn asked_head(adapter: Option<&Adapter>) -> Option<Asked> {
    let adapter = adapter?;
    let kind = match adapter.task()? {
        Task::CausalLm => Kind::Unembedding,
        Task::SequenceClassification => Kind::Sequence,
        Task::TokenClassification => Kind::Token,
        Task::QuestionAnswering => Kind::Answer,
        Task::FeatureExtraction => return None,
    };
    Some(Asked { kind, labels: adapter.rows_of(&["score.weight", "classifier.weight", "qa_outputs.weight"]) })
}

/// Classes with other heads may name the base model differently (`transformer.` instead of `model.`).
fn settle_prefix(reading: &mut Reading, container: &Container) {
    let names = &mut reading.names;
    let first = names.layer.replace("{}", "0");
    let stored = container.names();
    let fits =
        |prefix: &str| stored.iter().any(|n| n.strip_prefix(prefix).is_some_and(|n| n.starts_with(&first)));
    if let Some(spelling) = names.spellings.iter().find(|spelling| fits(spelling.prefix)) {
        (names.prefix, names.unembed) = (spelling.prefix, spelling.unembed);
    }
    if !fits(names.prefix) && !fits("") {
        names.prefix = ["model.", "transformer."].into_iter().find(|p| fits(p)).unwrap_or(names.prefix);
    }
}

/// Refuses quantised weights that config.json does not declare.
fn refuse_quantised(container: &Container) -> Result<()> {
    const MARKS: &[&str] =
        &[".qweight", ".qzeros", ".weight_packed", ".weight.absmax", ".weight.quant_map", ".SCB"];
    let names = container.names();
    let marked: Vec<&str> =
        names.into_iter().filter(|name| MARKS.iter().any(|mark| name.ends_with(mark))).take(3).collect();
    if marked.is_empty() {
        return Ok(());
    }
    let message =
        format!("quantised weights are not supported: the file holds {}", crate::error::list(&marked));
    Err(Error::new(ErrorKind::Unsupported, message)
        .hint("use the model's bf16, f16 or f32 safetensors, or a GGUF file"))
}

fn open_gguf(path: &Path, adapter: Option<Adapter>, options: &LoadOptions) -> Result<Opened> {
    let allowed_keys = &options.allowed_keys;
    let mut file = GgufFile::open(path)?;
    let metadata = json_of(file.gguf());
    for (fused, among) in gguf::divisions(&metadata, &shapes(&file))? {
        file.divide(&fused, &among)?;
    }
    let tensors = shapes(&file);
    let values = |name: &str| file.tensor(name).map(|tensor| tensor.read_all()).transpose();
    let divisors = values("rope_freqs.weight")?;
    let factors = (values("rope_factors_short.weight")?, values("rope_factors_long.weight")?);
    let header = gguf::Header {
        metadata: &metadata,
        tensors: &tensors,
        rope_divisors: divisors.as_deref(),
        rope_factors: factors.0.as_deref().zip(factors.1.as_deref()).map(|(short, long)| [short, long]),
    };
    let (config, mut let_through) = gguf::config(&header, allowed_keys)?;
    let config = Config::from_map("config of the GGUF file", config);
    let mut reading = families::read(&config, allowed_keys)?;
    reading.let_through.append(&mut let_through);
    let architecture = file.gguf().str("general.architecture")?.unwrap_or_default().to_owned();
    let places = gguf::tensor_names(&architecture, &reading.arch, &tensors)?;
    let made = gguf::made(&header, reading.arch.layers.len())?;
    let allowed = Allowed::parse(&options.allowed_tensors)?;
    let checkpoint = Checkpoint::renamed(Container::Gguf(file), places.tensors).with(made);
    let checkpoint = checkpoint.adapted(adapter).allowing(allowed);
    let (config, checkpoint) = (config.as_map().clone(), Arc::new(checkpoint));
    // Config and tokenizer are in the file.
    let identity = identity_of(&checkpoint, &reading);
    let notes = match places.left_out {
        0 => Vec::new(),
        n => vec![format!("{n} tensors of layers that predict further tokens are left out")],
    };
    let warnings = places.unsaid.map(str::to_owned).into_iter().collect();
    Ok(Opened { reading, config, identity, notes, warnings, checkpoint })
}

/// The weights, and the allowed config keys: only a program that knows such a key knows which numbers it changes.
fn identity_of(checkpoint: &Checkpoint, reading: &Reading) -> Identity {
    let mut identity = Identity::default();
    for file in checkpoint.files() {
        let Some(opened) = file.opened() else { continue };
        // A single file may have any name; shards are distinguished by theirs.
        let name = match checkpoint.files().len() {
            1 => "weights".into(),
            _ => file.path().file_name().unwrap_or_default().to_string_lossy(),
        };
        identity.add_file(name, Arc::clone(opened));
    }
    if let Some(adapter) = checkpoint.adapter() {
        for opened in adapter.files().filter_map(MappedFile::opened) {
            identity.add_file("adapter", Arc::clone(opened));
        }
        identity.add("adapter_config", identity::of_config(adapter.config()));
    }
    let mut let_through = reading.let_through.clone();
    let_through.sort();
    identity.add("let_through", json!(let_through));
    identity
}

fn shapes(file: &GgufFile) -> gguf::Tensors {
    let shape = |name: &str| file.tensor(name).map(|tensor| (name.to_owned(), tensor.shape().to_vec()));
    file.names().filter_map(shape).collect()
}

/// Metadata as JSON, without the tokenizer's long lists of strings.
fn json_of(gguf: &Gguf) -> Map<String, Value> {
    let mut map = Map::new();
    for (key, value) in &gguf.metadata {
        let value = match value {
            Metadatum::Unsigned(x) => Value::from(*x),
            Metadatum::Signed(x) => Value::from(*x),
            Metadatum::Float(x) => Value::from(shortest(*x)),
            Metadatum::Bool(x) => Value::from(*x),
            Metadatum::Str(x) => Value::from(x.as_str()),
            Metadatum::Array(array) if key.starts_with("tokenizer.") && array.len() > 64 => continue,
            Metadatum::Array(Array::Unsigned(list)) => Value::from(list.clone()),
            Metadatum::Array(Array::Signed(list)) => Value::from(list.clone()),
            Metadatum::Array(Array::Float(list)) => list.iter().map(|x| shortest(*x)).collect(),
            Metadatum::Array(Array::Bool(list)) => Value::from(list.clone()),
            Metadatum::Array(Array::Str(list)) => Value::from(list.clone()),
        };
        map.insert(key.clone(), value);
    }
    map
}

/// The shortest decimal of a number stored as f32, so that 1e-5 stays 1e-5.
fn shortest(x: f64) -> f64 {
    let narrow = x as f32;
    if f64::from(narrow) == x { narrow.to_string().parse().unwrap_or(x) } else { x }
}
