//! A model whose weights memory does not hold: one layer's are there at a time, and many batches go through it before it is
//! let go.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::Model;
use super::past::Past;
use super::run::Run;
use super::tails;
use super::waiting::{Parked, Waiting};
use super::weights::Weights;
use crate::arch::Arch;
use crate::batch::Batch;
use crate::error::{Error, ErrorKind, Result};
use crate::pass::{At, Program};
use crate::stop::Stop;
use crate::tap::Tap;

/// How memory is shared out where it does not hold the weights.
#[derive(Debug)]
pub(super) struct ByLayer {
    /// Bytes beside the weights.
    room: u64,
    /// The layer that is there.
    held: Mutex<Option<usize>>,
}

/// A batch on its way through the layers, with its tap.
#[derive(Debug)]
pub(crate) struct Lane<T> {
    pub(crate) batch: Batch,
    pub(crate) tap: T,
    program: Program,
    /// The tokens that go on alone from some place in the last block.
    tails: Option<Batch>,
    is_narrowed: bool,
    parked: Parked,
    /// Where it waits in a file, and how many bytes are its own there.
    place: Option<(u64, u64)>,
}

impl ByLayer {
    /// How a model goes by layers within so many bytes.
    ///
    /// # Errors
    /// Too few for one layer beside what stays.
    pub(super) fn new(weights: &Weights, memory: u64) -> Result<ByLayer> {
        // What the program is beside weights and activations.
        let usable = memory - memory.min(PROGRAM).min(memory / 8);
        let head = &weights.unembedding.matrix.matrix;
        let mut stays = head.full_bytes() as u64;
        let (mut largest, mut layer) = (0, 0);
        for (n, block) in weights.blocks.iter().enumerate() {
            let mut bytes = 0;
            for projection in block.projections() {
                let matrix = &projection.matrix;
                *if matrix.is_released() { &mut bytes } else { &mut stays } += matrix.full_bytes() as u64;
            }
            if bytes > largest {
                (largest, layer) = (bytes, n);
            }
        }
        match usable.checked_sub(stays + largest) {
            Some(room) => Ok(ByLayer { room, held: Mutex::new(None) }),
            None => Err(Error::new(
                ErrorKind::Memory,
                format!(
                    "{} are too little for the model's layers one by one: layer {layer} needs {}, and {} stay in memory",
                    megabytes(memory),
                    megabytes(largest),
                    megabytes(stays)
                ),
            )
            .hint("--dtype bf16 halves weights that are stored in f32; a GGUF file of the model is smaller still")),
        }
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Bytes of the program itself: code, tokenizer, tables.
const PROGRAM: u64 = 128 << 20;

impl<T: Tap> Lane<T> {
    /// A batch that has not run.
    ///
    /// # Errors
    /// As [`Model::forward`], before anything runs.
    pub(crate) fn new(model: &Model, batch: Batch, tap: T) -> Result<Lane<T>> {
        model.check(&batch)?;
        let program = model.program(&tap, &batch, None, At::all(&model.arch));
        let tails = tails(&model.arch, &program, &tap, &batch);
        let (is_narrowed, parked, place) = (false, Parked::Nothing, None);
        Ok(Lane { batch, tap, program, tails, is_narrowed, parked, place })
    }
}

/// Where activations wait between layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Between<'a> {
    /// Bytes of them in memory at most.
    pub(crate) memory: u64,
    /// The folder of a temporary file for the rest.
    pub(crate) folder: &'a Path,
}

impl Model {
    /// Whether memory holds one layer's weights at a time: every run reads all of them from the files.
    pub fn is_by_layer(&self) -> bool {
        self.by_layer.is_some()
    }

    /// Bytes that are left beside the weights, where memory does not hold all of them.
    pub(crate) fn room(&self) -> Option<u64> {
        self.by_layer.as_ref().map(|by_layer| by_layer.room)
    }

