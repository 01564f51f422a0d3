//! A model's weights, by the names that steps use.

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
    /// To the gate of the layer's additional input, and from that input to the stream.
    pub(crate) per_layer: Option<[Projection; 2]>,
    /// Factor on the stream that leaves the block.
    pub(crate) leaving_scale: Option<f32>,
}

/// Those of attention.
#[derive(Debug)]
pub(crate) struct Attention {
    pub(crate) qkv: Qkv,
    pub(crate) out: Projection,
    /// Scores, mask and softmax for keys that query heads share.
    pub(crate) grouped: easyroutine_kernels::Attention,
    /// The same for one key per query head.
    pub(crate) of_query_heads: easyroutine_kernels::Attention,
}

/// How queries, keys and values are made.
#[derive(Debug)]
pub(crate) enum Qkv {
    /// In one product.
    AtOnce(Projection),
    /// From compressed vectors.
    Latent(Box<Latent>),
}

/// Projections to and from compressed vectors.
#[derive(Debug)]
pub(crate) struct Latent {
    pub(crate) compress_queries: Option<Projection>,
    pub(crate) query_norm: Option<Norm>,
    pub(crate) queries: Projection,
    pub(crate) compress_kv: Projection,
    pub(crate) kv_norm: Norm,
    pub(crate) keys_values: Projection,
}

/// The weights of a recurrence.
#[derive(Debug)]
pub(crate) struct Recurrence {
    /// The convolved columns, the gate, the rest.
    pub(crate) input: Projection,
    pub(crate) convolution: Convolution,
    pub(crate) state: State,
    pub(crate) out: Projection,
}

/// The weights of its state. Decays are logarithms, per unit step.
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

/// The norms that a block has.
#[derive(Debug, Default)]
pub(crate) struct Norms {
    pub(crate) attention: Option<Norm>,
    pub(crate) attention_post: Option<Norm>,
    pub(crate) mlp: Option<Norm>,
    pub(crate) mlp_post: Option<Norm>,
    pub(crate) gate: Option<Norm>,
    pub(crate) selected: Option<Norm>,
    pub(crate) queries: Option<Norm>,
    pub(crate) keys: Option<Norm>,
    pub(crate) values: Option<Norm>,
    pub(crate) router: Option<Norm>,
    pub(crate) experts: Option<Norm>,
    pub(crate) experts_post: Option<Norm>,
    pub(crate) shared_post: Option<Norm>,
    pub(crate) per_layer_post: Option<Norm>,
}

/// An MLP's weights.
#[derive(Debug)]
pub(crate) enum Mlp {
    /// For a gated MLP, `up` is gate and up in one.
    Dense { up: Projection, down: Projection },
    /// A non-linearity with its own parameters.
    Xielu { up: Projection, down: Projection, xielu: Xielu },
    /// A router and its experts.
    Experts {
        router: Projection,
        correction: Option<Vec<f32>>,
        /// Factors on the weights of experts.
        factors: Option<Vec<f32>>,
        experts: Vec<Expert>,
        /// To the width of experts that read another than the stream's, and back.
        latent: Option<Box<[Projection; 2]>>,
        shared: Option<Box<Shared>>,
    },
}

/// An expert that every token goes through.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) up: Projection,
    pub(crate) down: Projection,
    /// The weight vector of its gate.
    pub(crate) weigh: Option<Vec<f32>>,
}

impl Block {
    /// All its projections.
    pub(crate) fn projections(&self) -> Vec<&Projection> {
        let mut all: Vec<&Projection> = self.per_layer.iter().flatten().collect();
        if let Some(Attention { qkv, out, .. }) = &self.attention {
            match qkv {
                Qkv::AtOnce(one) => all.push(one),
                Qkv::Latent(latent) => {
                    all.extend(&latent.compress_queries);
                    all.extend([&latent.queries, &latent.compress_kv, &latent.keys_values]);
                }
            }
            all.push(out);
        }
        if let Some(Recurrence { input, state, out, .. }) = &self.recurrence {
            all.extend([input, out]);
            match state {
                State::Selective { select, steps, .. } => all.extend([&**select, &**steps]),
                State::Unit { gates, .. } => all.extend(gates),
                State::None | State::Heads { .. } => {}
            }
        }
        match &self.mlp {
            Some(Mlp::Dense { up, down } | Mlp::Xielu { up, down, .. }) => all.extend([up, down]),
            Some(Mlp::Experts { router, experts, latent, shared, .. }) => {
                all.push(router);
                all.extend(latent.iter().flat_map(|both| both.iter()));
                all.extend(experts.iter().flat_map(|expert| [&expert.gate_up, &expert.down]));
                all.extend(shared.iter().flat_map(|shared| [&shared.up, &shared.down]));
            }
            None => {}
        }
        all
    }
}

impl Weights {
    /// The block of a section.
    pub(crate) fn block(&self, at: At) -> Result<&Block> {
        at.layer().and_then(|layer| self.blocks.get(layer)).ok_or_else(|| missing(at, "a block"))
    }

    /// The attention parameters of a section for this kind of keys.
    pub(crate) fn attention(&self, at: At, keys: KeyHeads) -> Result<&easyroutine_kernels::Attention> {
        let attention = self.of_attention(at)?;
        Ok(match keys {
            KeyHeads::OfQueryHeads => &attention.of_query_heads,
            KeyHeads::Grouped | KeyHeads::Lent { .. } | KeyHeads::Kept { .. } => &attention.grouped,
        })
    }

