//! The weights of a model, by the names that steps use.

use std::sync::Arc;

use easyroutine_kernels::Convolution;

use super::embed::Embedding;
use super::experts::Expert;
use super::unembed::Unembedding;
use super::xielu::Xielu;
use crate::error::{Error, ErrorKind, Result};
use crate::pass::{At, KeyHeads, Matrix, NormAt};
use crate::weights::{Norm, Projection};

/// All weights.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) embedding: Embedding,
    pub(crate) blocks: Vec<Block>,
    pub(crate) unembedding: Arc<Unembedding>,
}

/// Those of one block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) norms: Norms,
    pub(crate) attention: Option<Attention>,
    pub(crate) recurrence: Option<Recurrence>,
    pub(crate) mlp: Option<Mlp>,
}

/// Those of attention.
#[derive(Debug)]
pub(crate) struct Attention {
    /// Queries, keys and values in one product.
    pub(crate) qkv: Projection,
    pub(crate) out: Projection,
    /// Scores, mask and softmax with keys that query heads share.
    pub(crate) grouped: easyroutine_kernels::Attention,
    /// The same with a key for each query head.
    pub(crate) of_query_heads: easyroutine_kernels::Attention,
}

/// The weights of a recurrence.
#[derive(Debug)]
pub(crate) struct Recurrence {
    /// What is convolved, the gate, the rest.
    pub(crate) input: Projection,
    pub(crate) convolution: Convolution,
    pub(crate) state: State,
    pub(crate) out: Projection,
}

/// The weights of its state. Decays are logarithms, of a step of one.
#[derive(Debug)]
pub(crate) enum State {
    None,
    Selective {
        select: Box<Projection>,
        steps: Box<Projection>,
        bias: Vec<f32>,
        decay: Vec<f32>,
        skip: Vec<f32>,
    },
    Heads {
        bias: Vec<f32>,
        decay: Vec<f32>,
        skip: Vec<f32>,
    },
    Unit {
        gates: Vec<Projection>,
        decay: Vec<f32>,
    },
}

/// Norms of a block, as far as it has them.
#[derive(Debug, Default)]
pub(crate) struct Norms {
    pub(crate) attention: Option<Norm>,
    pub(crate) attention_post: Option<Norm>,
    pub(crate) mlp: Option<Norm>,
    pub(crate) mlp_post: Option<Norm>,
    pub(crate) gate: Option<Norm>,
    pub(crate) queries: Option<Norm>,
    pub(crate) keys: Option<Norm>,
}

/// An MLP's weights.
#[derive(Debug)]
pub(crate) enum Mlp {
    /// `up` is gate and up in one where the MLP is gated.
    Dense { up: Projection, down: Projection },
    /// A non-linearity with parameters of its own.
    Xielu { up: Projection, down: Projection, xielu: Xielu },
    /// A router and its experts.
    Experts { router: Projection, correction: Option<Vec<f32>>, experts: Vec<Expert>, shared: Option<Shared> },
}

/// An expert that every token goes through.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) up: Projection,
    pub(crate) down: Projection,
    /// What weighs it.
    pub(crate) weigh: Option<Vec<f32>>,
}

impl Weights {
    /// The block of a section.
    pub(crate) fn block(&self, at: At) -> Result<&Block> {
        at.layer().and_then(|layer| self.blocks.get(layer)).ok_or_else(|| missing(at, "a block"))
    }

    /// What attention of a section computes on keys of this kind.
    pub(crate) fn attention(&self, at: At, keys: KeyHeads) -> Result<&easyroutine_kernels::Attention> {
        let attention = self.block(at)?.attention.as_ref().ok_or_else(|| missing(at, "attention"))?;
        Ok(match keys {
            KeyHeads::Grouped => &attention.grouped,
            KeyHeads::OfQueryHeads => &attention.of_query_heads,
        })
    }

    /// The recurrence of a section.
    pub(crate) fn recurrence(&self, at: At) -> Result<&Recurrence> {
        self.block(at)?.recurrence.as_ref().ok_or_else(|| missing(at, "a recurrence"))
    }

