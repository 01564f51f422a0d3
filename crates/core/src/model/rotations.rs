//! Cosines and sines of one rotary table for every token of a batch.

use easyroutine_kernels::Rows;

use super::rope::frequencies;
use crate::arch::Rope;
use crate::batch::Batch;

/// Angles of one rotary table, token by token.
#[derive(Debug)]
pub(crate) struct Rotations {
    cos: Vec<f32>,
    sin: Vec<f32>,
    tokens: usize,
    pairs: usize,
}

impl Rotations {
    /// Angles for all tokens; frequencies that depend on length are those of each row's own length.
    pub(crate) fn new(rope: &Rope, batch: &Batch) -> Self {
        let pairs = rope.rotary_dim / 2;
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for span in batch.spans() {
            let (frequencies, factor) = frequencies(rope, span.len());
            for position in 0..span.len() {
                for frequency in &frequencies {
                    // The angle is rounded to f32 as in transformers; its cosine is then taken exactly.
                    let angle = f64::from(position as f32 * frequency);
                    cos.push(angle.cos() as f32 * factor);
                    sin.push(angle.sin() as f32 * factor);
                }
            }
        }
        Rotations { cos, sin, tokens: batch.n_tokens(), pairs }
    }

    /// # Shapes
    /// Tokens by pairs.
    pub(crate) fn cos(&self) -> Rows<'_> {
        Rows::dense(&self.cos, self.tokens, self.pairs)
    }

    /// # Shapes
    /// Tokens by pairs.
    pub(crate) fn sin(&self) -> Rows<'_> {
        Rows::dense(&self.sin, self.tokens, self.pairs)
    }
}
