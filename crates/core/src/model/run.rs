//! One run: the embedding, the blocks in turn, the unembedding, with every site reported.

use std::ops::ControlFlow;

use easyroutine_kernels::{Cpu, RowsMut, Sequence};
use easyroutine_sites::{Point, Site};

use super::buffer::{Buffer, Reading};
use super::past::Past;
use super::plan::{Plan, Stage};
use super::rotations::Rotations;
use super::{Model, unembed};
use crate::batch::Batch;
use crate::error::{Error, ErrorKind, Result};
use crate::tap::{Keeping, Tap, Value, Want};

/// Buffers of a run.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// The residual stream, tokens by `d_model`.
    pub(crate) stream: Buffer,
    /// What attention or MLP reads, tokens by `d_model`.
    pub(crate) read: Reading,
    /// What attention adds, tokens by `d_model`.
    pub(crate) attention_out: Buffer,
    /// What the MLP adds, tokens by `d_model`.
    pub(crate) mlp_out: Buffer,
    /// Buffers inside attention.
    pub(crate) attention: super::attention::Scratch,
    /// Neurons, tokens by `d_mlp`.
    pub(crate) hidden: Reading,
}

/// State of a run.
pub(crate) struct Run<'a> {
    pub(crate) model: &'a Model,
    /// The tokens that are computed.
    pub(crate) batch: &'a Batch,
    /// Those of them that are needed after attention of the last block, if not all.
    tails: Option<&'a Batch>,
    pub(crate) scratch: &'a mut Scratch,
    pub(crate) seam: Seam<'a>,
    /// What stands before the batch's tokens.
    pub(crate) past: Past<'a>,
    /// Rows of the batch as attention sees them.
    pub(crate) sequences: Vec<Sequence>,
    /// One a rotary table of the architecture.
    pub(crate) rotations: Vec<Rotations>,
}

/// The side of a run that speaks with its tap.
pub(crate) struct Seam<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) batch: &'a Batch,
    tap: &'a mut dyn Tap,
}

/// Whether a run goes on after a stage.
pub(crate) type Flow = ControlFlow<()>;

impl<'a> Run<'a> {
    pub(crate) fn new(
        model: &'a Model,
        batch: &'a Batch,
        plan: &'a Plan,
        tap: &'a mut dyn Tap,
        scratch: &'a mut Scratch,
        past: Past<'a>,
        tails: Option<&'a Batch>,
    ) -> Self {
        let sequences = past.sequences(batch);
        let rotations = model.arch.ropes.iter().map(|rope| Rotations::new(rope, batch)).collect();
        Run { model, batch, tails, scratch, seam: Seam { plan, batch, tap }, past, sequences, rotations }
    }

    pub(crate) fn cpu(&self) -> &'a Cpu {
        &self.model.cpu
    }

    /// Goes on with those tokens alone that are needed after attention of the last block.
    pub(crate) fn narrow(&mut self) {
        let Some(tails) = self.tails.take() else { return };
        let kept = |batch: &'a Batch| {
            batch.spans().zip(tails.spans()).flat_map(|(all, tail)| all.end - tail.len()..all.end)
        };
        let Scratch { stream, attention_out, mlp_out, .. } = &mut *self.scratch;
        stream.keep(kept(self.batch));
        attention_out.keep(kept(self.batch));
        mlp_out.resize(tails.n_tokens(), self.model.arch.d_model);
        (self.batch, self.seam.batch) = (tails, tails);
    }

    pub(crate) fn forward(&mut self) -> Result<()> {
        let model = self.model;
        self.scratch.stream.resize(self.batch.n_tokens(), model.arch.d_model);
        model.embedding.apply(&model.cpu, self.batch, self.scratch.stream.rows_mut())?;
        self.seam.visit(Point::model(Site::InputEmbeddings), self.scratch.stream.rows_mut())?;
        for block in &model.blocks {
            self.seam.check_stopped()?;
            if self.seam.plan.ends_by(Stage::Embedding) || block.forward(self)?.is_break() {
                return Ok(());
            }
        }
        unembed::finish(self)
    }
}

impl Seam<'_> {
    /// Reports the values of all tokens at a point, where the tap wants them.
    pub(crate) fn visit(&mut self, point: Point, values: RowsMut<'_>) -> Result<()> {
        if self.plan.wants(point) == Want::Nothing {
            return Ok(());
        }
        self.tap.at(point, &mut Value::of_tokens(values, self.batch))
    }

    /// Reports a head's scores or pattern: for each row of the batch its queries by keys, back to back.
    pub(crate) fn visit_pairs(
        &mut self,
        point: Point,
        pairs: &mut Vec<f32>,
        window: Option<usize>,
        keeping: Keeping,
    ) -> Result<()> {
        if self.plan.wants(point) == Want::Nothing {
            return Ok(());
        }
        self.tap.at(point, &mut Value::of_pairs(pairs, window, keeping, self.batch))
    }

    /// Reports the values of some tokens, in a buffer that a tap may keep.
    pub(crate) fn visit_some(
        &mut self,
        point: Point,
        buffer: Vec<f32>,
        width: usize,
        tokens: &[usize],
    ) -> Result<()> {
        self.tap.at(point, &mut Value::of_some(buffer, width, tokens, self.batch))
    }

    /// The tokens at which a point is needed, `None` for all.
    pub(crate) fn tokens(&self, point: Point) -> Option<Vec<usize>> {
        self.tap.tokens(point, self.batch)
    }

    fn check_stopped(&self) -> Result<()> {
        if self.tap.is_stopped() {
            return Err(Error::new(ErrorKind::Interrupted, "the run was stopped"));
        }
        Ok(())
    }

    /// Breaks where nothing is wanted after this site of this layer.
    pub(crate) fn after(&self, layer: usize, site: Site) -> Flow {
        if self.plan.ends_by(Stage::Block(layer, site)) { Flow::Break(()) } else { Flow::Continue(()) }
    }
}
