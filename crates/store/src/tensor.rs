//! Tensors as plain data, for saving and reading.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, Range};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::fs::Source;

/// Number types, named as in the safetensors format.
#[expect(missing_docs, reason = "the variants are the names that the format itself uses")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Dtype {
    Bool,
    U8,
    I8,
    U16,
    I16,
    F16,
    Bf16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
    C64,
}

impl Dtype {
    /// All types.
    pub const ALL: [Dtype; 14] = [
        Dtype::Bool,
        Dtype::U8,
        Dtype::I8,
        Dtype::U16,
        Dtype::I16,
        Dtype::F16,
        Dtype::Bf16,
        Dtype::U32,
        Dtype::I32,
        Dtype::F32,
        Dtype::U64,
        Dtype::I64,
        Dtype::F64,
        Dtype::C64,
    ];

    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Dtype::Bool | Dtype::U8 | Dtype::I8 => 1,
            Dtype::U16 | Dtype::I16 | Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::U32 | Dtype::I32 | Dtype::F32 => 4,
            Dtype::U64 | Dtype::I64 | Dtype::F64 | Dtype::C64 => 8,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_uppercase())
    }
}

impl FromStr for Dtype {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Dtype::ALL.into_iter().find(|dtype| dtype.to_string() == name);
        found.ok_or_else(|| {
            Error::new(crate::ErrorKind::Unsupported, format!("dtype `{name}` is not one that is stored"))
        })
    }
}

/// What the rows of a tensor stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `[example, position, …]`
    Dense,
    /// Examples of different length, concatenated: `[token, …]`, with the start of each.
    Rows,
    /// Squares of different size (attention patterns), concatenated and flat, with the start of each.
    RaggedNd,
    /// Any tensor that a user saves.
    Object,
}

impl Kind {
    /// Whether the tensor has offsets.
    pub fn is_ragged(self) -> bool {
        matches!(self, Kind::Rows | Kind::RaggedNd)
    }
}

/// A tensor to save. Its numbers are not copied.
#[derive(Debug, Clone)]
pub struct Tensor<'a> {
    /// The key: `resid_out_5`.
    pub name: String,
    /// The type of its numbers.
    pub dtype: Dtype,
    /// Sizes of its axes, slowest first.
    pub shape: Vec<usize>,
    /// What its rows stand for.
    pub kind: Kind,
    /// Names of its axes, or none: `example`, `position`, `d_model`.
    pub axes: Vec<String>,
    /// The numbers, little-endian, in C order.
    pub bytes: Cow<'a, [u8]>,
    /// For a ragged kind: the start of each example along the first axis, and the end. `[examples + 1]`.
    pub offsets: Vec<i64>,
}

impl<'a> Tensor<'a> {
    /// A tensor of kind [`Kind::Object`] without axis names.
    pub fn new(
        name: impl Into<String>,
        dtype: Dtype,
        shape: &[usize],
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> Self {
        let (name, shape, bytes) = (name.into(), shape.to_vec(), bytes.into());
        Tensor { name, dtype, shape, kind: Kind::Object, axes: Vec::new(), bytes, offsets: Vec::new() }
    }

    /// A tensor of f32 numbers.
    pub fn f32(name: impl Into<String>, shape: &[usize], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Tensor::new(name, Dtype::F32, shape, bytes)
    }

    /// The same, with one row per example.
    #[must_use]
    pub fn dense(self) -> Self {
        Tensor { kind: Kind::Dense, ..self }
    }

    /// The same, with examples of different length concatenated.
    #[must_use]
    pub fn ragged(self, kind: Kind, offsets: Vec<i64>) -> Self {
        Tensor { kind, offsets, ..self }
    }

    /// The same tensor with bytes borrowed from this one.
    pub(crate) fn borrowed(&self) -> Tensor<'_> {
        let bytes = Cow::Borrowed(&self.bytes[..]);
        let (name, shape, axes, offsets) =
            (self.name.clone(), self.shape.clone(), self.axes.clone(), self.offsets.clone());
        Tensor { name, dtype: self.dtype, shape, kind: self.kind, axes, bytes, offsets }
    }

    /// Number of examples; `None` for a scalar, which has no rows.
    pub(crate) fn examples(&self) -> Option<usize> {
        if self.kind.is_ragged() {
            Some(self.offsets.len().saturating_sub(1))
        } else {
            self.shape.first().copied()
        }
    }

    /// Bytes of one step along the first axis.
    pub(crate) fn row_bytes(&self) -> usize {
        self.shape.iter().skip(1).product::<usize>() * self.dtype.size()
    }

