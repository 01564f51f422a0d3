//! One part of a block, attention or MLP: what it reads, and how what it computes joins the residual stream.

use easyroutine_kernels::{Cpu, RowsMut};
use easyroutine_sites::{Point, Site};

use super::block::{Block, Norms};
use super::buffer::{Buffer, Seen};
use super::run::{Flow, Run, Scratch};
use crate::error::Result;
use crate::tap::Want;
use crate::weights::Norm;

/// The two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Attention,
    Mlp,
}

/// When a part's output joins the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adds {
    AtOnce,
    /// After the other part has read the stream.
    Later,
}

/// Where a part's last product goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Into the part's own buffer.
    Apart,
    /// Added to the stream: the same bits as apart and added afterwards, one pass over memory less.
    Stream,
}

/// The norms around one part.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct NormRefs<'n> {
    pre: Option<&'n Norm>,
    post: Option<&'n Norm>,
}

impl Block {
    /// Norms the stream, runs a part on it, and adds what it gives.
    pub(crate) fn part(
        &self,
        run: &mut Run<'_>,
        part: Part,
        norms: NormRefs<'_>,
        adds: Adds,
    ) -> Result<Flow> {
        if part == Part::Mlp && self.layer + 1 == run.model.blocks.len() {
            run.narrow();
        }
        let (reads, writes) = part.sites();
        let (reads, writes) = (Point::layer_of(reads, self.layer), Point::layer_of(writes, self.layer));
        self.read(run, part, norms.pre, reads)?;
        if run.seam.after(self.layer, reads.site()).is_break() {
            return Ok(Flow::Break(()));
        }
        let to = self.output(run, part, norms, adds);
        let flow = match part {
            Part::Attention => self.attention.forward(run, to)?,
            Part::Mlp => self.mlp.forward(run, self.layer, to)?,
        };
        if flow.is_break() {
            return Ok(flow);
        }
        if to == Output::Apart {
            let (cpu, Scratch { stream, attention_out, mlp_out, .. }) = (run.model.cpu(), &mut *run.scratch);
            let out = part.buffer(attention_out, mlp_out);
            if let Some(norm) = norms.post {
                norm_in_place(cpu, norm, out.rows_mut());
            }
            if let Some(factor) = self.residual_scale {
                cpu.scale(out.rows_mut(), factor);
            }
            run.seam.visit(writes, out.rows_mut())?;
            if adds == Adds::AtOnce {
                cpu.add(out.rows(), stream.rows_mut());
            }
        }
        Ok(run.seam.after(self.layer, writes.site()))
    }

    /// What a part reads: the normed stream, or a copy of it, since an edit of it must not reach the stream.
    fn read(&self, run: &mut Run<'_>, part: Part, norm: Option<&Norm>, reads: Point) -> Result<()> {
        let (model, tokens) = (run.model, run.batch.n_tokens());
        let Run { scratch: Scratch { stream, read, .. }, seam, .. } = run;
        let is_watched = seam.plan.wants(reads) != Want::Nothing;
        let needs_rows = norm.is_none() || part == Part::Mlp && self.mlp.needs_rows();
        let seen = Seen::by_tap_if(is_watched || needs_rows);
        let out = read.resize(seen, model.dtype, tokens, model.arch.d_model);
        match norm {
            Some(norm) => norm.apply(&model.cpu, stream.rows(), out),
            None => {
                let mut out = read.rows_mut();
                (0..tokens).for_each(|i| out.row_mut(i).copy_from_slice(stream.rows().row(i)));
            }
        }
        if is_watched { seam.visit(reads, read.rows_mut()) } else { Ok(()) }
    }

    /// A part's last product may add to the stream itself where nothing follows it and nobody looks between.
    fn output(&self, run: &Run<'_>, part: Part, norms: NormRefs<'_>, adds: Adds) -> Output {
        let plan = run.seam.plan;
        let wanted = |site| plan.wants(Point::layer_of(site, self.layer)) != Want::Nothing;
        let watched = match part {
            Part::Attention => {
                wanted(Site::AttnRaw) || wanted(Site::AttnOut) || plan.wants_heads(Site::HeadOut, self.layer)
            }
            Part::Mlp => wanted(Site::MlpOut) || !self.mlp.can_add(),
        };
        let follows = adds == Adds::Later || norms.post.is_some() || self.residual_scale.is_some();
        if watched || follows { Output::Apart } else { Output::Stream }
    }
}

impl Part {
    /// Where it reads and where it writes.
    fn sites(self) -> (Site, Site) {
        match self {
            Part::Attention => (Site::AttnIn, Site::AttnOut),
            Part::Mlp => (Site::MlpIn, Site::MlpOut),
        }
    }

    fn buffer<'b>(self, attention: &'b mut Buffer, mlp: &'b mut Buffer) -> &'b mut Buffer {
        match self {
            Part::Attention => attention,
            Part::Mlp => mlp,
        }
    }
}

impl<'n> NormRefs<'n> {
    /// A norm before the part alone.
    pub(crate) fn before(pre: &'n Norm) -> Self {
        NormRefs { pre: Some(pre), post: None }
    }
}

impl<'n> From<&'n Norms> for NormRefs<'n> {
    fn from(norms: &'n Norms) -> Self {
        NormRefs { pre: norms.pre.as_ref(), post: norms.post.as_ref() }
    }
}

pub(crate) fn norm_in_place(cpu: &Cpu, norm: &Norm, rows: RowsMut<'_>) {
    let width = rows.n_columns();
    norm.apply_in_place(cpu, rows, width);
}
