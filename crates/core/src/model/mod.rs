//! The decoder: built once from an architecture and a checkpoint, run many times.

mod alibi;
mod attention;
mod buffer;
mod build;
mod build_attention;
mod build_experts;
mod build_parts;
mod build_recurrence;
mod build_tables;
mod embed;
mod exact;
mod exchange;
mod experts;
mod frozen;
mod layers;
mod past;
mod points;
mod recurrence;
mod registers;
mod reverse;
mod rope;
mod rotations;
mod router;
mod run;
mod states;
#[cfg(test)]
mod tests;
mod unembed;
mod unembed_hash;
mod waiting;
mod weights;
mod xielu;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use easyroutine_kernels::{Cpu, Dtype};
use easyroutine_sites::Site;

use crate::arch::{Arch, Pooling, Wiring};
use crate::batch::Batch;
use crate::error::{Error, ErrorKind, Result};
use crate::pass::{Asked, At, Program, Reg, emit, emit_states};
use crate::stop::Stop;
use crate::tap::{Tap, Want};
use crate::weights::{Norm, Projection};
pub(crate) use buffer::Buffer;
pub(crate) use build::build_unembedding;
pub use exact::{ExactTap, ExactValue};
pub(crate) use exchange::Held;
pub use frozen::{Frozen, Visitor};
use layers::ByLayer;
pub(crate) use layers::{Between, Lane, bytes_of_token};
pub use past::KvCache;
pub(crate) use past::Shared;
use past::{CachedRow, Past};
use registers::Registers;
pub use reverse::Rule;
pub(crate) use reverse::{Objective, Repeated, Reverse, Start};
use rope::length_class;
use run::Run;
pub(crate) use states::Carried;
use states::Marks;
pub(crate) use unembed::moments;
use unembed::pooled;
pub use unembed::{FinalNorm, LogitRules, Unembedding};
use weights::Weights;

/// Pattern values held at a time: 64 MiB, or one head's.
const LARGEST_PATTERNS: usize = 16 << 20;

/// A decoder ready to run.
///
/// The forward pass takes `&self`: all state of a run is in its tap, so runs can share a model.
#[derive(Debug)]
pub struct Model {
    arch: Arch,
    cpu: Cpu,
    dtype: Dtype,
    weights: Weights,
    /// Warnings: ignored tensors, and files that disagree.
    warnings: Vec<String>,
    /// Buffers of finished runs, for reuse: page faults cost more than clearing.
    registers: Mutex<Vec<Registers>>,
    /// Where memory does not hold the weights.
    by_layer: Option<ByLayer>,
}

