//! Two checkpoints of one architecture: where their runs part, and which tensors cause it.
//!
//! The first is called A, the second B. Differences are those of B from A.

mod apart;
mod causes;
mod streams;
mod tensors;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result, list};
use crate::extract::Progress;
use crate::load::{LoadOptions, Opened};
use crate::model::{Held, Model};
use crate::names::Names;
use crate::stop::Stop;
use crate::weights::{Checkpoint, Patch};
pub use apart::{Mean, Summary};
pub use causes::{Cause, Causes, Direction, Effect, sample};
pub use streams::{AtLayer, Differences, OfHead, OfLayer, OfPosition, OfToken, Place};
use tensors::Unit;
pub use tensors::WeightsApart;

/// Two models with the same tensors.
#[derive(Debug)]
pub struct Pair {
    models: [Model; 2],
    names: [Names; 2],
    checkpoints: [Arc<Checkpoint>; 2],
    units: Vec<Unit>,
    warnings: Vec<String>,
}

/// Options of a comparison.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Number of positions listed, those with the largest differences.
    pub worst: usize,
    /// Limit on tokens per batch.
    pub batch_tokens: usize,
    /// The folder of a temporary file for activations between layers, where memory holds neither the weights nor them.
    pub folder: Option<&'a Path>,
    /// Called as work goes on.
    pub progress: Option<&'a dyn Fn(Progress)>,
    /// When to end early.
    pub stop: Stop<'a>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { worst: 20, batch_tokens: 4096, folder: None, progress: None, stop: Stop::Never }
    }
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("worst", &self.worst).finish_non_exhaustive()
    }
}

/// One of both models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

impl Side {
    fn index(self) -> usize {
        match self {
            Side::A => 0,
            Side::B => 1,
        }
    }

    fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

impl Pair {
    /// Builds both models and matches their tensors.
    ///
    /// # Errors
    /// If they differ in sizes, in the names or shapes of tensors, or one alone ties its unembedding to its embedding;
    /// and as [`Opened::build`].
    pub fn new(a: Opened, b: Opened, options: [&LoadOptions; 2]) -> Result<Pair> {
        check_sizes(&a, &b)?;
        let names = [&a, &b].map(|opened| opened.reading.names.clone());
        let checkpoints = [&a, &b].map(|opened| Arc::clone(&opened.checkpoint));
        let mut warnings = Vec::new();
        if a.arch() != b.arch() {
            warnings.push(configs_apart(&a.config, &b.config));
        }
        let types = types(&a, &b);
        let models = [a.build(options[0])?, b.build(options[1])?];
        let units = tensors::matched(&models, types, &names, &checkpoints)?;
        Ok(Pair { models, names, checkpoints, units, warnings })
    }

    /// One of the models.
    pub fn model(&self, side: Side) -> &Model {
        &self.models[side.index()]
    }

    /// What the user should know: settings in which the models differ beside their tensors.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The names of what can be exchanged: tensors, and where a layer has experts, one tensor of all of them.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.units.iter().map(|unit| unit.name.as_str())
    }

    /// Which of [`Pair::tensors`] belong to which layer.
    pub fn layer_of(&self, tensor: usize) -> Option<usize> {
        self.units.get(tensor).and_then(|unit| unit.layer)
    }

    /// How far the tensors of B are from those of A, in the order of [`Pair::tensors`]; `tell` hears of how many are done.
    ///
    /// # Errors
    /// If a file cannot be read or was changed; `Interrupted` if it was stopped.
    pub fn weights(&self, stop: Stop<'_>, tell: &mut dyn FnMut(usize, usize)) -> Result<Vec<WeightsApart>> {
        self.unchanged(|| {
            let mut found = Vec::with_capacity(self.units.len());
            for unit in &self.units {
                stop.check()?;
                found.push(unit.weights(&self.names, &self.checkpoints)?);
                tell(found.len(), self.units.len());
            }
            Ok(found)
        })
    }