    /// A norm of a section.
    pub(crate) fn norm(&self, at: At, norm: NormAt) -> Result<&Norm> {
        let found = match norm {
            NormAt::Embedding => &self.embedding.norm,
            NormAt::Attention => &self.block(at)?.norms.attention,
            NormAt::AttentionPost => &self.block(at)?.norms.attention_post,
            NormAt::Mlp => &self.block(at)?.norms.mlp,
            NormAt::MlpPost => &self.block(at)?.norms.mlp_post,
            NormAt::Gate => &self.block(at)?.norms.gate,
            NormAt::Queries => &self.block(at)?.norms.queries,
            NormAt::Keys => &self.block(at)?.norms.keys,
            NormAt::Final => &self.unembedding.norm,
        };
        found.as_ref().ok_or_else(|| missing(at, "a norm"))
    }

    /// A linear map of a section.
    pub(crate) fn matrix(&self, at: At, matrix: Matrix) -> Result<&Projection> {
        let dense = |up: bool| match &self.block(at)?.mlp {
            Some(Mlp::Dense { up: first, .. } | Mlp::Xielu { up: first, .. }) if up => Ok(first),
            Some(Mlp::Dense { down, .. } | Mlp::Xielu { down, .. }) => Ok(down),
            _ => Err(missing(at, "an MLP without experts")),
        };
        match matrix {
            Matrix::EmbeddingIn => self.embedding.project.as_ref(),
            Matrix::EmbeddingOut => self.unembedding.project.as_ref(),
            Matrix::Qkv => self.block(at)?.attention.as_ref().map(|attention| &attention.qkv),
            Matrix::Out => self.block(at)?.attention.as_ref().map(|attention| &attention.out),
            Matrix::MixerIn => Some(&self.recurrence(at)?.input),
            Matrix::Select => match &self.recurrence(at)?.state {
                State::Selective { select, .. } => Some(&**select),
                _ => None,
            },
            Matrix::MixerOut => Some(&self.recurrence(at)?.out),
            Matrix::Up => Some(dense(true)?),
            Matrix::Down => Some(dense(false)?),
            Matrix::SharedUp => Some(&self.shared(at)?.up),
            Matrix::SharedDown => Some(&self.shared(at)?.down),
            Matrix::Router => match &self.block(at)?.mlp {
                Some(Mlp::Experts { router, .. }) => Some(router),
                _ => None,
            },
        }
        .ok_or_else(|| missing(at, "a projection"))
    }

    /// The experts of a section.
    pub(crate) fn experts(&self, at: At) -> Result<&[Expert]> {
        match &self.block(at)?.mlp {
            Some(Mlp::Experts { experts, .. }) => Ok(experts),
            _ => Err(missing(at, "experts")),
        }
    }

    /// The correction by which experts of a section are chosen.
    pub(crate) fn correction(&self, at: At) -> Result<Option<&[f32]>> {
        match &self.block(at)?.mlp {
            Some(Mlp::Experts { correction, .. }) => Ok(correction.as_deref()),
            _ => Err(missing(at, "experts")),
        }
    }

    /// The shared expert of a section.
    pub(crate) fn shared(&self, at: At) -> Result<&Shared> {
        match &self.block(at)?.mlp {
            Some(Mlp::Experts { shared: Some(shared), .. }) => Ok(shared),
            _ => Err(missing(at, "a shared expert")),
        }
    }

    /// The non-linearity of a section that has parameters.
    pub(crate) fn xielu(&self, at: At) -> Result<&Xielu> {
        match &self.block(at)?.mlp {
            Some(Mlp::Xielu { xielu, .. }) => Ok(xielu),
            _ => Err(missing(at, "a non-linearity with parameters")),
        }
    }
}

/// A step asks for weights that were not built: a mistake in this crate, not in a file.
fn missing(at: At, what: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("the pass asks {at} for {what} that the model was built without"),
    )
}
