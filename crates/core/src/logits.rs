//! Reading logits: the last ones of each row, and sums over the vocabulary.

use std::ops::Range;

use easyroutine_sites::{Point, Site};

use crate::batch::Batch;
use crate::error::Result;
use crate::tap::{Tap, Value, Want};

/// The logarithm of the sum of exponentials, without overflow; summed in f64, in the order of the ids.
///
/// # Shapes
/// `logits`: V, at least one.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    most + logits.iter().map(|x| (f64::from(*x) - most).exp()).sum::<f64>().ln()
}

/// Keeps the logits of the last token of chosen rows of a batch.
#[derive(Debug)]
pub struct LastLogits {
    rows: Range<usize>,
    /// One vector V per chosen row; `None` for a row without tokens in the batch.
    pub logits: Vec<Option<Vec<f32>>>,
}

impl LastLogits {
    /// A tap for these rows.
    pub fn of(rows: Range<usize>) -> Self {
        LastLogits { logits: vec![None; rows.len()], rows }
    }
}

impl Tap for LastLogits {
    fn wants(&self, point: Point) -> Want {
        if point.site() == Site::Logits { Want::Read } else { Want::Nothing }
    }

    fn tokens(&self, _: Point, batch: &Batch) -> Option<Vec<usize>> {
        let spans = self.rows.clone().map(|row| batch.span(row));
        Some(spans.filter(|span| !span.is_empty()).map(|span| span.end - 1).collect())
    }

    fn at(&mut self, _: Point, value: &mut Value<'_>) -> Result<()> {
        for (row, kept) in self.rows.clone().zip(&mut self.logits) {
            let last = value.batch().length(row).checked_sub(1);
            *kept = last.and_then(|position| value.vector(row, position)).map(<[f32]>::to_vec);
        }
        Ok(())
    }
}
