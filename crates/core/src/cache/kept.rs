//! One kept activation: numbers for every row of a batch, with rows of any length.

use easyroutine_kernels::give_back;

use crate::error::{Error, Result};

/// One kept activation.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// The numbers, row by row.
    pub data: Numbers,
    /// Shape of each row: `[T, D]`, `[T, T]`, `[T]`.
    pub row_shapes: Vec<Vec<usize>>,
}

/// Numbers of a kept activation.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    /// Activations.
    F32(Vec<f32>),
    /// Token ids.
    I64(Vec<i64>),
}

impl Kept {
    /// Activations of rows.
    pub fn f32(values: Vec<f32>, row_shapes: Vec<Vec<usize>>) -> Self {
        Kept { data: Numbers::F32(values), row_shapes }
    }

    /// The whole shape `[B, T, ...]`, or `None` if rows differ in T.
    pub fn shape(&self) -> Option<Vec<usize>> {
        let first = self.row_shapes.first()?;
        let same = self.row_shapes.iter().all(|s| s == first);
        same.then(|| [&[self.row_shapes.len()], first.as_slice()].concat())
    }

    /// The start of each row among the numbers, and the end of the last: B + 1 offsets.
    pub fn offsets(&self) -> Vec<usize> {
        let mut offsets = Vec::with_capacity(self.row_shapes.len() + 1);
        offsets.push(0);
        let mut end = 0;
        for shape in &self.row_shapes {
            end += size(shape);
            offsets.push(end);
        }
        offsets
    }

    /// The activations of one row; empty for token ids. To visit all rows, [`Kept::rows`] is faster.
    pub fn row(&self, row: usize) -> &[f32] {
        let start: usize = self.row_shapes[..row].iter().map(|shape| size(shape)).sum();
        self.values().get(start..start + size(&self.row_shapes[row])).unwrap_or(&[])
    }

    /// The activations of each row in turn; empty for token ids.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        let mut rest = self.values();
        self.row_shapes.iter().map(move |shape| {
            let (row, after) = rest.split_at(size(shape).min(rest.len()));
            rest = after;
            row
        })
    }

    /// All activations, row by row; empty for token ids.
    pub fn values(&self) -> &[f32] {
        match &self.data {
            Numbers::F32(data) => data,
            Numbers::I64(_) => &[],
        }
    }

    /// The same, mutable.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        match &mut self.data {
            Numbers::F32(data) => data,
            Numbers::I64(_) => &mut [],
        }
    }

    /// Whether any value is NaN.
    pub fn has_nan(&self) -> bool {
        self.values().iter().any(|x| x.is_nan())
    }

    /// The numbers, without a copy.
    pub fn into_data(mut self) -> Numbers {
        self.take_data()
    }

    fn take_data(&mut self) -> Numbers {
        std::mem::replace(&mut self.data, Numbers::I64(Vec::new()))
    }

    /// Bytes of the numbers.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Numbers::F32(data) => size_of_val(data.as_slice()),
            Numbers::I64(data) => size_of_val(data.as_slice()),
        }
    }

    /// Appends the rows of another, of any length.
    ///
    /// # Errors
    /// If the numbers' type or the rows' number of axes differs.
    pub fn append(&mut self, mut other: Kept) -> Result<()> {
        if let (Some(ours), Some(theirs)) = (self.row_shapes.first(), other.row_shapes.first())
            && ours.len() != theirs.len()
        {
            return Err(Error::input(format!("rows of shape {ours:?} and {theirs:?} do not go together")));
        }
        match (&mut self.data, &mut other.data) {
            (Numbers::F32(ours), Numbers::F32(theirs)) => ours.append(theirs),
            (Numbers::I64(ours), Numbers::I64(theirs)) => ours.append(theirs),
            _ => return Err(Error::input("activations and token ids do not go together")),
        }
        self.row_shapes.append(&mut other.row_shapes);
        Ok(())
    }

    /// Reserves room for this many more numbers and rows, so that adding them copies nothing twice.
    pub(crate) fn reserve(&mut self, numbers: usize, rows: usize) {
        match &mut self.data {
            Numbers::F32(data) => data.reserve_exact(numbers),
            Numbers::I64(data) => data.reserve_exact(numbers),
        }
        self.row_shapes.reserve_exact(rows);
    }

    /// How many numbers there are.
    pub(crate) fn count(&self) -> usize {
        match &self.data {
            Numbers::F32(data) => data.len(),
            Numbers::I64(data) => data.len(),
        }
    }

    /// The rows in another order: `order[i]` becomes row i.
    pub(crate) fn in_order(&self, order: &[usize]) -> Kept {
        let offsets = self.offsets();
        let spans = || order.iter().map(|row| offsets[*row]..offsets[row + 1]);
        let data = match &self.data {
            Numbers::F32(data) => Numbers::F32(gathered(data, spans())),
            Numbers::I64(data) => Numbers::I64(gathered(data, spans())),
        };
        Kept { data, row_shapes: order.iter().map(|row| self.row_shapes[*row].clone()).collect() }
    }

    /// For each row, the indices along its first axis that `chosen` gives.
    pub(crate) fn at(&self, chosen: impl Fn(usize) -> std::ops::Range<usize>) -> Kept {
        let offsets = self.offsets();
        let mut row_shapes = Vec::with_capacity(self.row_shapes.len());
        let mut spans = Vec::with_capacity(self.row_shapes.len());
        for (row, shape) in self.row_shapes.iter().enumerate() {
            let (wanted, inner) = (chosen(row), &shape[1..]);
            let width = size(inner);
            spans.push(offsets[row] + wanted.start * width..offsets[row] + wanted.end * width);
            row_shapes.push([&[wanted.len()], inner].concat());
        }
        let data = match &self.data {
            Numbers::F32(data) => Numbers::F32(gathered(data, spans.into_iter())),
            Numbers::I64(data) => Numbers::I64(gathered(data, spans.into_iter())),
        };
        Kept { data, row_shapes }
    }
}

/// Gives the memory to the next run.
impl Drop for Kept {
    fn drop(&mut self) {
        if let Numbers::F32(values) = self.take_data() {
            give_back(values);
        }
    }
}

fn gathered<T: Copy>(data: &[T], spans: impl Iterator<Item = std::ops::Range<usize>> + Clone) -> Vec<T> {
    let mut gathered = Vec::with_capacity(spans.clone().map(|span| span.len()).sum());
    spans.for_each(|span| gathered.extend_from_slice(&data[span]));
    gathered
}

fn size(shape: &[usize]) -> usize {
    shape.iter().product()
}
