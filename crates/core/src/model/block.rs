//! One block: what reads the residual stream and what adds to it.

use easyroutine_kernels::{Cpu, Rows, RowsMut};
use easyroutine_sites::{Point, Site};

use super::attention::Attention;
use super::mlp::Mlp;
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
        for buffer in [&mut run.scratch.read, &mut run.scratch.attention_out, &mut run.scratch.mlp_out] {
            buffer.resize(tokens, d_model);
        }
        self.visit_stream(run, Site::ResidIn)?;
        match &self.wiring {
            Wiring::Sequential { attention, mlp } => {
                if self.attend(run, attention)?.is_break() {
                    return Ok(Flow::Break(()));
                }
                run.cpu().add(run.scratch.attention_out.rows(), run.scratch.stream.rows_mut());
                self.visit_stream(run, Site::ResidMid)?;
                if run.seam.after(self.layer, Site::ResidMid).is_break() || self.think(run, mlp)?.is_break() {
                    return Ok(Flow::Break(()));
                }
                run.cpu().add(run.scratch.mlp_out.rows(), run.scratch.stream.rows_mut());
            }
            Wiring::Parallel { attention, mlp } => {
                let only = |pre| NormRefs { pre: Some(pre), post: None };
                if self.attend(run, only(attention))?.is_break() {
                    return Ok(Flow::Break(()));
                }
                // The MLP norms the stream anew where it shares attention's norm: an edit of `attn_in` must not
                // reach it.
                if self.think(run, only(mlp.as_ref().unwrap_or(attention)))?.is_break() {
                    return Ok(Flow::Break(()));
                }
                run.cpu().add(run.scratch.attention_out.rows(), run.scratch.stream.rows_mut());
                run.cpu().add(run.scratch.mlp_out.rows(), run.scratch.stream.rows_mut());
            }
            Wiring::NormOnStream { attention, mlp } => {
                if self.attend(run, NormRefs::default())?.is_break() {
                    return Ok(Flow::Break(()));
                }
                run.cpu().add(run.scratch.attention_out.rows(), run.scratch.stream.rows_mut());
                norm_in_place(run.cpu(), attention, run.scratch.stream.rows_mut());
                self.visit_stream(run, Site::ResidMid)?;
                if self.think(run, NormRefs::default())?.is_break() {
                    return Ok(Flow::Break(()));
                }
                run.cpu().add(run.scratch.mlp_out.rows(), run.scratch.stream.rows_mut());
                norm_in_place(run.cpu(), mlp, run.scratch.stream.rows_mut());
            }
        }
        self.visit_stream(run, Site::ResidOut)?;
        Ok(run.seam.after(self.layer, Site::ResidOut))
    }

    /// Attention on the normed stream, into `attention_out`.
    fn attend<'n>(&self, run: &mut Run<'_>, norms: impl Into<NormRefs<'n>>) -> Result<Flow> {
        let norms = norms.into();
        read(run.cpu(), norms.pre, run.scratch.stream.rows(), run.scratch.read.rows_mut());
        run.seam.visit(Point::layer_of(Site::AttnIn, self.layer), run.scratch.read.rows_mut())?;
        if run.seam.after(self.layer, Site::AttnIn).is_break() || self.attention.forward(run)?.is_break() {
            return Ok(Flow::Break(()));
        }
        self.write(run.cpu(), norms.post, run.scratch.attention_out.rows_mut());
        run.seam.visit(Point::layer_of(Site::AttnOut, self.layer), run.scratch.attention_out.rows_mut())?;
        Ok(run.seam.after(self.layer, Site::AttnOut))
    }

    /// The MLP on the normed stream, into `mlp_out`.
    fn think<'n>(&self, run: &mut Run<'_>, norms: impl Into<NormRefs<'n>>) -> Result<Flow> {
        let norms = norms.into();
        read(run.cpu(), norms.pre, run.scratch.stream.rows(), run.scratch.read.rows_mut());
        run.seam.visit(Point::layer_of(Site::MlpIn, self.layer), run.scratch.read.rows_mut())?;
        if run.seam.after(self.layer, Site::MlpIn).is_break() || self.mlp.forward(run, self.layer)?.is_break()
        {
            return Ok(Flow::Break(()));
        }
        self.write(run.cpu(), norms.post, run.scratch.mlp_out.rows_mut());
        run.seam.visit(Point::layer_of(Site::MlpOut, self.layer), run.scratch.mlp_out.rows_mut())?;
        Ok(run.seam.after(self.layer, Site::MlpOut))
    }

    /// Turns a part's output into exactly what is added to the stream.
    fn write(&self, cpu: &Cpu, post: Option<&Norm>, mut out: RowsMut<'_>) {
        if let Some(norm) = post {
            norm_in_place(cpu, norm, out.reborrow());
        }
        if let Some(factor) = self.residual_scale {
            cpu.scale(out, factor);
        }
    }

    fn visit_stream(&self, run: &mut Run<'_>, site: Site) -> Result<()> {
        run.seam.visit(Point::layer_of(site, self.layer), run.scratch.stream.rows_mut())
    }
}

/// The norms around one part.
#[derive(Default, Clone, Copy)]
struct NormRefs<'n> {
    pre: Option<&'n Norm>,
    post: Option<&'n Norm>,
}

impl<'n> From<&'n Norms> for NormRefs<'n> {
    fn from(norms: &'n Norms) -> Self {
        NormRefs { pre: norms.pre.as_ref(), post: norms.post.as_ref() }
    }
}

/// What a part reads: the normed stream, or a copy of it, since an edit of it must not reach the stream.
fn read(cpu: &Cpu, norm: Option<&Norm>, stream: Rows<'_>, mut out: RowsMut<'_>) {
    match norm {
        Some(norm) => norm.apply(cpu, stream, out),
        None => (0..stream.n_rows()).for_each(|i| out.row_mut(i).copy_from_slice(stream.row(i))),
    }
}

fn norm_in_place(cpu: &Cpu, norm: &Norm, rows: RowsMut<'_>) {
    let width = rows.n_columns();
    norm.apply_in_place(cpu, rows, width);
}
