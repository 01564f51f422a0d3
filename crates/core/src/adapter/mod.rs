//! LoRA adapters as peft writes them: `adapter_config.json` beside `adapter_model.safetensors`.
//!
//! An adapter changes a model in two ways. A low-rank update adds `scale * B A` to the weight of a module, and a
//! replacement takes the place of one of its tensors (biases, `modules_to_save`). The rules are those of peft 0.21,
//! `tuners/lora/` and `utils/save_and_load.py`: the tensors say which modules are updated, the config must agree, and
//! whatever neither names is refused.

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

/// The config of an adapter.
pub const CONFIG: &str = "adapter_config.json";
/// The tensors of an adapter.
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// What to do with an adapter that is not applied here.
pub(crate) const MERGE: &str = "merge it in Python: `PeftModel.from_pretrained(BASE, \
    ADAPTER).merge_and_unload().save_pretrained(NEW)` writes a plain model; --no-adapter reads the model without it";

/// An opened adapter, which remembers what was read of it.
#[derive(Debug)]
pub struct Adapter {
    folder: PathBuf,
    config: Map<String, Value>,
    settings: Settings,
    weights: ShardedSafeTensors,
    /// Updated module -> its update.
    updates: BTreeMap<String, Update>,
    /// Tensor of the base model -> the adapter's own that takes its place.
    replaced: BTreeMap<String, String>,
    used: Mutex<BTreeSet<String>>,
}

/// The tensors of one low-rank update.
#[derive(Debug, Clone, PartialEq)]
struct Update {
    kind: Kind,
    /// Name of A: `[rank, inputs]`, for a table `[rank, rows]`.
    a: String,
    /// Name of B: `[outputs, rank]`, for a table `[width, rank]`.
    b: String,
    /// Name of the bias of B, where there is one.
    bias: Option<String>,
    rank: usize,
    scale: f64,
}

/// What kind of module is updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A projection.
    Linear,
    /// A table that is looked up.
    Embedding,
}

/// What an update adds to a weight of so many outputs and inputs: `B A`, with the scale in B.
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
    /// Adds this update's row of an output to the weights of that output.
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
    /// Opens the adapter of a folder. `allowed` are unknown keys of its config that are let through.
    ///
    /// # Errors
    /// Files that are not there or not whole, a kind of adapter that is not applied, keys and tensors that are not
    /// known, all of them named.
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

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its config.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// Its files, mapped.
    pub(crate) fn files(&self) -> impl Iterator<Item = &MappedFile> {
        self.weights.files()
    }

    /// The model that it was trained on, as its config names it.
    pub fn base(&self) -> Option<&str> {
        self.settings.base.as_deref()
    }

    /// What the adapted model is for, where the config says.
    pub fn task(&self) -> Option<Task> {
        self.settings.task
    }

    /// Rows of the first of these tensors of the base model that it replaces.
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

    /// What it changes: the last part of each updated module's name with the number of such modules, then each tensor
    /// that it replaces.
    pub fn changes(&self) -> Vec<(String, usize)> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for module in self.updates.keys() {
            let last = module.rsplit('.').next().unwrap_or(module);
            *counts.entry(last.to_owned()).or_default() += 1;
        }
        let replaced = self.replaced.keys().map(|name| (name.clone(), 1));
        counts.into_iter().chain(replaced).collect()
    }

    /// Modules of the model, of all that `modules` names, that the config lists but of which the file has no tensors.
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

    /// Whether a module is updated; `names` are the names under which it may stand.
    pub(crate) fn updates(&self, names: &[String]) -> bool {
        names.iter().any(|name| self.updates.contains_key(name))
    }

    /// The update of a module, if it has one; `names` are the names under which it may stand. Marks it as used.
    ///
    /// # Errors
    /// Tensors of another shape than the module needs, or no numbers.
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

    /// What the update of a module adds to its bias.
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

    /// The update of a table of so many rows, if it has one, as that of a projection with a row an output.
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

    /// The tensor that takes the place of one of the base model. Marks it as used.
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

    /// Every tensor must have been used.
    ///
    /// # Errors
    /// Those that were not, all of them named.
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

    /// Whether its file still holds what it held when it was opened.
    ///
    /// # Errors
    /// If it does not.
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
        // Insertions alone happen under the lock: a poisoned set is still right.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The base model and its revision, as the config of an adapter names them.
///
/// # Errors
/// No config, or one that is no JSON object.
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