    /// One model with these of [`Pair::tensors`] taken from the other, until the result is dropped. Nothing but the layers
    /// of these tensors is built anew, and nothing is copied.
    ///
    /// # Errors
    /// If there is no such tensor, or a file was changed.
    pub fn patched(&mut self, side: Side, tensors: &[usize]) -> Result<Patched<'_>> {
        let (own, other) = (side.index(), side.other().index());
        let units = tensors.iter().map(|number| {
            self.units.get(*number).ok_or_else(|| Error::input(format!("no tensor with number {number}")))
        });
        let units = units.collect::<Result<Vec<&Unit>>>()?;
        let taken = units.iter().flat_map(|unit| &unit.tensors);
        let taken = taken.map(|names| (names[own].as_str(), names[other].as_str()));
        let [base, from] = [own, other].map(|side| &self.checkpoints[side]);
        let patch = Patch::new(base, from, self.names[other].prefix, taken);
        let checkpoint = Arc::new(Checkpoint::patched(patch));
        let places: BTreeSet<Option<usize>> = units.iter().map(|unit| unit.layer).collect();
        let mut patched = Patched { model: &mut self.models[own], held: Vec::new() };
        for layer in places {
            let held = patched.model.exchange(&self.names[own], &checkpoint, layer)?;
            patched.held.push(held);
        }
        Ok(patched)
    }

    /// Calls `read`, and returns its result if neither model's files were changed meanwhile.
    fn unchanged<T>(&self, read: impl FnOnce() -> Result<T>) -> Result<T> {
        let check = || self.checkpoints.iter().try_for_each(|checkpoint| checkpoint.check_unchanged());
        check()?;
        let done = read();
        check()?;
        done
    }
}

/// A model with tensors of another, which gets its own back.
#[derive(Debug)]
pub struct Patched<'a> {
    model: &'a mut Model,
    held: Vec<Held>,
}

impl Deref for Patched<'_> {
    type Target = Model;

    fn deref(&self) -> &Model {
        self.model
    }
}

impl DerefMut for Patched<'_> {
    fn deref_mut(&mut self) -> &mut Model {
        self.model
    }
}

impl Drop for Patched<'_> {
    fn drop(&mut self) {
        self.held.drain(..).for_each(|held| self.model.put_back(held));
    }
}

/// Refuses models of different sizes.
fn check_sizes(a: &Opened, b: &Opened) -> Result<()> {
    let sizes = |opened: &Opened| {
        let arch = opened.arch();
        [
            ("layers", arch.layers.len()),
            ("numbers in the residual stream", arch.d_model),
            ("ids in the vocabulary", arch.vocabulary),
        ]
    };
    let both = sizes(a).into_iter().zip(sizes(b)).filter(|((_, a), (_, b))| a != b);
    let apart: Vec<String> = both.map(|((what, a), (_, b))| format!("A has {a} {what}, B has {b}")).collect();
    if apart.is_empty() { Ok(()) } else { Err(of_two_kinds(types(a, b), &apart)) }
}

/// `model_type` of both configs.
fn types(a: &Opened, b: &Opened) -> [&'static str; 2] {
    [a, b].map(|opened| opened.reading.family.model_type)
}

/// The error of models that are not comparable, with what differs.
fn of_two_kinds(types: [&str; 2], apart: &[String]) -> Error {
    let types = match types {
        [a, b] if a == b => String::new(),
        [a, b] => format!(" (A is {a}, B is {b})"),
    };
    let message = format!("the models are not of one architecture{types}: {}", apart.join("; "));
    Error::new(ErrorKind::Unsupported, message).hint(
        "compare two checkpoints of one model: a folder and its GGUF file, two quantisations, a fine-tune",
    )
}

/// What is said of configs that compute different things with the same tensors.
fn configs_apart(a: &Map<String, Value>, b: &Map<String, Value>) -> String {
    let differing = |key: &&String| b.get(*key).is_some_and(|other| !is_same(&a[*key], other));
    let both: Vec<String> = a
        .keys()
        .filter(differing)
        .filter(|key| !UNREAD.contains(&key.as_str()))
        .map(|key| format!("{key} ({} and {})", a[key], b[key]))
        .collect();
    let one: Vec<&String> =
        a.keys().filter(|k| !b.contains_key(*k)).chain(b.keys().filter(|k| !a.contains_key(*k))).collect();
    let what = if both.is_empty() { list(&one) } else { both.join(", ") };
    format!("the configs of A and B differ: {what}; that part of the difference is no tensor's")
}

/// Keys of a config that say how it was written.
const UNREAD: &[&str] = &["_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"];

/// Numbers count by value: 10000 is 10000.0.
fn is_same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().is_some_and(|a| b.as_f64() == Some(a))
}