    fn of_attention(&self, at: At) -> Result<&Attention> {
        self.block(at)?.attention.as_ref().ok_or_else(|| missing(at, "attention"))
    }

    /// The recurrence of a section.
    pub(crate) fn recurrence(&self, at: At) -> Result<&Recurrence> {
        self.block(at)?.recurrence.as_ref().ok_or_else(|| missing(at, "a recurrence"))
    }

    /// A norm of a section.
    pub(crate) fn norm(&self, at: At, norm: NormAt) -> Result<&Norm> {
        let found = match norm {
            NormAt::CompressedQueries => &self.latent(at)?.query_norm,
            NormAt::KvLatent => return Ok(&self.latent(at)?.kv_norm),
            NormAt::Embedding => &self.embedding.norm,
            NormAt::Attention => &self.block(at)?.norms.attention,
            NormAt::AttentionPost => &self.block(at)?.norms.attention_post,
            NormAt::Mlp => &self.block(at)?.norms.mlp,
            NormAt::MlpPost => &self.block(at)?.norms.mlp_post,
            NormAt::Gate => &self.block(at)?.norms.gate,
            NormAt::Selected => &self.block(at)?.norms.selected,
            NormAt::Queries => &self.block(at)?.norms.queries,
            NormAt::Keys => &self.block(at)?.norms.keys,
            NormAt::Values => &self.block(at)?.norms.values,
            NormAt::Router => &self.block(at)?.norms.router,
            NormAt::Experts => &self.block(at)?.norms.experts,
            NormAt::ExpertsPost => &self.block(at)?.norms.experts_post,
            NormAt::SharedPost => &self.block(at)?.norms.shared_post,
            NormAt::PerLayerPost => &self.block(at)?.norms.per_layer_post,
            NormAt::PerLayer => match &self.embedding.per_layer {
                Some(per_layer) => return Ok(&per_layer.norm),
                None => &None,
            },
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
            Matrix::PerLayerInputs => self.embedding.per_layer.as_ref().map(|per_layer| &per_layer.project),
            Matrix::PerLayerGate => self.block(at)?.per_layer.as_ref().map(|[gate, _]| gate),
            Matrix::PerLayerOut => self.block(at)?.per_layer.as_ref().map(|[_, out]| out),
            Matrix::Qkv => match &self.of_attention(at)?.qkv {
                Qkv::AtOnce(one) => Some(one),
                Qkv::Latent(_) => None,
            },
            Matrix::CompressQueries => self.latent(at)?.compress_queries.as_ref(),
            Matrix::Queries => Some(&self.latent(at)?.queries),
            Matrix::CompressKv => Some(&self.latent(at)?.compress_kv),
            Matrix::KeysValues => Some(&self.latent(at)?.keys_values),
            Matrix::Out => self.block(at)?.attention.as_ref().map(|attention| &attention.out),
            Matrix::MixerIn => Some(&self.recurrence(at)?.input),
            Matrix::Select => match &self.recurrence(at)?.state {
                State::Selective { select, .. } => Some(&**select),
                _ => None,
            },
            Matrix::MixerOut => Some(&self.recurrence(at)?.out),
            Matrix::Up => Some(dense(true)?),
            Matrix::Down => Some(dense(false)?),
            Matrix::LatentIn => self.latent_of_experts(at)?.map(|[input, _]| input),
            Matrix::LatentOut => self.latent_of_experts(at)?.map(|[_, out]| out),
            Matrix::SharedUp => Some(&self.shared(at)?.up),
            Matrix::SharedDown => Some(&self.shared(at)?.down),
            Matrix::Router => match &self.block(at)?.mlp {
                Some(Mlp::Experts { router, .. }) => Some(router),
                _ => None,
            },
        }
        .ok_or_else(|| missing(at, "a projection"))
    }

    /// Projections to and from compressed vectors of a section.
    fn latent(&self, at: At) -> Result<&Latent> {
        match &self.of_attention(at)?.qkv {
            Qkv::Latent(latent) => Ok(latent),
            Qkv::AtOnce(_) => Err(missing(at, "compressed keys and values")),
        }
    }

    /// The experts of a section.
    pub(crate) fn experts(&self, at: At) -> Result<&[Expert]> {
        match &self.block(at)?.mlp {
            Some(Mlp::Experts { experts, .. }) => Ok(experts),
            _ => Err(missing(at, "experts")),
        }
    }

    fn latent_of_experts(&self, at: At) -> Result<Option<&[Projection; 2]>> {
        match &self.block(at)?.mlp {
            Some(Mlp::Experts { latent, .. }) => Ok(latent.as_deref()),
            _ => Err(missing(at, "experts")),
        }
    }

    /// The correction used to choose a section's experts, and factors on their weights.
    pub(crate) fn of_router(&self, at: At) -> Result<[Option<&[f32]>; 2]> {
        match &self.block(at)?.mlp {
            Some(Mlp::Experts { correction, factors, .. }) => Ok([correction.as_deref(), factors.as_deref()]),
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

/// A step needs weights that were not built: a bug in this crate, not in a file.
fn missing(at: At, what: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("the pass asks {at} for {what} that the model was built without"),
    )
}
