//! The decoder: built once from an architecture and a checkpoint, run many times.

mod alibi;
mod attention;
mod block;
mod buffer;
mod build;
mod embed;
mod mlp;
mod moe;
mod part;
mod past;
mod plan;
mod resume;
mod rope;
mod rotations;
mod run;
#[cfg(test)]
mod tests;
mod unembed;

use std::sync::{Arc, Mutex};

use easyroutine_kernels::{Cpu, Dtype};

use crate::arch::Arch;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::tap::Tap;
use block::Block;
pub(crate) use buffer::Buffer;
pub(crate) use build::build_unembedding;
use embed::Embedding;
pub use past::KvCache;
pub(crate) use past::Shared;
use past::{CachedRow, Past};
use plan::{Plan, Stage};
use rope::length_class;
use run::{Run, Scratch};
pub(crate) use unembed::moments;
pub use unembed::{FinalNorm, LogitRules, Unembedding};

/// A decoder ready to run.
///
/// The forward pass takes `&self`: all state of a run is in its tap, so runs can share a model.
#[derive(Debug)]
pub struct Model {
    arch: Arch,
    cpu: Cpu,
    dtype: Dtype,
    embedding: Embedding,
    blocks: Vec<Block>,
    unembedding: Arc<Unembedding>,
    /// Buffers of finished runs, to be used again: page faults cost more than clearing.
    scratch: Mutex<Vec<Scratch>>,
}

impl Model {
    /// What the model computes.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// The arithmetic it runs on.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Changes how many threads the arithmetic uses; the numbers stay the same to the bit.
    pub fn set_threads(&mut self, threads: usize) {
        self.cpu = Cpu::new(self.cpu.simd(), threads.max(1));
    }

    /// Type of the inputs of its matrix products.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The bias of a layer's attention output, which belongs to no head.
    ///
    /// # Shapes
    /// D.
    pub fn attention_bias(&self, layer: usize) -> Option<&[f32]> {
        self.blocks.get(layer)?.attention.out.bias.as_deref()
    }

    /// Final norm and unembedding, shared.
    pub(crate) fn shared_unembedding(&self) -> Arc<Unembedding> {
        Arc::clone(&self.unembedding)
    }

    /// Runs a batch, reporting to `tap`. What the tap does not want is not computed; the run ends after the last
    /// wanted point.
    ///
    /// # Errors
    /// An id beyond the vocabulary, a row longer than the model's positions, a file that was written to before its weights
    /// were packed, or an error of the tap.
    pub fn forward(&self, batch: &Batch, tap: &mut dyn Tap) -> Result<()> {
        self.check(batch)?;
        let plan = Plan::new(&self.arch, tap);
        if plan.ends_by(Stage::Never) {
            return Ok(());
        }
        let tails = plan.tails(&self.arch, tap, batch);
        self.with_scratch(|scratch| {
            Run::new(self, batch, &plan, tap, scratch, Past::Nothing, tails.as_ref()).forward()
        })
    }

    /// Runs further tokens of rows whose beginnings were run before, and takes them into the cache: the same bits as the
    /// whole rows give. A row may have no further tokens.
    ///
    /// The tap sees positions of the whole row. Where rotary frequencies depend on a row's length and change with its
    /// new tokens, the row is run again from its first token.
    ///
    /// # Errors
    /// As [`Model::forward`], and a number of rows that is not the cache's. After an error the cache is as before.
    pub fn forward_cached<R: AsRef<[u32]>>(
        &self,
        rows: &[R],
        cache: &mut KvCache,
        tap: &mut dyn Tap,
    ) -> Result<()> {
        if rows.len() != cache.n_rows() {
            return Err(Error::input(format!("{} rows for a cache of {}", rows.len(), cache.n_rows())));
        }
        let whole: Vec<Vec<u32>> =
            cache.rows.iter().zip(rows).map(|(row, new)| [&row.ids, new.as_ref()].concat()).collect();
        let still_right = |row: &CachedRow, length: usize| {
            self.arch.ropes.iter().all(|r| length_class(r, row.ids.len()) == length_class(r, length))
        };
        let firsts: Vec<usize> = (cache.rows.iter().zip(&whole))
            .map(|(row, ids)| if still_right(row, ids.len()) { row.kept } else { 0 })
            .collect();
        let batch = Batch::continuing(firsts.iter().zip(&whole).map(|(first, ids)| (*first, &ids[*first..])));
        self.check(&batch)?;
        if batch.n_tokens() == 0 {
            return Ok(());
        }
        cache.rows.iter_mut().zip(&firsts).for_each(|(row, first)| row.kept = row.kept.min(*first));
        cache.reserve(whole.iter().map(Vec::len).max().unwrap_or(0));
        let plan = Plan::new(&self.arch, tap).through_all_keys(&self.arch);
        let tails = plan.tails(&self.arch, tap, &batch);
        self.with_scratch(|scratch| {
            Run::new(self, &batch, &plan, tap, scratch, Past::Own(cache), tails.as_ref()).forward()
        })?;
        for (row, ids) in cache.rows.iter_mut().zip(whole) {
            *row = CachedRow { kept: ids.len(), ids };
        }
        Ok(())
    }

    /// Lends buffers of an earlier run.
    fn with_scratch<T>(&self, run: impl FnOnce(&mut Scratch) -> T) -> T {
        let mut scratch = self.scratch.lock().ok().and_then(|mut free| free.pop()).unwrap_or_default();
        let result = run(&mut scratch);
        if let Ok(mut free) = self.scratch.lock() {
            free.push(scratch);
        }
        result
    }

    fn check(&self, batch: &Batch) -> Result<()> {
        self.unembedding.check_files()?;
        (0..batch.n_rows()).try_for_each(|row| self.check_row(row, batch.first(row), batch.row(row)))
    }

    /// Whether the model can run these ids, of which the first has position `first`; `row` is the row's number, to be
    /// named.
    pub(crate) fn check_row(&self, row: usize, first: usize, ids: &[u32]) -> Result<()> {
        let known = self.embedding.vocabulary();
        if let Some(at) = ids.iter().position(|id| *id as usize >= known) {
            return Err(Error::input(format!(
                "row {row}: token id {} at {} is beyond the vocabulary of {known}",
                ids[at],
                first + at
            )));
        }
        let length = first + ids.len();
        if length > self.arch.context {
            return Err(Error::input(format!(
                "row {row} has {length} tokens; the model was built for {} at most",
                self.arch.context
            ))
            .hint("cut the prompt, or pass --truncate to keep its first tokens"));
        }
        Ok(())
    }
}
