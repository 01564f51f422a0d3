//! One prompt with its attention patterns and norm scales held constant.
//!
//! Between the MLPs, the remaining pass is linear in the residual stream: each MLP's output is an independent input,
//! which nothing reaches. [`Frozen::run`] carries inputs forward and [`Frozen::back`] carries gradients back; both take
//! several copies of the prompt at once, since all copies share the constants. The steps come from the same `emit` as
//! every other run's, so no family is named. docs/design/graphs.md

mod backward;
mod forward;
mod piece;
mod setup;

use std::collections::BTreeMap;

use easyroutine_kernels::{NormKind, Rows, RowsMut, Sequence};
use easyroutine_sites::{Point, Site};

use super::Model;
use super::buffer::Buffer;
use crate::error::{Error, Result};
use crate::pass::{MATRICES, Reg};
use piece::Piece;

/// A prompt with constant patterns and norm scales.
#[derive(Debug)]
pub struct Frozen<'m> {
    model: &'m Model,
    n_tokens: usize,
    /// The linear steps of each block, and those from the last stream to the unembedding.
    sections: Vec<Vec<Piece>>,
    /// The values of each place in the original run, `[T, width]`.
    values: BTreeMap<Point, Buffer>,
    /// `[T, D]`
    tokens: Buffer,
    /// `[V]`
    logits: Vec<f32>,
}

/// Reads and writes at the places of a linear run.
pub trait Visitor {
    /// Whether it writes at a place even if nothing has reached the place yet.
    fn writes(&self, point: Point) -> bool;

    /// Called at `input_embeddings`, at each `mlp_out`, at the places requested of [`Model::freeze`], and at
    /// `final_norm_out`. Forward, the first two hold zeros to be written to. Backward, places come from last to first,
    /// without those that have a zero gradient and are not written to.
    ///
    /// # Shapes
    /// rows: `[copies · T, width]`, one copy after another.
    ///
    /// # Errors
    /// An error ends the run.
    fn at(&mut self, point: Point, rows: RowsMut<'_>) -> Result<()>;
}

/// A norm's scale for each token, with its other parameters.
#[derive(Debug)]
struct Scales {
    kind: NormKind,
    inverse: Vec<f32>,
    weight: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
}

/// Registers of a linear run.
#[derive(Debug)]
struct Bank {
    of: [Option<Buffer>; MATRICES],
    spare: Vec<Buffer>,
}

impl Default for Bank {
    fn default() -> Self {
        Bank { of: std::array::from_fn(|_| None), spare: Vec::new() }
    }
}

impl<'m> Frozen<'m> {
    /// The model.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// Number of tokens in the prompt, T.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// The values of a place when the prompt ran: `input_embeddings`, an `mlp_out`, `final_norm_out`, or a requested
    /// place.
    ///
    /// # Shapes
    /// `[T, width]`
    ///
    /// # Errors
    /// If it is another place.
    pub fn value(&self, point: Point) -> Result<Rows<'_>> {
        let value = self.values.get(&point).map(Buffer::rows);
        value.ok_or_else(|| Error::input(format!("`{point}` was not kept of this run")))
    }

    /// The tokens' own part of the first stream: their embeddings without learned positions.
    ///
    /// # Shapes
    /// `[T, D]`
    pub fn tokens(&self) -> Rows<'_> {
        self.tokens.rows()
    }

    /// Logits of the last token, V of them.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// The vectors v for which v · `final_norm_out` is a logit minus the mean of all logits, before any softcap and
    /// without biases.
    ///
    /// # Shapes
    /// Result: D per id.
    ///
    /// # Errors
    /// If an id is beyond the vocabulary, or an adapter changes the unembedding.
    pub fn logit_vectors(&self, ids: &[u32]) -> Result<Vec<Vec<f32>>> {
        let unembedding = self.model.unembedding()?;
        let mean = unembedding.mean_row()?;
        let divisor = unembedding.divisor.map_or(1.0, f64::from);
        let vector = |id: &u32| {
            if *id as usize >= unembedding.vocabulary() {
                let all = unembedding.vocabulary();
                return Err(Error::input(format!("token id {id} is beyond the vocabulary of {all}")));
            }
            let row = unembedding.row(*id as usize)?;
            Ok(row.iter().zip(&mean).map(|(u, mean)| ((f64::from(*u) - mean) / divisor) as f32).collect())
        };
        ids.iter().map(vector).collect()
    }

    /// The rows of `copies` copies, as attention sees them.
    fn sequences(&self, copies: usize) -> Vec<Sequence> {
        let of = |copy: usize| copy * self.n_tokens..(copy + 1) * self.n_tokens;
        (0..copies).map(|copy| Sequence { queries: of(copy), keys: of(copy) }).collect()
    }
}

impl Bank {
    fn get(&self, reg: Reg) -> Option<Rows<'_>> {
        self.of[reg as usize].as_ref().map(Buffer::rows)
    }

    fn take(&mut self, reg: Reg) -> Option<Buffer> {
        self.of[reg as usize].take()
    }

    fn put(&mut self, reg: Reg, buffer: Buffer) {
        let old = self.of[reg as usize].replace(buffer);
        self.spare.extend(old);
    }

    /// A buffer of unspecified values.
    fn room(&mut self, rows: usize, columns: usize) -> Buffer {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.resize(rows, columns);
        buffer
    }

    fn zeros(&mut self, rows: usize, columns: usize) -> Buffer {
        let mut buffer = self.room(rows, columns);
        buffer.rows_mut().data_mut().fill(0.0);
        buffer
    }

    /// A register to add to; zeros if it holds nothing yet.
    fn sum(&mut self, reg: Reg, rows: usize, columns: usize) -> RowsMut<'_> {
        if self.of[reg as usize].is_none() {
            let zeros = self.zeros(rows, columns);
            self.of[reg as usize] = Some(zeros);
        }
        match &mut self.of[reg as usize] {
            Some(buffer) => buffer.rows_mut(),
            None => unreachable!("a buffer was put there"),
        }
    }

    fn free(&mut self, buffer: Buffer) {
        self.spare.push(buffer);
    }
}

/// Whether a place is always visited.
fn is_always_visited(site: Site) -> bool {
    matches!(site, Site::InputEmbeddings | Site::MlpIn | Site::MlpOut | Site::FinalNormOut)
}
