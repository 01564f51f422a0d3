//! Rows of token ids, packed back to back: padding is cut off before anything is computed.

use std::ops::Range;

use crate::error::{Error, Result};

/// One or more rows of token ids, without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    ids: Vec<u32>,
    starts: Vec<usize>,
}

impl Batch {
    /// Packs rows of any length.
    ///
    /// # Errors
    /// No rows, or a row without tokens.
    pub fn new<R: AsRef<[u32]>>(rows: &[R]) -> Result<Self> {
        if rows.is_empty() {
            return Err(Error::input("no prompt given"));
        }
        let mut batch = Batch { ids: Vec::new(), starts: vec![0] };
        for (number, row) in rows.iter().enumerate() {
            if row.as_ref().is_empty() {
                return Err(Error::input(format!("row {number} is empty: a row needs at least one token")));
            }
            batch.ids.extend_from_slice(row.as_ref());
            batch.starts.push(batch.ids.len());
        }
        Ok(batch)
    }

    /// Packs padded rows, keeping the tokens whose mask is 1.
    ///
    /// # Shapes
    /// `ids` and `mask`: B rows of one length.
    ///
    /// # Errors
    /// Rows and masks of different shape, a value other than 0 and 1, a mask with holes, a row of padding alone.
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

    /// Tokens of all rows together.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// All ids, row after row.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The ids of one row.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.ids[self.span(row)]
    }

    /// Where a row stands among all tokens.
    pub fn span(&self, row: usize) -> Range<usize> {
        self.starts[row]..self.starts[row + 1]
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
