//! One block, as plain data.

use super::{Attention, Bias, Latent, Mlp, Recurrence, Wiring};

/// One block: what mixes tokens, and what works on each token alone. A block may lack either.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Attention of this block.
    pub attention: Option<Attention>,
    /// The recurrence of this block, in place of attention or beside it.
    pub recurrence: Option<Recurrence>,
    /// MLP of this block.
    pub mlp: Option<Mlp>,
    /// Norms, and what reads what. Norms of a part that the block lacks mean nothing.
    pub wiring: Wiring,
    /// Factors on what its parts read and add.
    pub factors: Factors,
    /// Whether the stream that leaves the block is multiplied by a stored factor (Gemma 4).
    pub leaving_scale: Bias,
}

/// Factors on what the parts of a block read and add; `None` is a factor of one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Factors {
    /// On what attention reads, after the norm (Falcon H1).
    pub attention_in: Option<f32>,
    /// On what the recurrence reads, after its place is shown.
    pub recurrence_in: Option<f32>,
    /// On the gate of the MLP, before its non-linearity.
    pub gate: Option<f32>,
    /// On what attention adds to the stream.
    pub attention: Option<f32>,
    /// On what the recurrence adds to the stream.
    pub recurrence: Option<f32>,
    /// On what the MLP adds to the stream.
    pub mlp: Option<f32>,
}

impl Factors {
    /// One factor on what every part adds (Granite).
    pub fn of_all(factor: Option<f32>) -> Self {
        Factors { attention: factor, recurrence: factor, mlp: factor, ..Factors::default() }
    }
}

impl Layer {
    /// Whether the block mixes tokens.
    pub fn mixes(&self) -> bool {
        self.attention.is_some() || self.recurrence.is_some()
    }

    /// The earlier layer whose keys and values attention of this block reads, where it has none of its own.
    pub fn keys_of(&self) -> Option<usize> {
        self.attention.as_ref().and_then(|attention| attention.keys_of)
    }

    /// How queries, keys and values are compressed, if they are.
    pub fn latent(&self) -> Option<Latent> {
        self.attention.as_ref().and_then(|attention| attention.latent)
    }

    /// How many experts a router chooses from, where the block has some.
    pub fn experts(&self) -> Option<usize> {
        self.mlp.and_then(Mlp::experts)
    }

    /// Neurons of its MLP, 0 where it has none; of experts those of one.
    pub fn d_mlp(&self) -> usize {
        self.mlp.map_or(0, Mlp::d_mlp)
    }
}