    /// Makes way for the weights of a section: those of another block are let go.
    pub(super) fn enter(&self, at: At) {
        let Some(by_layer) = &self.by_layer else { return };
        let mut held = by_layer.held.lock().unwrap_or_else(PoisonError::into_inner);
        if *held == at.layer() {
            return;
        }
        let blocks = &self.weights.blocks;
        let of = |layer: usize| blocks.get(layer).into_iter().flat_map(|block| block.projections());
        if let Some(layer) = held.take() {
            of(layer).for_each(|projection| projection.release());
        }
        *held = at.layer();
        // The disk works while the processor does.
        let next = at.layer().map_or(0, |layer| layer + 1);
        of(next).for_each(|projection| projection.matrix.soon());
    }

    /// Runs batches side by side: every block is read once for all of them. Each tap sees what [`Model::forward`] shows it, to
    /// the bit; `tell` hears of how many blocks are done, and how many there are.
    ///
    /// # Errors
    /// As [`Model::forward_until`] for any of the batches, and a temporary file that cannot be written.
    pub(crate) fn forward_side_by_side<T: Tap>(
        &self,
        lanes: &mut [Lane<T>],
        between: Between<'_>,
        stop: Stop<'_>,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Result<()> {
        let mut waiting = Waiting::new(between.memory, between.folder);
        let is_run = |at: &At| lanes.iter().any(|lane| lane.program.sections.iter().any(|s| s.at == *at));
        let all: Vec<At> = At::all(&self.arch).filter(is_run).collect();
        let n_blocks = all.iter().filter(|at| at.layer().is_some()).count();
        let mut done = 0;
        for at in all {
            for lane in &mut *lanes {
                stop.check()?;
                self.with_registers(|registers| self.section(at, lane, registers, &mut waiting))?;
            }
            // Beside a block the embedding takes no time.
            if at.layer().is_some() {
                done += 1;
                tell(done, n_blocks);
            }
        }
        Ok(())
    }

    /// Takes one batch through one section.
    fn section<T: Tap>(
        &self,
        at: At,
        lane: &mut Lane<T>,
        registers: &mut super::registers::Registers,
        waiting: &mut Waiting,
    ) -> Result<()> {
        let Lane { batch, tap, program, tails, is_narrowed, parked, place } = lane;
        let Some(section) = program.sections.iter().find(|section| section.at == at) else { return Ok(()) };
        waiting.restore(std::mem::take(parked), registers)?;
        let (batch, tails) = match (tails, *is_narrowed) {
            (Some(tails), true) => (&*tails, None),
            (tails, _) => (&*batch, tails.as_ref()),
        };
        let mut run = Run::new(self, batch, tails, tap, registers, Past::Nothing);
        run.section(section)?;
        *is_narrowed |= !std::ptr::eq(run.batch, batch);
        *parked = waiting.park(registers, section.leaves, place)?;
        Ok(())
    }
}

/// Bytes that a run holds for each token of a batch, about: its registers at their widest.
pub(crate) fn bytes_of_token(arch: &Arch) -> u64 {
    let widest = |width: &dyn Fn(usize) -> usize| (0..arch.layers.len()).map(width).max().unwrap_or(0);
    let heads = widest(&|layer| {
        let heads = arch.heads(layer);
        heads.queries() + heads.keys() + heads.values() + heads.mixed()
    });
    let neurons = widest(&|layer| arch.layers[layer].d_mlp());
    let mixer = widest(&|layer| {
        let of = |r: &crate::arch::Recurrence| 2 * (r.convolved() + r.width() + r.rest());
        arch.layers[layer].recurrence.as_ref().map_or(0, of)
    });
    let per_layer = arch.per_layer.map_or(0, |inputs| arch.layers.len() * inputs.width);
    // The stream, what is read of it and what is added, each as rows and once more as operands.
    4 * (6 * arch.d_model + heads + 2 * neurons + mixer + per_layer) as u64
}
