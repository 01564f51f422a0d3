//! One block: what reads the residual stream and what adds to it.

use easyroutine_sites::{Point, Site};

use super::attention::Attention;
use super::mlp::Mlp;
use super::part::{Adds, NormRefs, Part, norm_in_place};
use super::run::{Flow, Run};
use crate::error::Result;
use crate::weights::Norm;

/// A block with its weights.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) layer: usize,
    pub(crate) wiring: Wiring,
    pub(crate) attention: Attention,
    pub(crate) mlp: Mlp,
    pub(crate) residual_scale: Option<f32>,
}

/// [`crate::arch::Wiring`] with weights.
#[derive(Debug)]
pub(crate) enum Wiring {
    Sequential { attention: Norms, mlp: Norms },
    Parallel { attention: Norm, mlp: Option<Norm> },
    NormOnStream { attention: Norm, mlp: Norm },
}

/// Norms before a part reads and after it wrote.
#[derive(Debug, Default)]
pub(crate) struct Norms {
    pub(crate) pre: Option<Norm>,
    pub(crate) post: Option<Norm>,
}

impl Block {
    /// Runs the block on the residual stream; breaks where nothing further is wanted.
    pub(crate) fn forward(&self, run: &mut Run<'_>) -> Result<Flow> {
        let tokens = run.batch.n_tokens();
        let d_model = run.model.arch.d_model;
        for buffer in [&mut run.scratch.attention_out, &mut run.scratch.mlp_out] {
            buffer.resize(tokens, d_model);
        }
        self.visit_stream(run, Site::ResidIn)?;
        if run.seam.after(self.layer, Site::ResidIn).is_break() {
            return Ok(Flow::Break(()));
        }
        let flow = match &self.wiring {
            Wiring::Sequential { attention, mlp } => {
                self.sequential(run, attention.into(), mlp.into(), [None, None])
            }
            Wiring::NormOnStream { attention, mlp } => {
                self.sequential(run, NormRefs::default(), NormRefs::default(), [Some(attention), Some(mlp)])
            }
            Wiring::Parallel { attention, mlp } => {
                // The MLP norms the stream anew where it shares attention's norm: an edit of `attn_in` must not
                // reach it.
                self.parallel(
                    run,
                    NormRefs::before(attention),
                    NormRefs::before(mlp.as_ref().unwrap_or(attention)),
                )
            }
        };
        if flow?.is_break() {
            return Ok(Flow::Break(()));
        }
        self.visit_stream(run, Site::ResidOut)?;
        Ok(run.seam.after(self.layer, Site::ResidOut))
    }

    /// Attention, then the MLP on the stream between; `on_stream` are norms of the stream itself after each.
    fn sequential(
        &self,
        run: &mut Run<'_>,
        attention: NormRefs<'_>,
        mlp: NormRefs<'_>,
        on_stream: [Option<&Norm>; 2],
    ) -> Result<Flow> {
        if self.part(run, Part::Attention, attention, Adds::AtOnce)?.is_break() {
            return Ok(Flow::Break(()));
        }
        if let Some(norm) = on_stream[0] {
            norm_in_place(run.cpu(), norm, run.scratch.stream.rows_mut());
        }
        self.visit_stream(run, Site::ResidMid)?;
        if run.seam.after(self.layer, Site::ResidMid).is_break()
            || self.part(run, Part::Mlp, mlp, Adds::AtOnce)?.is_break()
        {
            return Ok(Flow::Break(()));
        }
        if let Some(norm) = on_stream[1] {
            norm_in_place(run.cpu(), norm, run.scratch.stream.rows_mut());
        }
        Ok(Flow::Continue(()))
    }

    /// Attention and MLP on the same stream.
    fn parallel(&self, run: &mut Run<'_>, attention: NormRefs<'_>, mlp: NormRefs<'_>) -> Result<Flow> {
        for (part, norms) in [(Part::Attention, attention), (Part::Mlp, mlp)] {
            if self.part(run, part, norms, Adds::Later)?.is_break() {
                return Ok(Flow::Break(()));
            }
        }
        run.cpu().add(run.scratch.attention_out.rows(), run.scratch.stream.rows_mut());
        run.cpu().add(run.scratch.mlp_out.rows(), run.scratch.stream.rows_mut());
        Ok(Flow::Continue(()))
    }

    fn visit_stream(&self, run: &mut Run<'_>, site: Site) -> Result<()> {
        run.seam.visit(Point::layer_of(site, self.layer), run.scratch.stream.rows_mut())
    }
}
