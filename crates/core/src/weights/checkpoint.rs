//! The tensors of a model's files by the names of its safetensors checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use easyroutine_files::{Container, Encoding, LastingRows, MappedFile, StoredTensor};

use crate::error::{Error, ErrorKind, Result};
use crate::names::StorageQuirk;

/// An opened checkpoint, which remembers what was read of it.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    container: Container,
    /// Checkpoint name to the container's own name.
    stored: BTreeMap<String, (String, StorageQuirk)>,
    used: Mutex<BTreeSet<String>>,
}

impl Checkpoint {
    /// A checkpoint whose container uses the checkpoint's names.
    pub(crate) fn plain(container: Container) -> Self {
        let names: Vec<String> = container.names().into_iter().map(str::to_owned).collect();
        Self::renamed(container, names.into_iter().map(|n| (n.clone(), n, StorageQuirk::None)))
    }

    /// A checkpoint from (checkpoint name, container name, quirk).
    pub(crate) fn renamed(
        container: Container,
        names: impl IntoIterator<Item = (String, String, StorageQuirk)>,
    ) -> Self {
        let stored = names.into_iter().map(|(ours, theirs, quirk)| (ours, (theirs, quirk))).collect();
        Checkpoint { container, stored, used: Mutex::default() }
    }

    /// Tensor `prefix + name`, or `name` alone, of exactly this shape. Marks it as used.
    ///
    /// # Errors
    /// No such tensor, another shape, numbers that are not floating point.
    pub(crate) fn tensor(&self, prefix: &str, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        let Some(key) = self.find(prefix, name) else {
            return Err(Error::new(
                ErrorKind::Weights,
                format!("the weights have no tensor `{prefix}{name}`"),
            ));
        };
        let (stored_name, quirk) = &self.stored[&key];
        let stored = self.container.tensor(stored_name).ok_or_else(|| {
            Error::new(ErrorKind::Weights, format!("the weights have no tensor `{stored_name}`"))
        })?;
        if stored.shape() != shape {
            return Err(Error::new(
                ErrorKind::Weights,
                format!(
                    "tensor `{stored_name}` has shape {:?}; the config asks for {shape:?}",
                    stored.shape()
                ),
            ));
        }
        let integer = matches!(
            stored.encoding(),
            Encoding::I8 | Encoding::U8 | Encoding::I16 | Encoding::I32 | Encoding::I64 | Encoding::Bool
        );
        if integer {
            return Err(Error::new(
                ErrorKind::Weights,
                format!("tensor `{stored_name}` holds {:?} values, not floating point", stored.encoding()),
            ));
        }
        self.used().insert(key);
        Ok(Tensor { stored, quirk: *quirk })
    }

    /// Whether the files still hold what they held when they were opened.
    ///
    /// # Errors
    /// The file that does not.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        Ok(self.container.check_unchanged()?)
    }

    /// The files that hold the tensors.
    pub(crate) fn files(&self) -> Vec<&MappedFile> {
        self.container.files()
    }

    /// Whether the file holds a tensor of exactly this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.stored.contains_key(name)
    }

    /// Every tensor must have been used, or end in one of `ignored`.
    ///
    /// # Errors
    /// Surplus tensors; the first are named.
    pub(crate) fn finish(&self, ignored: &[&str]) -> Result<()> {
        let used = self.used();
        let is_ignored = |name: &str| ignored.iter().any(|end| name == *end || ends_with_part(name, end));
        let surplus: Vec<&str> =
            self.stored.keys().map(String::as_str).filter(|n| !used.contains(*n) && !is_ignored(n)).collect();
        let Some(first) = surplus.first() else { return Ok(()) };
        let more = if surplus.len() > 1 { format!(" and {} more", surplus.len() - 1) } else { String::new() };
        Err(Error::new(
            ErrorKind::Weights,
            format!(
                "tensor `{first}`{more} has no place in this architecture: the numbers would be wrong without it"
            ),
        ))
    }

    /// Names of all tensors in the checkpoint's spelling, but for the ignored buffers.
    pub(crate) fn names(&self, ignored: &[&str]) -> Vec<&str> {
        let is_ignored = |name: &str| ignored.iter().any(|end| name == *end || ends_with_part(name, end));
        self.stored.keys().map(String::as_str).filter(|name| !is_ignored(name)).collect()
    }

    /// Any tensor by the name that [`Checkpoint::names`] gives it.
    ///
    /// # Errors
    /// No such tensor.
    pub(crate) fn by_name(&self, name: &str) -> Result<Tensor<'_>> {
        let missing = || Error::new(ErrorKind::Weights, format!("the weights have no tensor `{name}`"));
        let (stored_name, quirk) = self.stored.get(name).ok_or_else(missing)?;
        let stored = self.container.tensor(stored_name).ok_or_else(missing)?;
        Ok(Tensor { stored, quirk: *quirk })
    }

    fn used(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // Insertions alone happen under the lock: a poisoned set is still right.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, prefix: &str, name: &str) -> Option<String> {
        let full = format!("{prefix}{name}");
        [full, name.to_owned()].into_iter().find(|n| self.stored.contains_key(n))
    }
}