/// The modules that read the stream of a layer.
pub(crate) struct Readers<'a> {
    /// Queries, keys and values in one product.
    pub(crate) qkv: &'a Projection,
    /// The norm before attention.
    pub(crate) attention: Option<&'a Norm>,
    /// The norm before the MLP.
    pub(crate) mlp: Option<&'a Norm>,
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

    /// Changes the number of threads; results keep the same bits.
    pub fn set_threads(&mut self, threads: usize) {
        self.cpu = Cpu::new(self.cpu.simd(), threads.max(1));
    }

    /// The type of inputs to matrix products.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The bias of a layer's attention output, which belongs to no single head.
    ///
    /// # Shapes
    /// D.
    pub fn attention_bias(&self, layer: usize) -> Option<&[f32]> {
        self.weights.blocks.get(layer)?.attention.as_ref()?.out.bias.as_deref()
    }

    /// The factor on the stream that leaves a layer.
    pub(crate) fn leaving_scale(&self, layer: usize) -> f32 {
        self.weights.blocks.get(layer).and_then(|block| block.leaving_scale).unwrap_or(1.0)
    }

    /// The projections into the stream of a layer: attention's, and a dense MLP's.
    ///
    /// # Errors
    /// If there is no such layer.
    pub(crate) fn projections(&self, layer: usize) -> Result<[Option<&Projection>; 2]> {
        let block = self.weights.block(At::Block(layer))?;
        let down = match &block.mlp {
            Some(weights::Mlp::Dense { down, .. } | weights::Mlp::Xielu { down, .. }) => Some(down),
            Some(weights::Mlp::Experts { .. }) | None => None,
        };
        Ok([block.attention.as_ref().map(|attention| &attention.out), down])
    }

    /// The modules that read the stream of a layer.
    ///
    /// # Errors
    /// If there is no such layer, or it has no attention.
    pub(crate) fn readers(&self, layer: usize) -> Result<Readers<'_>> {
        let block = self.weights.block(At::Block(layer))?;
        let shares = matches!(self.arch.layers[layer].wiring, Wiring::Parallel { mlp: None, .. });
        let (attention, mlp) = (block.norms.attention.as_ref(), block.norms.mlp.as_ref());
        let mixer = block.attention.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("layer {layer} has no attention, so no heads read there"),
            )
        })?;
        let weights::Qkv::AtOnce(qkv) = &mixer.qkv else {
            let message = format!(
                "keys and values of layer {layer} are compressed, so no head reads the stream by itself"
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        };
        Ok(Readers { qkv, attention, mlp: if shares { attention } else { mlp } })
    }

    /// Prepends earlier warnings to its own.
    pub(crate) fn warned_before(&mut self, earlier: Vec<String>) {
        self.warnings.splice(0..0, earlier);
    }

    /// Puts a warning behind its own.
    pub(crate) fn warned(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Warnings about how its files were read: ignored tensors, sources that disagree.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Final norm and unembedding.
    ///
    /// # Errors
    /// If the model has none.
    pub fn unembedding(&self) -> Result<&Arc<Unembedding>> {
        match self.arch.lacks_unembedding() {
            None => Ok(&self.weights.unembedding),
            Some(reason) => Err(Error::new(ErrorKind::Unsupported, reason)
                .hint("activations, attention and edits need none; `score` is what a score head gives")),
        }
    }

    /// Runs a batch and reports to `tap`. Only what the tap wants is computed; the run ends after the last wanted
    /// point.
    ///
    /// # Errors
    /// If an id is beyond the vocabulary, a row is longer than the model's positions, a file was written to or cut
    /// short before its weights were packed, or the tap fails.
    pub fn forward(&self, batch: &Batch, tap: &mut dyn Tap) -> Result<()> {
        self.forward_until(batch, tap, Stop::Never)
    }

    /// [`Model::forward`], but asks `stop` before each block whether to end early.
    ///
    /// # Errors
    /// As [`Model::forward`]; [`Interrupted`](ErrorKind::Interrupted) if it was stopped.
    pub fn forward_until(&self, batch: &Batch, tap: &mut dyn Tap, stop: Stop<'_>) -> Result<()> {
        self.check(batch)?;
        let program = self.program(tap, batch, None, At::all(&self.arch));
        self.run(&program, batch, tap, Past::Nothing, stop)
    }

    /// Runs further tokens of rows whose beginnings are in the cache, and adds them to it, with the bits of running
    /// whole rows. A row may have no further tokens.
    ///
    /// The tap sees positions within the whole row. If rotary frequencies depend on a row's length and change with its
    /// new tokens, the row is run again from its first token.
    ///
    /// # Errors
    /// As [`Model::forward`], and if the number of rows differs from the cache's. After an error the cache is
    /// unchanged.
    pub fn forward_cached<R: AsRef<[u32]>>(
        &self,
        rows: &[R],
        cache: &mut KvCache,
        tap: &mut dyn Tap,
    ) -> Result<()> {
        self.forward_cached_until(rows, cache, tap, Stop::Never)
    }

    /// [`Model::forward_cached`], but asks `stop` before each block whether to end early.
    ///
    /// # Errors
    /// As [`Model::forward_cached`]; [`Interrupted`](ErrorKind::Interrupted) if it was stopped.
    pub fn forward_cached_until<R: AsRef<[u32]>>(
        &self,
        rows: &[R],
        cache: &mut KvCache,
        tap: &mut dyn Tap,
        stop: Stop<'_>,
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
        let program = self.program(tap, &batch, Some(cache), At::all(&self.arch));
        self.run(&program, &batch, tap, Past::Own(cache), stop)?;
        cache.take_coming();
        for (row, ids) in cache.rows.iter_mut().zip(whole) {
            *row = CachedRow { kept: ids.len(), ids };
        }
        Ok(())
    }

    /// Runs a range of sections on tokens that continue rows run before, from the stream that enters the range to the
    /// one that leaves it.
    ///
    /// # Shapes
    /// `stream`: tokens of the batch by `d_model`.
    ///
    /// # Errors
    /// The tap's errors.
    pub(crate) fn run_sections(
        &self,
        sections: impl IntoIterator<Item = At>,
        batch: &Batch,
        shared: Shared<'_>,
        stream: &mut Buffer,
        tap: &mut dyn Tap,
    ) -> Result<()> {
        let program = self.program(tap, batch, Some(shared.cache), sections);
        self.with_registers(|registers| {
            let lend = |registers: &mut Registers, stream: &mut Buffer| {
                std::mem::swap(registers.get_mut(Reg::Stream).buffer_mut(), stream);
            };
            lend(registers, stream);
            let result =
                Run::new(self, batch, None, tap, registers, Past::Shared(shared)).all(&program, Stop::Never);
            lend(registers, stream);
            result
        })
    }

    /// Runs a batch from a layer on, from the stream that enters it. Only for models whose layers read nothing else of those
    /// before.
    ///
    /// # Shapes
    /// `stream`: tokens of the batch by `d_model`.
    ///
    /// # Errors
    /// As [`Model::forward_until`].
    pub(crate) fn forward_from(
        &self,
        layer: usize,
        batch: &Batch,
        stream: &mut Buffer,
        tap: &mut dyn Tap,
        stop: Stop<'_>,
    ) -> Result<()> {
        let sections = At::all(&self.arch).skip_while(|at| *at != At::Block(layer));
        let program = self.program(tap, batch, None, sections);
        self.with_registers(|registers| {
            std::mem::swap(registers.get_mut(Reg::Stream).buffer_mut(), stream);
            Run::new(self, batch, None, tap, registers, Past::Nothing).all(&program, stop)
        })
    }

    /// The states of a layer's recurrence before the tokens at the given positions of a row, from the stream that
    /// enters the layer.
    ///
    /// # Shapes
    /// `stream`: tokens of the row by `d_model`; `positions`: ascending, none beyond the row.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(crate) fn states_at(
        &self,
        layer: usize,
        row: &[u32],
        stream: &[f32],
        positions: &[usize],
    ) -> Result<BTreeMap<usize, Carried>> {
        let Some(last) = positions.last().filter(|last| **last > 0) else { return Ok(BTreeMap::new()) };
        if self.arch.layers[layer].recurrence.is_none() {
            return Ok(BTreeMap::new());
        }
        let batch = Batch::new(&[&row[..*last]])?;
        let asked = Asked { wants: &|_| Want::Nothing, past: Some(&|_| false), heads_at_once: 1 };
        let program = emit_states(&self.arch, &asked, layer);
        let mut marks = Marks::new(positions);
        self.with_registers(|registers| {
            let d_model = self.arch.d_model;
            let mut rows = registers.get_mut(Reg::Stream).resize(*last, d_model);
            let tokens = stream.chunks_exact(d_model).take(*last);
            tokens.enumerate().for_each(|(token, x)| rows.row_mut(token).copy_from_slice(x));
            Run::new(self, &batch, None, &mut (), registers, Past::Marked(&mut marks))
                .all(&program, Stop::Never)
        })?;
        Ok(marks.found)
    }

    /// The program of a run, given what a tap wants.
    fn program(
        &self,
        tap: &dyn Tap,
        batch: &Batch,
        past: Option<&KvCache>,
        sections: impl IntoIterator<Item = At>,
    ) -> Program {
        let is_of_query_heads =
            |layer| past.is_some_and(|past| past.is_of_query_heads(layer, self.arch.heads(layer).n_kv));
        let squares: usize = (0..batch.n_rows()).map(|row| batch.span(row).len() * batch.length(row)).sum();
        let asked = Asked {
            wants: &|point| tap.wants(point),
            past: past.is_some().then_some(&is_of_query_heads),
            // Enough heads to keep the threads busy without holding all patterns of a long prompt.
            heads_at_once: LARGEST_PATTERNS / squares.max(1),
        };
        emit(&self.arch, &asked, sections)
    }

    fn run(
        &self,
        program: &Program,
        batch: &Batch,
        tap: &mut dyn Tap,
        past: Past<'_>,
        stop: Stop<'_>,
    ) -> Result<()> {
        if program.sections.is_empty() {
            return Ok(());
        }
        let tails = tails(&self.arch, program, tap, batch);
        self.with_registers(|registers| {
            Run::new(self, batch, tails.as_ref(), tap, registers, past).all(program, stop)
        })
    }

    /// Lends buffers of an earlier run. If a file is written to meanwhile, the run gives an error, not a result.
    fn with_registers<T>(&self, run: impl FnOnce(&mut Registers) -> Result<T>) -> Result<T> {
        self.weights.unembedding.files.during(|| self.with_buffers(run))
    }

    fn with_buffers<T>(&self, run: impl FnOnce(&mut Registers) -> T) -> T {
        let mut registers = self.registers.lock().ok().and_then(|mut free| free.pop()).unwrap_or_default();
        let result = run(&mut registers);
        if let Ok(mut free) = self.registers.lock() {
            free.push(registers);
        }
        result
    }

    fn check(&self, batch: &Batch) -> Result<()> {
        (0..batch.n_rows()).try_for_each(|row| self.check_row(row, batch.first(row), batch.row(row)))
    }

    /// Checks that the model can run these ids, the first at position `first`; `row` is the row's number, for errors.
    pub(crate) fn check_row(&self, row: usize, first: usize, ids: &[u32]) -> Result<()> {
        let known = self.weights.embedding.vocabulary();
        if let Some(at) = ids.iter().position(|id| *id as usize >= known) {
            return Err(Error::input(format!(
                "row {row}: token id {} at {} is beyond the vocabulary of {known}",
                ids[at],
                first + at
            )));
        }
        let placeholders = &self.arch.embed.placeholders;
        if let Some(at) = ids.iter().position(|id| placeholders.contains(id)) {
            return Err(Error::input(format!(
                "row {row}: token id {} at {} holds the place of an image or a video, which this decoder cannot see",
                ids[at],
                first + at
            ))
            .hint("the model's vision tower is left out: give it text alone"));
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

/// The last tokens of each row, if the tap needs no others from where the pass can go on with only these.
fn tails(arch: &Arch, program: &Program, tap: &dyn Tap, batch: &Batch) -> Option<Batch> {
    let mut starts: Vec<usize> = batch.spans().map(|span| span.end).collect();
    for point in program.points_of_some_tokens() {
        let tokens = match arch.score().map(|score| score.pooling) {
            Some(Pooling::LastToken { padding }) if point.site() == Site::Score => pooled(batch, padding),
            _ => tap.tokens(point, batch)?,
        };
        for (start, span) in starts.iter_mut().zip(batch.spans()) {
            let next = tokens.get(tokens.partition_point(|token| *token < span.start));
            *start = next.map_or(*start, |token| *token.min(start));
        }
    }
    let tails = batch.tails(&starts);
    (tails.n_tokens() < batch.n_tokens()).then_some(tails)
}
