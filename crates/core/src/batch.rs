//! Rows of token ids, packed back to back: padding is removed before anything is computed.

use std::ops::Range;

use crate::error::{Error, Result};

/// One or more rows of token ids, without padding. A row may continue tokens that were run before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    ids: Vec<u32>,
    starts: Vec<usize>,
    /// For each row, the position within the row of its first token here.
    firsts: Vec<usize>,
}

impl Batch {
    /// Packs rows of any length.
    ///
    /// # Errors
    /// If there are no rows, or a row has no tokens.
    pub fn new<R: AsRef<[u32]>>(rows: &[R]) -> Result<Self> {
        if rows.is_empty() {
            return Err(Error::input("no prompt given"));
        }
        if let Some(number) = rows.iter().position(|row| row.as_ref().is_empty()) {
            return Err(Error::input(format!("row {number} is empty: a row needs at least one token")));
        }
        Ok(Batch::continuing(rows.iter().map(|row| (0, row.as_ref()))))
    }

    /// Packs continuations: in each row, the tokens before the given position have been run. A row may have no tokens
    /// here.
    pub(crate) fn continuing<'a>(rows: impl IntoIterator<Item = (usize, &'a [u32])>) -> Self {
        let mut batch = Batch { ids: Vec::new(), starts: vec![0], firsts: Vec::new() };
        for (first, row) in rows {
            batch.firsts.push(first);
            batch.ids.extend_from_slice(row);
            batch.starts.push(batch.ids.len());
        }
        batch
    }

    /// The last tokens of each row, from the given tokens (of the whole batch) on.
    pub(crate) fn tails(&self, starts: &[usize]) -> Self {
        let tail = |(row, start): (usize, &usize)| {
            let span = self.span(row);
            (self.firsts[row] + start - span.start, &self.ids[*start..span.end])
        };
        Batch::continuing(starts.iter().enumerate().map(tail))
    }

    /// Packs padded rows, keeping the tokens whose mask is 1.
    ///
    /// # Shapes
    /// `ids` and `mask`: B rows of one length.
    ///
    /// # Errors
    /// If rows and masks differ in shape, a mask has a value other than 0 and 1 or has holes, or a row is all padding.
    pub fn from_padded(ids: &[Vec<u32>], mask: &[Vec<u8>]) -> Result<Self> {
        if ids.len() != mask.len() {
            return Err(Error::input(format!(
                "{} rows of token ids but {} rows of attention mask",
                ids.len(),
                mask.len()
            )));
        }
        let mut rows = Vec::with_capacity(ids.len());
        for (number, (ids, mask)) in ids.iter().zip(mask).enumerate() {
            rows.push(&ids[real_tokens(number, ids.len(), mask)?]);
        }
        Batch::new(&rows)
    }

    /// Number of rows, B.
    pub fn n_rows(&self) -> usize {
        self.starts.len() - 1
    }

    /// Number of tokens in all rows.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// All ids, row by row.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The ids of one row.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.ids[self.span(row)]
    }

    /// The range of a row among all tokens.
    pub fn span(&self, row: usize) -> Range<usize> {
        self.starts[row]..self.starts[row + 1]
    }

    /// The position within its row of a row's first token here: 0, unless it continues earlier tokens.
    pub fn first(&self, row: usize) -> usize {
        self.firsts[row]
    }

    /// Number of tokens in a row, including those run before.
    pub fn length(&self, row: usize) -> usize {
        self.firsts[row] + self.span(row).len()
    }

    /// The index, among all tokens, of the token at a position of a row; `None` if it is not in this batch.
    pub fn token(&self, row: usize, position: usize) -> Option<usize> {
        let span = self.span(row);
        let token = span.start + position.checked_sub(self.firsts[row])?;
        (token < span.end).then_some(token)
    }

    /// The spans of all rows, in order.
    pub fn spans(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.starts.windows(2).map(|w| w[0]..w[1])
    }
}

/// The contiguous range of ones in a row's mask.
fn real_tokens(row: usize, length: usize, mask: &[u8]) -> Result<Range<usize>> {
    if mask.len() != length {
        return Err(Error::input(format!(
            "row {row} has {length} token ids but {} values of attention mask",
            mask.len()
        )));
    }
    if let Some(at) = mask.iter().position(|m| *m > 1) {
        return Err(Error::input(format!(
            "row {row} of the attention mask is {} at {at}; only 0 and 1 are masks",
            mask[at]
        )));
    }
    let first = mask.iter().position(|m| *m == 1);
    let last = mask.iter().rposition(|m| *m == 1);
    let (Some(first), Some(last)) = (first, last) else {
        return Err(Error::input(format!("row {row} is empty: its attention mask has no 1")));
    };
    if let Some(hole) = mask[first..=last].iter().position(|m| *m == 0) {
        return Err(Error::input(format!(
            "row {row} of the attention mask has a hole at {}: the tokens of a row must be contiguous",
            first + hole
        )));
    }
    Ok(first..last + 1)
}
