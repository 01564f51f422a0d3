//! Blocks run one at a time, on streams that were stored.

use easyroutine_kernels::Rows;

use super::buffer::Buffer;
use super::past::{Past, Shared};
use super::plan::Plan;
use super::run::Run;
use super::{Model, unembed};
use crate::batch::Batch;
use crate::error::Result;
use crate::tap::Tap;

impl Model {
    /// Runs one block on the streams of tokens that continue beginnings of rows which were run before.
    ///
    /// # Shapes
    /// `stream`: tokens of the batch by `d_model`.
    ///
    /// # Errors
    /// Those of the tap.
    pub(crate) fn run_block(
        &self,
        layer: usize,
        batch: &Batch,
        shared: Shared<'_>,
        stream: &mut Buffer,
        tap: &mut dyn Tap,
    ) -> Result<()> {
        let plan = Plan::new(&self.arch, tap).reaching_the_end();
        self.with_scratch(|scratch| {
            std::mem::swap(&mut scratch.stream, stream);
            let mut run = Run::new(self, batch, &plan, tap, scratch, Past::Shared(shared), None);
            let result = self.blocks[layer].forward(&mut run);
            std::mem::swap(&mut scratch.stream, stream);
            result.map(|_| ())
        })
    }

    /// The logits of some tokens from the stream that leaves the last block.
    ///
    /// # Shapes
    /// `stream`: tokens by `d_model`; result: these tokens by vocabulary.
    pub(crate) fn logits_of(&self, stream: Rows<'_>, tokens: &[usize]) -> Vec<f32> {
        unembed::logits(&self.cpu, &self.unembedding, stream, tokens)
    }
}
