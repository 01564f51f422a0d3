//! The tensors of a model's files, by their names in the safetensors checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use easyroutine_files::{Container, Encoding, MappedFile, ShardedSafeTensors, StoredTensor};

use super::asked::Asked;
use super::faults::{Faults, MOST_FAULTS};
use super::patch::Patch;
use super::surplus::{self, Allowed};
use super::tensor::{Tensor, TensorRows};
use crate::adapter::{Adapter, LowRank};
use crate::error::{Error, ErrorKind, Result};
use crate::names::{Names, Stored};

/// An opened checkpoint, with its adapter if there is one. It tracks what has been read.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    container: Container,
    adapter: Option<Adapter>,
    /// Surplus tensors to accept.
    allowed: Allowed,
    /// Checkpoint name to where the container keeps it.
    stored: BTreeMap<String, Stored>,
    /// Tensors that no file holds as such: shape, and numbers of f32 in bytes.
    made: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
    used: Mutex<BTreeSet<String>>,
    faults: Mutex<Faults>,
    /// Tensors that are widened to f32, and why.
    widened: Mutex<BTreeMap<String, &'static str>>,
    /// The requested tensors, if there are no files.
    asked: Option<Asked>,
    /// Where its tensors are, if they are those of two others. It then has none of its own.
    patch: Option<Patch>,
}

impl Checkpoint {
    /// A checkpoint whose container uses the checkpoint's names.
    pub(crate) fn plain(container: Container) -> Self {
        let names: Vec<String> = container.names().into_iter().map(str::to_owned).collect();
        Self::renamed(container, names.into_iter().map(|n| (n.clone(), Stored::plain(n))))
    }

    /// A checkpoint from checkpoint names and where the container keeps those tensors.
    pub(crate) fn renamed(container: Container, names: impl IntoIterator<Item = (String, Stored)>) -> Self {
        Checkpoint {
            container,
            adapter: None,
            allowed: Allowed::default(),
            stored: names.into_iter().collect(),
            made: BTreeMap::new(),
            used: Mutex::default(),
            faults: Mutex::default(),
            widened: Mutex::default(),
            asked: None,
            patch: None,
        }
    }

    /// The same with further tensors: name, shape, numbers.
    #[must_use]
    pub(crate) fn with(mut self, made: Vec<(String, Vec<usize>, Vec<f32>)>) -> Self {
        for (name, shape, numbers) in made {
            self.stored.insert(name.clone(), Stored::plain(name.clone()));
            let bytes = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
            self.made.insert(name, (shape, bytes));
        }
        self
    }

    /// A checkpoint without files, which records requests.
    pub(crate) fn asking(asked: Asked) -> Self {
        let nothing = Container::SafeTensors(ShardedSafeTensors::default());
        Checkpoint { asked: Some(asked), ..Self::plain(nothing) }
    }

    /// A checkpoint of the tensors of two others.
    pub(crate) fn patched(patch: Patch) -> Self {
        let nothing = Container::SafeTensors(ShardedSafeTensors::default());
        Checkpoint { patch: Some(patch), ..Self::plain(nothing) }
    }

    /// The requested tensors, if there are no files.
    pub(crate) fn asked(&self) -> Option<&Asked> {
        self.asked.as_ref()
    }

    /// The same with an adapter.
    #[must_use]
    pub(crate) fn adapted(self, adapter: Option<Adapter>) -> Self {
        Checkpoint { adapter, ..self }
    }

    /// The same, with surplus tensors accepted.
    #[must_use]
    pub(crate) fn allowing(self, allowed: Allowed) -> Self {
        Checkpoint { allowed, ..self }
    }

