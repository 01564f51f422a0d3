//! The seam: the model drives, taps receive.

use std::ops::Range;

use easyroutine_kernels::{Rows, RowsMut};
use easyroutine_sites::Point;

use crate::batch::Batch;
use crate::error::{Error, ErrorKind, Result};

/// Receives activations while the model runs, and may change them.
///
/// The forward pass holds no state of a run: two runs with two taps can share one model.
pub trait Tap {
    /// What this tap wants at a point. Only wanted values are computed. The answer for a point must stay the same
    /// during a run.
    fn wants(&self, point: Point) -> Want;

    /// The tokens (of the whole batch, ascending) whose values this tap needs at a point; `None` means all. The model
    /// asks this for [`logits`](easyroutine_sites::Site::Logits), where a row is as wide as the vocabulary, and for the
    /// points after attention in the last block, which it computes from the first token of each row that any of them
    /// needs.
    fn tokens(&self, _point: Point, _batch: &Batch) -> Option<Vec<usize>> {
        None
    }

    /// Called at each wanted point, in the order of the forward pass.
    ///
    /// # Errors
    /// An error ends the run and is returned by it.
    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()>;
}

/// A tap whose changes have a derivative, so that a backward pass goes through them.
pub trait Reversible: Tap {
    /// Called when a pass begins: forgets the state of an earlier one.
    fn begin(&mut self) {}

    /// Whether a value that this tap reads at a point goes into a value that it writes elsewhere, so that a gradient
    /// comes from there even if nothing else reads the value.
    fn leads_on(&self, _point: Point) -> bool {
        false
    }

    /// Turns the gradient of the values that this tap left at a point into that of the values it found, points from the
    /// last to the first. `before` holds the values it found, for pairwise values: every row's square, back to back.
    ///
    /// # Errors
    /// If the change has no derivative.
    fn back(&mut self, point: Point, before: Option<&[f32]>, gradient: &mut Value<'_>) -> Result<()>;
}

/// What a tap does at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// It is not called.
    Nothing,
    /// It reads.
    Read,
    /// It writes every vector and reads none. At [`mlp_out`](easyroutine_sites::Site::MlpOut) the values that would
    /// only lead up to this one are not computed, and the value is NaN until written. Elsewhere this is [`Want::Edit`].
    Replace,
    /// It may change the value.
    Edit,
}

impl Want {
    /// What two taps do at a point, in order.
    pub fn then(self, next: Want) -> Want {
        match (self, next) {
            (Want::Nothing, want) | (want, Want::Nothing) => want,
            // The later tap finds the replaced values.
            (Want::Replace, _) => Want::Replace,
            (_, Want::Replace) => Want::Edit,
            (one, other) => one.max(other),
        }
    }
}

/// The values at one point, for all rows of the batch.
#[derive(Debug)]
pub struct Value<'a> {
    values: RowsMut<'a>,
    layout: Layout<'a>,
    batch: &'a Batch,
    /// Whether another tap follows the one being called.
    is_shared: bool,
}

