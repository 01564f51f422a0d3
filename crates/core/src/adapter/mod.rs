//! LoRA adapters as written by peft: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! An adapter changes a model in two ways. A low-rank update adds `scale * B A` to the weight of a module; a
//! replacement substitutes one of the model's tensors (biases, `modules_to_save`). The rules are those of peft 0.21,
//! `tuners/lora/` and `utils/save_and_load.py`: the tensors determine which modules are updated, the config must agree,
//! and anything that neither names is refused.

mod settings;
mod targets;
mod tensors;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use easyroutine_files::{MappedFile, ShardedSafeTensors, StoredTensor};
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use settings::Settings;
pub use settings::Task;

/// The config file of an adapter.
pub const CONFIG: &str = "adapter_config.json";
/// The tensor file of an adapter.
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// The hint for an unsupported adapter.
pub(crate) const MERGE: &str = "merge it in Python: `PeftModel.from_pretrained(BASE, \
    ADAPTER).merge_and_unload().save_pretrained(NEW)` writes a plain model; --no-adapter reads the model without it";

/// An opened adapter, which tracks what has been used.
#[derive(Debug)]
pub struct Adapter {
    folder: PathBuf,
    config: Map<String, Value>,
    settings: Settings,
    weights: ShardedSafeTensors,
    /// Updated module -> its update.
    updates: BTreeMap<String, Update>,
    /// Tensor of the base model -> the adapter's tensor that replaces it.
    replaced: BTreeMap<String, String>,
    used: Mutex<BTreeSet<String>>,
}

/// The tensors of one low-rank update.
#[derive(Debug, Clone, PartialEq)]
struct Update {
    kind: Kind,
    /// Name of A: `[rank, inputs]`, or `[rank, rows]` for a table.
    a: String,
    /// Name of B: `[outputs, rank]`, or `[width, rank]` for a table.
    b: String,
    /// Name of B's bias, if there is one.
    bias: Option<String>,
    rank: usize,
    scale: f64,
}

/// The kind of an updated module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A projection.
    Linear,
    /// An embedding table.
    Embedding,
}

/// What an update adds to a weight: `B A`, with the scale in B.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LowRank {
    pub(crate) rank: usize,
    /// `[rank, inputs]`
    pub(crate) a: Vec<f32>,
    /// `[outputs, rank]`
    pub(crate) b: Vec<f32>,
    /// Added to the outputs.
    pub(crate) bias: Option<Vec<f32>>,
}

impl LowRank {
    /// Adds this update's row for an output to that output's weights.
    ///
    /// # Shapes
    /// `weights`: inputs.
    pub(crate) fn add_row(&self, output: usize, weights: &mut [f32]) {
        let factors = &self.b[output * self.rank..][..self.rank];
        for (factor, row) in factors.iter().zip(self.a.chunks_exact(weights.len())) {
            weights.iter_mut().zip(row).for_each(|(weight, x)| *weight += factor * x);
        }
    }
}

impl Adapter {
    /// Opens the adapter in a folder. `allowed` lists unknown config keys to accept.
    ///
    /// # Errors
    /// If files are missing or incomplete, the kind of adapter is not supported, or keys or tensors are unknown (all
    /// are named).
    pub fn open(folder: &Path, allowed: &[String]) -> Result<Self> {
        Self::read(folder, allowed).map_err(|e| e.at(folder.display()))
    }

    fn read(folder: &Path, allowed: &[String]) -> Result<Self> {
        let config = read_config(folder)?;
        let settings = Settings::read(&config, allowed)?;
        let path = folder.join(WEIGHTS);
        if !path.is_file() {
            let message = match folder.join("adapter_model.bin").is_file() {
                true => {
                    "the adapter's weights are only there as `adapter_model.bin`, a pickle file, which is never read"
                }
                false => "`adapter_config.json` stands without `adapter_model.safetensors`",
            };
            return Err(Error::new(ErrorKind::Unsupported, message).hint(
                "`PeftModel.from_pretrained(BASE, ADAPTER).save_pretrained(NEW)` in Python writes safetensors; \
                 --no-adapter reads the model without it",
            ));
        }
        let weights = ShardedSafeTensors::open(&path)?;
        let (updates, replaced) = tensors::sort(&weights, &settings)?;
        Ok(Adapter {
            folder: folder.to_owned(),
            config: config.as_map().clone(),
            settings,
            weights,
            updates,
            replaced,
            used: Mutex::default(),
        })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its config.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// Unknown keys of its config that were allowed by name.
    pub fn let_through(&self) -> &[String] {
        &self.settings.let_through
    }

    /// Its mapped files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &MappedFile> {
        self.weights.files()
    }