    /// The rows of the first axis that belong to a range of examples.
    pub(crate) fn rows_of(&self, examples: Range<usize>) -> Range<usize> {
        if self.kind.is_ragged() {
            self.offsets[examples.start] as usize..self.offsets[examples.end] as usize
        } else {
            examples
        }
    }

    /// # Errors
    /// If numbers and shape do not match, offsets do not divide the first axis, or the name is bad.
    pub(crate) fn check(&self) -> Result<()> {
        check_name(&self.name)?;
        let wrong = |what: String| Err(Error::input(format!("tensor `{}`: {what}", self.name)));
        let elements = self.shape.iter().try_fold(1usize, |n, axis| n.checked_mul(*axis));
        let bytes = elements.and_then(|n| n.checked_mul(self.dtype.size()));
        if bytes != Some(self.bytes.len()) {
            return wrong(format!(
                "shape {:?} of {} does not fit {} bytes",
                self.shape,
                self.dtype,
                self.bytes.len()
            ));
        }
        if !self.axes.is_empty() && self.axes.len() != self.shape.len() {
            return wrong(format!("{} names for {} axes", self.axes.len(), self.shape.len()));
        }
        match self.kind {
            Kind::Dense if self.shape.is_empty() => {
                wrong("a dense tensor has an axis of examples".to_owned())
            }
            Kind::Dense | Kind::Object if !self.offsets.is_empty() => {
                wrong("only ragged kinds have offsets".to_owned())
            }
            Kind::RaggedNd if self.shape.len() != 1 => wrong("a ragged_nd tensor is flat".to_owned()),
            Kind::Rows | Kind::RaggedNd => {
                let rows = self.shape.first().copied().and_then(|rows| i64::try_from(rows).ok());
                let grows = self.offsets.windows(2).all(|w| w[0] <= w[1]);
                if rows.is_none()
                    || self.offsets.first() != Some(&0)
                    || self.offsets.last() != rows.as_ref()
                    || !grows
                {
                    return wrong("offsets must grow from 0 to the length of the first axis".to_owned());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The name of a ragged tensor's offsets.
pub(crate) fn offsets_of(name: &str) -> String {
    format!("{name}.offsets")
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name == "__metadata__" || name.len() > 1000 || name.contains(char::is_control) {
        return Err(Error::input(format!(
            "tensor `{}`: that is not a name for a tensor",
            name.escape_debug()
        )));
    }
    Ok(())
}

/// A tensor that was read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The type of its numbers.
    pub dtype: Dtype,
    /// Sizes of its axes, slowest first.
    pub shape: Vec<usize>,
    /// What its rows stand for.
    pub kind: Kind,
    /// The numbers, little-endian, in C order.
    pub bytes: Bytes,
    /// For a ragged kind: the start of each example along the first axis, and the end. `[examples + 1]`.
    pub offsets: Vec<i64>,
}

impl Loaded {
    /// The same, ready to save under a name, without copying the numbers.
    pub fn as_tensor(&self, name: impl Into<String>) -> Tensor<'_> {
        let (shape, bytes) = (self.shape.clone(), Cow::Borrowed(&self.bytes[..]));
        Tensor {
            name: name.into(),
            dtype: self.dtype,
            shape,
            kind: self.kind,
            axes: Vec::new(),
            bytes,
            offsets: self.offsets.clone(),
        }
    }

    /// 16-bit floats widened to f32; empty for other types.
    pub fn widened(&self) -> Vec<f32> {
        let halves = self.bytes.as_chunks::<2>().0.iter();
        match self.dtype {
            Dtype::Bf16 => halves.map(|x| half::bf16::from_le_bytes(*x).to_f32()).collect(),
            Dtype::F16 => halves.map(|x| half::f16::from_le_bytes(*x).to_f32()).collect(),
            _ => Vec::new(),
        }
    }

    /// The numbers, if their type is f32.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let (numbers, _) = self.bytes.as_chunks::<4>();
        (self.dtype == Dtype::F32).then(|| numbers.iter().map(|x| f32::from_le_bytes(*x)).collect())
    }
}

/// Owned bytes, or those of a mapped file.
#[derive(Clone)]
pub enum Bytes {
    /// In memory.
    Owned(Vec<u8>),
    /// In the page cache; the map lives as long as this value.
    Mapped(Arc<dyn Source>, Range<usize>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Owned(bytes) => bytes,
            // The range was checked when this was made, and a map never shrinks.
            Bytes::Mapped(source, range) => {
                source.mapped().and_then(|map| map.get(range.clone())).unwrap_or(&[])
            }
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if matches!(self, Bytes::Owned(_)) { "owned" } else { "mapped" };
        write!(f, "{} {place} bytes", self.len())
    }
}