#[derive(Debug)]
enum Layout<'a> {
    /// One vector per token.
    Tokens,
    /// One vector for each of these tokens, in a buffer that is unused after the taps.
    Some { tokens: &'a [usize], buffer: Vec<f32>, width: usize },
    /// One vector per row, for one of its tokens: these.
    Rows { tokens: &'a [usize], buffer: Vec<f32>, width: usize },
    /// For each row its queries by keys, starting at its start in one long array. With a window w, the query at i sees
    /// the key at j only if i - j < w.
    Pairs { pairs: &'a mut Vec<f32>, window: Option<usize>, starts: Vec<usize>, keeping: Keeping },
}

/// Whether a tap may keep a value's buffer, because nothing reads it afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// It may.
    Allowed,
    /// The run goes on with it.
    Refused,
}

impl<'a> Value<'a> {
    pub(crate) fn of_tokens(values: RowsMut<'a>, batch: &'a Batch) -> Self {
        Value { values, layout: Layout::Tokens, batch, is_shared: false }
    }

    pub(crate) fn of_some(buffer: Vec<f32>, width: usize, tokens: &'a [usize], batch: &'a Batch) -> Self {
        let layout = Layout::Some { tokens, buffer, width };
        Value { values: RowsMut::dense(&mut [], 0, 0), layout, batch, is_shared: false }
    }

    pub(crate) fn of_rows(buffer: Vec<f32>, width: usize, tokens: &'a [usize], batch: &'a Batch) -> Self {
        let layout = Layout::Rows { tokens, buffer, width };
        Value { values: RowsMut::dense(&mut [], 0, 0), layout, batch, is_shared: false }
    }

    pub(crate) fn of_pairs(
        pairs: &'a mut Vec<f32>,
        window: Option<usize>,
        keeping: Keeping,
        batch: &'a Batch,
    ) -> Self {
        let sizes = (0..batch.n_rows()).map(|row| batch.span(row).len() * batch.length(row));
        let starts = sizes.scan(0, |end, size| Some(std::mem::replace(end, *end + size))).collect();
        let layout = Layout::Pairs { pairs, window, starts, keeping };
        Value { values: RowsMut::dense(&mut [], 0, 0), layout, batch, is_shared: false }
    }

    /// A value of the same shape with other numbers; `None` unless values are pairwise.
    pub(crate) fn with_pairs<'b>(&'b self, pairs: &'b mut Vec<f32>) -> Option<Value<'b>> {
        let Layout::Pairs { window, .. } = &self.layout else { return None };
        Some(Value::of_pairs(pairs, *window, Keeping::Refused, self.batch))
    }

    /// The rows of the batch.
    pub fn batch(&self) -> &Batch {
        self.batch
    }

    /// Width of a vector in this row of the batch: for scores and patterns the row's length, else the same for all
    /// rows.
    pub fn width(&self, row: usize) -> usize {
        match self.layout {
            Layout::Pairs { .. } => self.batch.length(row),
            Layout::Some { width, .. } | Layout::Rows { width, .. } => width,
            Layout::Tokens => self.values.n_columns(),
        }
    }

    /// For scores and patterns, the keys that the query at a position can see; elsewhere nothing is hidden.
    pub fn visible(&self, row: usize, position: usize) -> Range<usize> {
        match &self.layout {
            Layout::Pairs { window, .. } => {
                window.map_or(0, |w| (position + 1).saturating_sub(w))..position + 1
            }
            _ => 0..self.width(row),
        }
    }

    /// The vector at a position of a row; `None` if this run does not compute the position or it was not requested.
    pub fn vector(&self, row: usize, position: usize) -> Option<&[f32]> {
        let token = self.batch.token(row, position)?;
        match &self.layout {
            Layout::Tokens => Some(self.values.row(token)),
            Layout::Some { tokens, buffer, width } | Layout::Rows { tokens, buffer, width } => {
                tokens.binary_search(&token).ok().map(|i| &buffer[i * width..(i + 1) * width])
            }
            Layout::Pairs { pairs, starts, .. } => {
                Some(&pairs[keys_of(self.batch, row, position, starts[row])])
            }
        }
    }

    /// A row's single vector, if the value has one per row (a pooled score); `None` if it has one per token, or the row
    /// has no tokens.
    pub fn of_row(&self, row: usize) -> Option<&[f32]> {
        let Layout::Rows { tokens, buffer, width } = &self.layout else { return None };
        let span = self.batch.span(row);
        let i = tokens.iter().position(|token| span.contains(token))?;
        Some(&buffer[i * width..(i + 1) * width])
    }

    /// Whether the value has one vector per row instead of one per token.
    pub fn is_of_rows(&self) -> bool {
        matches!(self.layout, Layout::Rows { .. })
    }

    /// The vectors of a row of the batch as one matrix: row i is position `batch().first(row) + i`. `None` if the value
    /// lacks some of these positions, or has one vector per row.
    ///
    /// # Shapes
    /// `[tokens of the row in this batch, width]`.
    pub fn matrix(&self, row: usize) -> Option<Rows<'_>> {
        let span = self.batch.span(row);
        match &self.layout {
            Layout::Tokens => Some(self.values.as_rows().rows(span)),
            Layout::Some { tokens, buffer, width } => {
                let rows = whole_span(tokens, &span)?;
                Some(Rows::dense(&buffer[rows.start * width..rows.end * width], span.len(), *width))
            }
            Layout::Rows { .. } => None,
            Layout::Pairs { pairs, starts, .. } => {
                let width = self.batch.length(row);
                Some(Rows::dense(&pairs[starts[row]..starts[row] + span.len() * width], span.len(), width))
            }
        }
    }

    /// As [`Value::matrix`], mutable.
    pub fn matrix_mut(&mut self, row: usize) -> Option<RowsMut<'_>> {
        let span = self.batch.span(row);
        match &mut self.layout {
            Layout::Tokens => Some(self.values.reborrow().rows(span)),
            Layout::Some { tokens, buffer, width } => {
                let rows = whole_span(tokens, &span)?;
                let values = &mut buffer[rows.start * *width..rows.end * *width];
                Some(RowsMut::dense(values, span.len(), *width))
            }
            Layout::Rows { .. } => None,
            Layout::Pairs { pairs, starts, .. } => {
                let width = self.batch.length(row);
                let values = &mut pairs[starts[row]..starts[row] + span.len() * width];
                Some(RowsMut::dense(values, span.len(), width))
            }
        }
    }

    /// As [`Value::vector`], mutable.
    pub fn vector_mut(&mut self, row: usize, position: usize) -> Option<&mut [f32]> {
        let token = self.batch.token(row, position)?;
        match &mut self.layout {
            Layout::Tokens => Some(self.values.row_mut(token)),
            Layout::Some { tokens, buffer, width } | Layout::Rows { tokens, buffer, width } => {
                let width = *width;
                tokens.binary_search(&token).ok().map(|i| &mut buffer[i * width..(i + 1) * width])
            }
            Layout::Pairs { pairs, starts, .. } => {
                let keys = keys_of(self.batch, row, position, starts[row]);
                Some(&mut pairs[keys])
            }
        }
    }

    /// Takes the whole buffer of logits, to keep without a copy, if it holds exactly these tokens (of the whole batch,
    /// in this order) and no other tap follows. Afterwards the value is empty.
    pub(crate) fn take(&mut self, wanted: &[usize]) -> Option<Vec<f32>> {
        match &mut self.layout {
            Layout::Some { tokens, buffer, .. } if *tokens == wanted && !self.is_shared => {
                *tokens = &[];
                Some(std::mem::take(buffer))
            }
            _ => None,
        }
    }

    /// Takes the whole buffer of a pattern, every row's queries by keys, to keep without a copy, if the run is done
    /// with it and no other tap follows. Afterwards the value is empty.
    pub(crate) fn take_pairs(&mut self) -> Option<Vec<f32>> {
        match &mut self.layout {
            Layout::Pairs { pairs, keeping: Keeping::Allowed, .. } if !self.is_shared => {
                Some(std::mem::take(*pairs))
            }
            _ => None,
        }
    }
}

