//! The tensors of a dictionary's files, in any container, and matrices read by rows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use easyroutine::{Error, ErrorKind, Result};
use easyroutine_files::torch::{self, Item};
use easyroutine_files::{Encoding, MappedFile, ShardedSafeTensors, StoredTensor, npz};

use crate::problems::{Problems, shown};

/// Bytes in a mapped file, or in memory if they come from a pickle.
#[derive(Debug, Clone)]
enum Bytes {
    Mapped(MappedFile, Range<usize>),
    Own(Arc<[u8]>),
}

impl Bytes {
    fn all(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map, range) => &map.bytes()[range.clone()],
            Bytes::Own(bytes) => bytes,
        }
    }
}

#[derive(Debug, Clone)]
struct Stored {
    shape: Vec<usize>,
    encoding: Encoding,
    bytes: Bytes,
    /// Whether the first axis varies fastest.
    is_fortran: bool,
}

/// All tensors of one file. Each is taken once; any left over is a problem.
#[derive(Debug)]
pub(crate) struct Tensors {
    file: String,
    entries: BTreeMap<String, Stored>,
    taken: BTreeSet<String>,
    problems: Problems,
    map: MappedFile,
}

/// The two axes of a stored matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Axes {
    /// `[features, width]`: a feature's numbers are contiguous.
    FeaturesFirst,
    /// `[width, features]`.
    WidthFirst,
}

impl Tensors {
    /// Opens a file according to its extension: safetensors, npz, or torch.save.
    pub(crate) fn open(path: &Path, problems: &Problems) -> Result<Tensors> {
        let file = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let (map, entries) = match ending {
            "npz" => {
                let map = MappedFile::open(path)?;
                let arrays = npz::arrays(map.bytes()).map_err(|e| Error::from(e).at(path.display()))?;
                let entries = arrays.into_iter().map(|array| {
                    let bytes = Bytes::Mapped(map.clone(), array.range);
                    let (shape, encoding, is_fortran) = (array.shape, array.encoding, array.is_fortran);
                    (array.name, Stored { shape, encoding, bytes, is_fortran })
                });
                (map.clone(), entries.collect())
            }
            "pt" | "pth" | "bin" => {
                let map = MappedFile::open(path)?;
                let item = torch::read(map.bytes(), &[]).map_err(|e| Error::from(e).at(path.display()))?;
                let entries = pickled(item, &file, problems);
                (map, entries)
            }
            _ => {
                let tensors = ShardedSafeTensors::open(path)?;
                let map = tensors
                    .files()
                    .next()
                    .cloned()
                    .ok_or_else(|| Error::new(ErrorKind::Format, "no file"))?;
                let base = map.bytes().as_ptr().addr();
                let mut entries = BTreeMap::new();
                for name in tensors.names() {
                    let Some(tensor) = tensors.tensor(name) else { continue };
                    let start = tensor.bytes().as_ptr().addr().saturating_sub(base);
                    let range =
                        if tensor.bytes().is_empty() { 0..0 } else { start..start + tensor.bytes().len() };
                    let bytes = Bytes::Mapped(map.clone(), range);
                    let (shape, encoding) = (tensor.shape().to_vec(), tensor.encoding());
                    entries.insert(name.to_owned(), Stored { shape, encoding, bytes, is_fortran: false });
                }
                (map, entries)
            }
        };
        let (taken, problems) = (BTreeSet::new(), problems.clone());
        Ok(Tensors { file, entries, taken, problems, map })
    }

    /// The mapped file.
    pub(crate) fn map(&self) -> &MappedFile {
        &self.map
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The shape of a tensor; a missing one is a problem.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let found = self.entries.get(name).map(|stored| stored.shape.clone());
        if found.is_none() {
            self.lacks(name);
        }
        found
    }

    /// The sizes of a matrix's axes as (features, width); anything else is a problem.
    pub(crate) fn sizes(&self, name: &str, axes: Axes) -> Option<(usize, usize)> {
        let shape = self.shape(name)?;
        match (shape.as_slice(), axes) {
            ([0, _] | [_, 0], _) => self.wrong(name, "holds nothing"),
            ([features, width], Axes::FeaturesFirst) | ([width, features], Axes::WidthFirst) => {
                Some((*features, *width))
            }
            _ => self.wrong(name, &format!("has shape {shape:?}; a matrix is expected")),
        }
    }

    /// A vector whose numbers are all finite.
    pub(crate) fn vector(&mut self, name: &str, length: usize, what: &str) -> Option<Vec<f32>> {
        let stored = self.take(name)?;
        if stored.shape != [length] {
            let shape = stored.shape;
            return self
                .wrong(name, &format!("has shape {shape:?}, not [{length}], one number for each {what}"));
        }
        self.numbers(name, &stored)
    }