    /// The base model named in its config.
    pub fn base(&self) -> Option<&str> {
        self.settings.base.as_deref()
    }

    /// The task of the adapted model, if the config says.
    pub fn task(&self) -> Option<Task> {
        self.settings.task
    }

    /// Rows of the first of these base model tensors that it replaces.
    pub(crate) fn rows_of(&self, tensors: &[&str]) -> Option<usize> {
        let own = tensors.iter().find_map(|name| self.replaced.get(*name))?;
        self.weights.tensor(own).map(|tensor| tensor.rows())
    }

    /// Number of its weights.
    pub fn parameters(&self) -> usize {
        self.weights.names().filter_map(|name| self.weights.tensor(name)).map(|t| t.elements()).sum()
    }

    /// Ranks of its updates, each once, ascending.
    pub fn ranks(&self) -> Vec<usize> {
        let ranks: BTreeSet<usize> = self.updates.values().map(|update| update.rank).collect();
        ranks.into_iter().collect()
    }

    /// What it changes: the last part of each updated module's name with the number of such modules, then each replaced
    /// tensor.
    pub fn changes(&self) -> Vec<(String, usize)> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for module in self.updates.keys() {
            let last = module.rsplit('.').next().unwrap_or(module);
            *counts.entry(last.to_owned()).or_default() += 1;
        }
        let replaced = self.replaced.keys().map(|name| (name.clone(), 1));
        counts.into_iter().chain(replaced).collect()
    }

    /// The modules among `modules` that the config lists but the file has no tensors for.
    pub(crate) fn missing<'m>(&self, modules: impl Iterator<Item = &'m str>) -> Vec<&'m str> {
        let is_missing = |module: &&str| {
            let known = |map: &BTreeMap<String, Update>| {
                map.keys().any(|updated| {
                    updated == module || ends_with_part(updated, module) || ends_with_part(module, updated)
                })
            };
            self.settings.targets.lists(module) && !known(&self.updates)
        };
        modules.filter(is_missing).collect()
    }

    /// Whether a module is updated; `names` are its possible names.
    pub(crate) fn updates(&self, names: &[String]) -> bool {
        names.iter().any(|name| self.updates.contains_key(name))
    }

    /// The update of a module, if it has one; `names` are its possible names. Marks it as used.
    ///
    /// # Errors
    /// If the tensors do not have the module's shape, or are not floating point.
    pub(crate) fn low_rank(
        &self,
        names: &[String],
        outputs: usize,
        inputs: usize,
    ) -> Result<Option<LowRank>> {
        let found = names.iter().find_map(|name| self.updates.get(name).filter(|u| u.kind == Kind::Linear));
        let Some(Update { a, b, bias, rank, scale, .. }) = found else { return Ok(None) };
        let scaled = |values: Vec<f32>| scaled(values, *scale);
        Ok(Some(LowRank {
            rank: *rank,
            a: self.values(a, &[*rank, inputs])?,
            b: scaled(self.values(b, &[outputs, *rank])?),
            bias: bias.as_ref().map(|name| self.values(name, &[outputs]).map(scaled)).transpose()?,
        }))
    }

    /// The addition of a module's update to its bias.
    ///
    /// # Errors
    /// As [`Adapter::low_rank`].
    pub(crate) fn bias(&self, names: &[String], outputs: usize) -> Result<Option<Vec<f32>>> {
        let found = names.iter().find_map(|name| self.updates.get(name));
        let Some(Update { bias: Some(name), scale, .. }) = found else { return Ok(None) };
        Ok(Some(scaled(self.values(name, &[outputs])?, *scale)))
    }

    /// Modules whose updates have biases.
    pub(crate) fn biased(&self) -> impl Iterator<Item = &str> {
        self.updates.iter().filter(|(_, update)| update.bias.is_some()).map(|(module, _)| module.as_str())
    }

    /// The update of a table with `rows` rows, if it has one, as that of a projection with one output per row.
    ///
    /// # Errors
    /// As [`Adapter::low_rank`].
    pub(crate) fn of_table(&self, names: &[String], rows: usize, width: usize) -> Result<Option<LowRank>> {
        let found =
            names.iter().find_map(|name| self.updates.get(name).filter(|u| u.kind == Kind::Embedding));
        let Some(Update { a, b, rank, scale, .. }) = found else { return self.low_rank(names, rows, width) };
        let (stored_a, stored_b) = (self.values(a, &[*rank, rows])?, self.values(b, &[width, *rank])?);
        Ok(Some(LowRank {
            rank: *rank,
            a: transposed(&stored_b, width, *rank),
            b: scaled(transposed(&stored_a, *rank, rows), *scale),
            bias: None,
        }))
    }

    /// The replacement for a tensor of the base model. Marks it as used.
    pub(crate) fn replacement(&self, name: &str) -> Option<StoredTensor<'_>> {
        let own = self.replaced.get(name)?;
        let tensor = self.weights.tensor(own)?;
        self.used().insert(own.clone());
        Some(tensor)
    }

    /// Tensors of the base model that are replaced.
    pub(crate) fn replaced(&self) -> impl Iterator<Item = &str> {
        self.replaced.keys().map(String::as_str)
    }

    /// Checks that every tensor has been used.
    ///
    /// # Errors
    /// Names all those that have not.
    pub(crate) fn finish(&self) -> Result<()> {
        let used = self.used();
        let unused: Vec<&str> = self.weights.names().filter(|name| !used.contains(*name)).collect();
        if unused.is_empty() {
            return Ok(());
        }
        let message = format!(
            "{}: {WEIGHTS}: this model has no place for {}, or none that an adapter can change here",
            self.folder.display(),
            crate::error::list(&unused)
        );
        Err(Error::new(ErrorKind::Weights, message).hint(MERGE))
    }

    /// Checks that its file is unchanged since it was opened.
    ///
    /// # Errors
    /// If it has changed.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        self.weights.files().try_for_each(|file| Ok(file.check_unchanged()?))
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let wrong = |what: String| {
            Error::new(ErrorKind::Weights, format!("{}: tensor `{name}` {what}", self.folder.display()))
        };
        let tensor = self.weights.tensor(name).ok_or_else(|| wrong("is missing".to_owned()))?;
        if tensor.shape() != shape {
            return Err(wrong(format!(
                "has shape {:?}; the model and `r` ask for {shape:?}",
                tensor.shape()
            )));
        }
        self.used().insert(name.to_owned());
        Ok(tensor.read_all()?)
    }

    fn used(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // Only insertions happen under the lock, so a poisoned set is still valid.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The base model and its revision, as named in an adapter's config.
///
/// # Errors
/// If there is no config, or it is not a JSON object.
pub fn base_of(folder: &Path) -> Result<(Option<String>, Option<String>)> {
    let config = read_config(folder)?;
    let text =
        |key: &str| config.optional_text(key).map(|text| text.filter(|t| !t.is_empty()).map(str::to_owned));
    Ok((text("base_model_name_or_path")?, text("revision")?))
}

fn read_config(folder: &Path) -> Result<crate::config::Config> {
    let path = folder.join(CONFIG);
    let bytes = crate::config::read_small(&path)?;
    crate::config::Config::parse_as(CONFIG, &bytes)
}

fn scaled(mut values: Vec<f32>, scale: f64) -> Vec<f32> {
    values.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
    values
}

/// `[rows, columns]` as `[columns, rows]`.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

/// Whether a dotted name ends in these whole parts.
fn ends_with_part(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'))
}