    /// The adapter.
    pub(crate) fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// Tensor `prefix + name`, or `name` alone, with exactly this shape, or its replacement by an adapter. Marks it as
    /// used. A missing tensor, another shape or numbers that are not floating point are recorded for
    /// [`Checkpoint::finish`].
    ///
    /// # Errors
    /// If there are too many faults.
    pub(crate) fn tensor(&self, prefix: &str, name: &str, shape: &[usize]) -> Result<Option<Tensor<'_>>> {
        if let Some(patch) = &self.patch {
            let (from, prefix, name) = patch.place(prefix, name);
            return from.tensor(prefix, name, shape);
        }
        let key = self.find(prefix, name);
        let tensor = match (self.replacement(prefix, name), &key) {
            (Some(stored), _) => Tensor::plain(stored),
            (None, Some(key)) => self.by_name(key)?,
            (None, None) => {
                if let Some(asked) = &self.asked {
                    return asked.tensor(format!("{prefix}{name}"), shape).map(|()| None);
                }
                self.note(|faults| faults.missing.insert(format!("{prefix}{name}")))?;
                return Ok(None);
            }
        };
        self.used().extend(key);
        let unfit = if tensor.shape() != shape {
            format!(
                "tensor `{}` has shape {:?}; the config asks for {shape:?}",
                tensor.name(),
                tensor.shape()
            )
        } else if matches!(
            tensor.encoding(),
            Encoding::I8 | Encoding::U8 | Encoding::I16 | Encoding::I32 | Encoding::I64 | Encoding::Bool
        ) {
            format!("tensor `{}` holds {:?} values, not floating point", tensor.name(), tensor.encoding())
        } else {
            return Ok(Some(tensor));
        };
        self.note(|faults| faults.unfit.insert(unfit))?;
        Ok(None)
    }

    /// All values of a tensor; empty if a fault is recorded.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub(crate) fn values(&self, prefix: &str, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Some(tensor) = self.tensor(prefix, name, shape)? else { return Ok(Vec::new()) };
        self.widens(prefix, name, "few numbers: norms, biases, tables of positions and the like");
        tensor.read_all()
    }

    /// Notes why a tensor is widened to f32.
    pub(crate) fn widens(&self, prefix: &str, name: &str, why: &'static str) {
        let key = self.find(prefix, name).unwrap_or_else(|| format!("{prefix}{name}"));
        self.widened.lock().unwrap_or_else(PoisonError::into_inner).insert(key, why);
    }

    /// Why tensors are widened to f32, by their names, of all that were read so far.
    pub(crate) fn widened(&self) -> BTreeMap<String, &'static str> {
        self.widened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The rows of a tensor, to be read on demand; empty if a fault is recorded.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub(crate) fn rows(&self, prefix: &str, name: &str, shape: &[usize]) -> Result<TensorRows> {
        let Some(tensor) = self.tensor(prefix, name, shape)? else { return Ok(TensorRows::Missing) };
        let rows = tensor.lasting()?;
        if rows.is_widened() {
            self.widens(prefix, name, "no product reads this encoding");
        }
        Ok(rows)
    }

    /// The container's name of a byte tensor with this shape; `None` if a fault is recorded.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub(crate) fn bytes(&self, prefix: &str, name: &str, shape: &[usize]) -> Result<Option<String>> {
        if let Some(patch) = &self.patch {
            let (from, there, called) = patch.place(prefix, name);
            // Named as here, so that `raw` finds the checkpoint again.
            return Ok(from.bytes(there, called, shape)?.map(|_| format!("{prefix}{name}")));
        }
        let Some(key) = self.find(prefix, name) else {
            if let Some(asked) = &self.asked {
                return asked.bytes(format!("{prefix}{name}"), shape).map(|()| None);
            }
            self.note(|faults| faults.missing.insert(format!("{prefix}{name}")))?;
            return Ok(None);
        };
        let stored = self.by_name(&key)?;
        self.used().insert(key.clone());
        if stored.shape() == shape && stored.encoding() == Encoding::U8 {
            self.widens(prefix, name, "no product reads this encoding");
            return Ok(Some(key));
        }
        let unfit = format!(
            "tensor `{key}` has shape {:?} of {:?}; the config asks for {shape:?} bytes",
            stored.shape(),
            stored.encoding()
        );
        self.note(|faults| faults.unfit.insert(unfit))?;
        Ok(None)
    }

    /// The bytes of a tensor that [`Checkpoint::bytes`] named.
    pub(crate) fn raw(&self, key: &str) -> &[u8] {
        if let Some(patch) = &self.patch {
            let (from, prefix, name) = patch.place("", key);
            return from.find(prefix, name).map_or(&[], |key| from.raw(&key));
        }
        self.stored
            .get(key)
            .and_then(|stored| self.container.tensor(stored.tensors.first()?))
            .map_or(&[], |tensor| tensor.bytes())
    }

    fn note(&self, add: impl FnOnce(&mut Faults) -> bool) -> Result<()> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        add(&mut faults);
        let is_full = faults.len() > MOST_FAULTS;
        drop(faults);
        if is_full { self.check_found() } else { Ok(()) }
    }

    /// Number of tensors found missing or unfit so far.
    pub(crate) fn n_faults(&self) -> usize {
        let own = self.faults.lock().unwrap_or_else(PoisonError::into_inner).len();
        own + self.patch.iter().flat_map(Patch::both).map(Checkpoint::n_faults).sum::<usize>()
    }

    /// Checks that every requested tensor exists and fits.
    ///
    /// # Errors
    /// Names all that do not.
    pub(crate) fn check_found(&self) -> Result<()> {
        self.patch.iter().flat_map(Patch::both).try_for_each(Checkpoint::check_found)?;
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.check()
    }

    /// Marks a tensor as used without reading it: a copy of one that is read.
    pub(crate) fn pass_over(&self, prefix: &str, name: &str) {
        self.used().extend(self.find(prefix, name));
    }

    /// An adapter's update of a module's weight.
    ///
    /// # Errors
    /// If the adapter's tensors do not fit.
    pub(crate) fn low_rank(
        &self,
        prefix: &str,
        module: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Option<LowRank>> {
        self.of_adapter(prefix, module, |adapter, names| adapter.low_rank(names, outputs, inputs))
    }

    /// An adapter's addition to a module's bias.
    ///
    /// # Errors
    /// If the adapter's tensor does not fit.
    pub(crate) fn bias_of_update(
        &self,
        prefix: &str,
        module: &str,
        outputs: usize,
    ) -> Result<Option<Vec<f32>>> {
        self.of_adapter(prefix, module, |adapter, names| adapter.bias(names, outputs))
    }

    /// An adapter's update of a table.
    ///
    /// # Errors
    /// If the adapter's tensors do not fit.
    pub(crate) fn low_rank_of_table(
        &self,
        prefix: &str,
        module: &str,
        rows: usize,
        width: usize,
    ) -> Result<Option<LowRank>> {
        self.of_adapter(prefix, module, |adapter, names| adapter.of_table(names, rows, width))
    }

    /// Calls `find` on the adapter, if there is one, with a module's possible names.
    fn of_adapter<T>(
        &self,
        prefix: &str,
        module: &str,
        read: impl FnOnce(&Adapter, &[String; 2]) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        if let Some(patch) = &self.patch {
            let (from, prefix, module) = patch.module(prefix, module);
            return from.of_adapter(prefix, module, read);
        }
        self.adapter.as_ref().map_or(Ok(None), |adapter| read(adapter, &spellings(prefix, module)))
    }

    /// Whether an adapter updates a module's weight.
    pub(crate) fn has_update(&self, prefix: &str, module: &str) -> bool {
        if let Some(patch) = &self.patch {
            let (from, prefix, module) = patch.module(prefix, module);
            return from.has_update(prefix, module);
        }
        self.adapter.as_ref().is_some_and(|adapter| adapter.updates(&spellings(prefix, module)))
    }

    /// Whether an adapter replaces this tensor.
    pub(crate) fn is_replaced(&self, prefix: &str, name: &str) -> bool {
        if let Some(patch) = &self.patch {
            let (from, prefix, name) = patch.place(prefix, name);
            return from.is_replaced(prefix, name);
        }
        let Some(adapter) = &self.adapter else { return false };
        spellings(prefix, name).iter().any(|name| adapter.replaced().any(|replaced| replaced == name))
    }

    /// Checks that the files are unchanged since they were opened.
    ///
    /// # Errors
    /// Names a changed file.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        self.patch.iter().flat_map(Patch::both).try_for_each(Checkpoint::check_unchanged)?;
        self.container.check_unchanged()?;
        self.adapter.as_ref().map_or(Ok(()), Adapter::check_unchanged)
    }

    /// The files that hold the tensors.
    pub(crate) fn files(&self) -> Vec<&MappedFile> {
        self.container.files()
    }

    /// Whether there is a tensor `prefix + name`, or `name` alone.
    pub(crate) fn has(&self, prefix: &str, name: &str) -> bool {
        if let Some(patch) = &self.patch {
            let (from, prefix, name) = patch.place(prefix, name);
            return from.has(prefix, name);
        }
        let is_asked = || self.asked.as_ref().is_some_and(|asked| asked.has(name));
        self.find(prefix, name).is_some() || self.is_replaced(prefix, name) || is_asked()
    }

    /// Shape of a tensor of the file, if it has it.
    pub(crate) fn shape(&self, prefix: &str, name: &str) -> Option<Vec<usize>> {
        if let Some(patch) = &self.patch {
            let (from, prefix, name) = patch.place(prefix, name);
            return from.shape(prefix, name);
        }
        let tensor = self.by_name(&self.find(prefix, name)?).ok()?;
        Some(tensor.shape().to_vec())
    }

    /// Checks that every requested tensor exists, and that every tensor, including the adapter's, was used, has no
    /// effect, belongs to a part of the model that is left out, or is accepted. Returns warnings about ignored tensors.
    ///
    /// # Errors
    /// Names all tensors that are missing, do not fit, or are surplus.
    pub(crate) fn finish(&self, family: &Names) -> Result<Vec<String>> {
        let used = self.used();
        let left = self.stored.keys().map(String::as_str).filter(|n| !used.contains(*n));
        let warnings = match (self.check_found(), surplus::check(left, family, &self.allowed)) {
            (Ok(()), surplus) => surplus?,
            (Err(faults), Ok(_)) => return Err(faults),
            // A misspelt name causes both.
            (Err(faults), Err(surplus)) => {
                return Err(Error::new(ErrorKind::Weights, format!("{faults}; {surplus}")));
            }
        };
        self.adapter.as_ref().map_or(Ok(()), Adapter::finish)?;
        Ok(warnings)
    }

    /// Number of tensors in each part of the model that is left out, by name prefix.
    pub(crate) fn left_out(&self, family: &Names) -> BTreeMap<&str, usize> {
        let mut parts = BTreeMap::new();
        for part in self.stored.keys().filter_map(|name| surplus::part_left_out(name, family)) {
            *parts.entry(part).or_default() += 1;
        }
        parts
    }

    /// Names of all tensors, including those of parts that are left out.
    pub(crate) fn names_of_all_parts(&self, family: &Names) -> Vec<&str> {
        let left_out = self.stored.keys().map(String::as_str);
        let left_out = left_out.filter(|name| surplus::part_left_out(name, family).is_some());
        self.names(family).into_iter().chain(left_out).collect()
    }

    /// Names of all tensors of the decoder in the checkpoint's spelling, except buffers, plus additional ones of the
    /// adapter.
    pub(crate) fn names(&self, family: &Names) -> Vec<&str> {
        let is_weight = |name: &&str| {
            !surplus::is_buffer(name, family.ignored) && surplus::part_left_out(name, family).is_none()
        };
        let stored = self.stored.keys().map(String::as_str).filter(is_weight);
        let beside = self.adapter.iter().flat_map(Adapter::replaced).filter(|name| {
            !self.stored.contains_key(*name) && !self.stored.keys().any(|s| ends_with_part(name, s))
        });
        stored.chain(beside).collect()
    }

    /// Those of [`Checkpoint::names`] that a model was built of.
    pub(crate) fn names_used(&self, family: &Names) -> Vec<&str> {
        let replaced =
            |name: &str| self.adapter.iter().flat_map(Adapter::replaced).any(|other| other == name);
        let mut names = self.names(family);
        let used = self.used();
        names.retain(|name| used.contains(*name) || replaced(name));
        names
    }

    /// Any tensor by its name in [`Checkpoint::names`], as stored in the file.
    ///
    /// # Errors
    /// If there is no such tensor.
    pub(crate) fn by_name(&self, name: &str) -> Result<Tensor<'_>> {
        match self.stored.get(name) {
            Some(Stored { tensors, shape, order, axes, values, columns }) => {
                let parts: Result<Vec<StoredTensor<'_>>> =
                    tensors.iter().map(|name| self.stored_tensor(name)).collect();
                let parts = parts?;
                let first = parts.first().ok_or_else(|| missing(name))?;
                let shape = shape.clone().unwrap_or_else(|| first.shape().to_vec());
                let (axes, values, columns) = (*axes, *values, *columns);
                Ok(Tensor { parts, shape, order: order.clone(), axes, values, columns })
            }
            None => {
                let stored = self.adapter.as_ref().and_then(|adapter| adapter.replacement(name));
                Ok(Tensor::plain(stored.ok_or_else(|| missing(name))?))
            }
        }
    }

    /// A tensor by the container's name.
    fn stored_tensor<'t>(&'t self, name: &'t str) -> Result<StoredTensor<'t>> {
        match self.made.get(name) {
            Some((shape, bytes)) => Ok(StoredTensor::new(name, shape.clone(), Encoding::F32, bytes)?),
            None => self.container.tensor(name).ok_or_else(|| missing(name)),
        }
    }

    /// As [`Checkpoint::by_name`], or the adapter's replacement.
    ///
    /// # Errors
    /// If there is no such tensor.
    pub(crate) fn current(&self, prefix: &str, name: &str) -> Result<Tensor<'_>> {
        match self.replacement(prefix, name.strip_prefix(prefix).unwrap_or(name)) {
            Some(stored) => Ok(Tensor::plain(stored)),
            None => self.by_name(name),
        }
    }

    fn replacement(&self, prefix: &str, name: &str) -> Option<StoredTensor<'_>> {
        let adapter = self.adapter.as_ref()?;
        spellings(prefix, name).iter().find_map(|name| adapter.replacement(name))
    }

    fn used(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // Only insertions happen under the lock, so a poisoned set is still valid.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, prefix: &str, name: &str) -> Option<String> {
        spellings(prefix, name).into_iter().find(|n| self.stored.contains_key(n))
    }
}

fn missing(name: &str) -> Error {
    Error::new(ErrorKind::Weights, format!("the weights have no tensor `{name}`"))
}

/// The possible names of a tensor or module.
pub(super) fn spellings(prefix: &str, name: &str) -> [String; 2] {
    [format!("{prefix}{name}"), name.to_owned()]
}

/// Whether a dotted name ends in these whole parts.
pub(super) fn ends_with_part(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'))
}