/// Whether a dotted name ends in these whole parts.
fn ends_with_part(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'))
}

/// One stored tensor as the checkpoint would have it.
#[derive(Debug)]
pub(crate) struct Tensor<'a> {
    stored: StoredTensor<'a>,
    quirk: StorageQuirk,
}

impl Tensor<'_> {
    /// Decodes one row (all axes but the last counted together).
    pub(crate) fn read_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        self.stored.read_row(self.quirk.stored_row(row, self.stored.rows()), out)?;
        self.quirk.undo(out);
        Ok(())
    }

    /// Its rows by themselves, to be read when they are needed.
    ///
    /// # Errors
    /// Numbers that are not floating point.
    pub(crate) fn lasting(&self) -> Result<TensorRows> {
        Ok(TensorRows { stored: self.stored.lasting()?, quirk: self.quirk })
    }

    /// Decodes everything, row after row.
    pub(crate) fn read_all(&self) -> Result<Vec<f32>> {
        let width = self.stored.row_len();
        let mut values = vec![0.0; self.stored.elements()];
        for (row, out) in values.chunks_exact_mut(width.max(1)).enumerate() {
            self.read_row(row, out)?;
        }
        Ok(values)
    }

    /// Whether another tensor is stored with the same bytes.
    pub(crate) fn same_as(&self, other: &Tensor<'_>) -> bool {
        self.stored.encoding() == other.stored.encoding() && self.stored.bytes() == other.stored.bytes()
    }

    /// Sizes of its axes.
    pub(crate) fn shape(&self) -> &[usize] {
        self.stored.shape()
    }

    /// Rows, all axes but the last counted together, and their length.
    pub(crate) fn rows(&self) -> (usize, usize) {
        (self.stored.rows(), self.stored.row_len())
    }

    /// Lets go of the file's pages.
    pub(crate) fn drop_pages(&self) {
        self.stored.drop_pages();
    }
}

/// The rows of one stored tensor as the checkpoint would have them. They keep its file mapped.
#[derive(Debug)]
pub(crate) struct TensorRows {
    stored: LastingRows,
    quirk: StorageQuirk,
}

impl TensorRows {
    /// Decodes one row, which must be there and as long as `out`.
    pub(crate) fn read(&self, row: usize, out: &mut [f32]) {
        self.stored.read(self.quirk.stored_row(row, self.stored.len()), out);
        self.quirk.undo(out);
    }

    /// Lets go of the file's pages.
    pub(crate) fn drop_pages(&self) {
        self.stored.drop_pages();
    }
}

impl StorageQuirk {
    /// Where a row stands among so many stored ones.
    fn stored_row(self, row: usize, rows: usize) -> usize {
        let StorageQuirk::InterleavedRows { heads } = self else { return row };
        let d_head = rows / heads;
        let (head, within) = (row / d_head, row % d_head);
        let half = d_head / 2;
        head * d_head + 2 * (within % half) + within / half
    }

    /// Brings a stored row's values back to what the checkpoint has.
    fn undo(self, values: &mut [f32]) {
        if self == StorageQuirk::PlusOne {
            values.iter_mut().for_each(|x| *x -= 1.0);
        }
    }
}