/// The range of one query's keys among all pairs; those of its row begin at `start`.
fn keys_of(batch: &Batch, row: usize, position: usize, start: usize) -> Range<usize> {
    let width = batch.length(row);
    let start = start + (position - batch.first(row)) * width;
    start..start + width
}

/// The range of a span's tokens within `tokens`, if all are there.
fn whole_span(tokens: &[usize], span: &Range<usize>) -> Option<Range<usize>> {
    let first = tokens.partition_point(|token| *token < span.start);
    let end = tokens.partition_point(|token| *token < span.end);
    (end - first == span.len()).then_some(first..end)
}

/// A tap that wants nothing.
impl Tap for () {
    fn wants(&self, _: Point) -> Want {
        Want::Nothing
    }

    fn at(&mut self, _: Point, _: &mut Value<'_>) -> Result<()> {
        Ok(())
    }
}

/// Two taps in order: `(edit, cache)` keeps the edited value, `(cache, edit)` the original.
impl<A: Tap, B: Tap> Tap for (A, B) {
    fn wants(&self, point: Point) -> Want {
        self.0.wants(point).then(self.1.wants(point))
    }

    fn tokens(&self, point: Point, batch: &Batch) -> Option<Vec<usize>> {
        let wanted = |tap: &dyn Tap| (tap.wants(point) > Want::Nothing).then(|| tap.tokens(point, batch));
        match (wanted(&self.0), wanted(&self.1)) {
            (Some(Some(a)), Some(Some(b))) => {
                let mut both = [a, b].concat();
                both.sort_unstable();
                both.dedup();
                Some(both)
            }
            (Some(one), None) | (None, Some(one)) => one,
            _ => None,
        }
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        let is_shared = value.is_shared;
        if self.0.wants(point) > Want::Nothing {
            value.is_shared |= self.1.wants(point) > Want::Nothing;
            self.0.at(point, value)?;
        }
        value.is_shared = is_shared;
        if self.1.wants(point) > Want::Nothing {
            self.1.at(point, value)?;
        }
        Ok(())
    }
}

impl<T: Tap + ?Sized> Tap for &mut T {
    fn wants(&self, point: Point) -> Want {
        (**self).wants(point)
    }

    fn tokens(&self, point: Point, batch: &Batch) -> Option<Vec<usize>> {
        (**self).tokens(point, batch)
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        (**self).at(point, value)
    }
}

impl<T: Tap + ?Sized> Tap for Box<T> {
    fn wants(&self, point: Point) -> Want {
        (**self).wants(point)
    }

    fn tokens(&self, point: Point, batch: &Batch) -> Option<Vec<usize>> {
        (**self).tokens(point, batch)
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        (**self).at(point, value)
    }
}

/// Two of them in their order.
impl<A: Reversible, B: Reversible> Reversible for (A, B) {
    fn begin(&mut self) {
        self.0.begin();
        self.1.begin();
    }

    fn leads_on(&self, point: Point) -> bool {
        self.0.leads_on(point) || self.1.leads_on(point)
    }

    fn back(&mut self, point: Point, before: Option<&[f32]>, gradient: &mut Value<'_>) -> Result<()> {
        let [first, second] = [self.0.wants(point), self.1.wants(point)].map(|want| want > Want::Nothing);
        if first && second && before.is_some() {
            let what = format!("two kinds of changes of `{point}` have no derivative together");
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        if second {
            self.1.back(point, before, gradient)?;
        }
        if first {
            self.0.back(point, before, gradient)?;
        }
        Ok(())
    }
}

impl Reversible for () {
    fn back(&mut self, _: Point, _: Option<&[f32]>, _: &mut Value<'_>) -> Result<()> {
        Ok(())
    }
}