    /// exp of a vector's numbers.
    pub(crate) fn exponentials(&mut self, name: &str, length: usize, what: &str) -> Option<Vec<f32>> {
        let logs = self.vector(name, length, what)?;
        let found: Vec<f32> = logs.iter().map(|log| log.exp()).collect();
        match found.iter().position(|x| !x.is_finite()) {
            None => Some(found),
            Some(at) => {
                self.wrong(name, &format!("holds {} at {at}, whose exponential is infinite", logs[at]))
            }
        }
    }

    /// A single number.
    pub(crate) fn scalar(&mut self, name: &str) -> Option<f32> {
        let stored = self.take(name)?;
        if !stored.shape.iter().all(|axis| *axis == 1) {
            let shape = stored.shape;
            return self.wrong(name, &format!("has shape {shape:?}; a single number is expected"));
        }
        self.numbers(name, &stored).and_then(|numbers| numbers.first().copied())
    }

    /// An integer from a tensor of integers.
    pub(crate) fn integer(&mut self, name: &str) -> Option<i64> {
        let stored = self.take(name)?;
        let bytes = stored.bytes.all();
        match (stored.encoding, bytes.len()) {
            (Encoding::I32, 4) => bytes.try_into().ok().map(i32::from_le_bytes).map(i64::from),
            (Encoding::I64, 8) => bytes.try_into().ok().map(i64::from_le_bytes),
            _ => self.wrong(name, &format!("holds {} and not one whole number", stored.encoding)),
        }
    }

    /// A matrix to be read by rows later.
    pub(crate) fn matrix(&mut self, name: &str, axes: Axes, features: usize, width: usize) -> Option<Matrix> {
        let expected = match axes {
            Axes::FeaturesFirst => vec![features, width],
            Axes::WidthFirst => vec![width, features],
        };
        self.matrix_of(name, &expected, axes, features, width)
    }

    /// The decoder of a cross-layer transcoder, `[features, layers, width]`.
    pub(crate) fn layered(
        &mut self,
        name: &str,
        features: usize,
        layers: usize,
        width: usize,
    ) -> Option<Matrix> {
        self.matrix_of(name, &[features, layers, width], Axes::FeaturesFirst, features, layers * width)
    }

    fn matrix_of(
        &mut self,
        name: &str,
        expected: &[usize],
        axes: Axes,
        features: usize,
        width: usize,
    ) -> Option<Matrix> {
        let stored = self.take(name)?;
        if stored.shape != expected {
            let shape = stored.shape;
            return self.wrong(name, &format!("has shape {shape:?}, not {expected:?}"));
        }
        if !is_float(stored.encoding) {
            return self.wrong(name, &format!("holds {}, which are not weights", stored.encoding));
        }
        let axes = match (axes, stored.is_fortran) {
            (axes, false) => axes,
            (Axes::FeaturesFirst, true) => Axes::WidthFirst,
            (Axes::WidthFirst, true) => Axes::FeaturesFirst,
        };
        let (encoding, bytes, shape) = (stored.encoding, stored.bytes, expected.to_vec());
        Some(Matrix { name: format!("{}: {name}", self.file), shape, bytes, encoding, features, width, axes })
    }

    /// Ignores a tensor on purpose.
    pub(crate) fn ignore(&mut self, name: &str) {
        self.taken.insert(name.to_owned());
    }

    /// Records every tensor not taken as a problem.
    pub(crate) fn finish(&self) {
        let left: Vec<String> =
            self.entries.keys().filter(|name| !self.taken.contains(*name)).map(|name| shown(name)).collect();
        if !left.is_empty() {
            let tensors = if left.len() == 1 { "tensor" } else { "tensors" };
            self.problems.add(format!("{}: unknown {tensors} {}", self.file, left.join(", ")));
        }
    }

    fn take(&mut self, name: &str) -> Option<Stored> {
        self.taken.insert(name.to_owned());
        let found = self.entries.get(name).cloned();
        if found.is_none() {
            self.lacks(name);
        }
        found
    }

    fn lacks(&self, name: &str) {
        self.problems.add(format!("{}: no tensor {}", self.file, shown(name)));
    }

    /// Records what is wrong with a tensor.
    pub(crate) fn wrong<T>(&self, name: &str, what: &str) -> Option<T> {
        self.problems.add(format!("{}: tensor {} {what}", self.file, shown(name)));
        None
    }

    fn numbers(&self, name: &str, stored: &Stored) -> Option<Vec<f32>> {
        if !is_float(stored.encoding) {
            return self.wrong(name, &format!("holds {}, which are not weights", stored.encoding));
        }
        let tensor = StoredTensor::new(name, stored.shape.clone(), stored.encoding, stored.bytes.all());
        let numbers = tensor.and_then(|tensor| tensor.read_all());
        let numbers = match numbers {
            Ok(numbers) => numbers,
            Err(error) => return self.wrong(name, &error.to_string()),
        };
        match numbers.iter().position(|x| !x.is_finite()) {
            Some(at) => self.wrong(name, &format!("holds {} at {at}", numbers[at])),
            None => Some(numbers),
        }
    }
}

fn is_float(encoding: Encoding) -> bool {
    matches!(encoding, Encoding::F64 | Encoding::F32 | Encoding::F16 | Encoding::Bf16)
}

fn pickled(item: Item, file: &str, problems: &Problems) -> BTreeMap<String, Stored> {
    let Item::Map(entries) = item else {
        problems.add(format!("{file} holds no dictionary of tensors"));
        return BTreeMap::new();
    };
    let mut found = BTreeMap::new();
    for (key, value) in entries {
        match (key, value) {
            (Item::Text(name), Item::Tensor(tensor)) => {
                let bytes = Bytes::Own(tensor.bytes.into());
                let stored =
                    Stored { shape: tensor.shape, encoding: tensor.encoding, bytes, is_fortran: false };
                found.insert(name, stored);
            }
            (Item::Text(name), _) => problems.add(format!("{file}: {} is not a tensor", shown(&name))),
            _ => problems.add(format!("{file}: a key that is not text")),
        }
    }
    found
}

/// A matrix in its file, read on demand.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    name: String,
    shape: Vec<usize>,
    bytes: Bytes,
    encoding: Encoding,
    features: usize,
    width: usize,
    axes: Axes,
}

impl Matrix {
    pub(crate) fn features(&self) -> usize {
        self.features
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Sizes of its axes in the file.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(crate) fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The same matrix with every feature's numbers contiguous: a copy in memory, in the file's encoding, if the file
    /// stores them otherwise.
    pub(crate) fn by_features(self) -> Matrix {
        if self.axes == Axes::FeaturesFirst {
            return self;
        }
        let size = self.encoding.block_bytes();
        let source = self.bytes.all();
        let mut turned = vec![0u8; source.len()];
        // Square tiles, so that neither side walks all of memory for each number.
        const TILE: usize = 64;
        for feature in (0..self.features).step_by(TILE) {
            for column in (0..self.width).step_by(TILE) {
                for column in column..self.width.min(column + TILE) {
                    for feature in feature..self.features.min(feature + TILE) {
                        let (from, to) = (column * self.features + feature, feature * self.width + column);
                        turned[to * size..][..size].copy_from_slice(&source[from * size..][..size]);
                    }
                }
            }
        }
        Matrix { bytes: Bytes::Own(turned.into()), axes: Axes::FeaturesFirst, ..self }
    }

    /// Reads a range of columns of one feature.
    ///
    /// # Shapes
    /// out: `[columns]`.
    ///
    /// # Errors
    /// If a number is not finite.
    pub(crate) fn read(&self, feature: usize, columns: Range<usize>, out: &mut [f32]) -> Result<()> {
        match self.axes {
            Axes::FeaturesFirst => self.decode(feature * self.width + columns.start, out)?,
            Axes::WidthFirst => {
                for (column, place) in columns.zip(out.iter_mut()) {
                    self.decode(column * self.features + feature, std::slice::from_mut(place))?;
                }
            }
        }
        self.check(feature, out)
    }

    /// Reads all numbers of a range of features.
    ///
    /// # Shapes
    /// out: `[features.len(), width]`.
    ///
    /// # Errors
    /// If a number is not finite.
    pub(crate) fn read_block(&self, features: Range<usize>, out: &mut [f32]) -> Result<()> {
        match self.axes {
            Axes::FeaturesFirst => self.decode(features.start * self.width, out)?,
            Axes::WidthFirst => {
                let mut row = vec![0.0; features.len()];
                for column in 0..self.width {
                    self.decode(column * self.features + features.start, &mut row)?;
                    row.iter().enumerate().for_each(|(i, x)| out[i * self.width + column] = *x);
                }
            }
        }
        for (i, row) in out.chunks_exact(self.width.max(1)).enumerate() {
            self.check(features.start + i, row)?;
        }
        Ok(())
    }

    fn decode(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let size = self.encoding.block_bytes();
        let bytes = &self.bytes.all()[start * size..][..out.len() * size];
        if self.encoding == Encoding::F32 {
            for (place, number) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *place = f32::from_le_bytes(*number);
            }
            return Ok(());
        }
        StoredTensor::new(&self.name, vec![out.len()], self.encoding, bytes)?.read_rows(0..1, out)?;
        Ok(())
    }

    fn check(&self, feature: usize, numbers: &[f32]) -> Result<()> {
        match numbers.iter().find(|x| !x.is_finite()) {
            None => Ok(()),
            Some(x) => Err(Error::new(
                ErrorKind::Weights,
                format!("{}: the numbers of feature {feature} hold {x}", self.name),
            )),
        }
    }
}
