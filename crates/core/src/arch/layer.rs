//! One block, as plain data.

use super::{Attention, Bias, Latent, Mlp, Recurrence, Wiring};

/// One block: mixers of tokens, and an MLP that works on each token alone. A block may lack either.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Attention of this block.
    pub attention: Option<Attention>,
    /// The recurrence of this block, instead of attention or in parallel with it.
    pub recurrence: Option<Recurrence>,
    /// MLP of this block.
    pub mlp: Option<Mlp>,
    /// Norms, and how the parts are connected. Norms of a missing part are ignored.
    pub wiring: Wiring,
    /// Factors on the inputs and outputs of its parts.
    pub factors: Factors,
    /// Whether the outgoing stream is multiplied by a stored factor (Gemma 4).
    pub leaving_scale: Bias,
}

/// Factors on the inputs and outputs of a block's parts; `None` is a factor of one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Factors {
    /// On attention's input, after the norm (Falcon H1).
    pub attention_in: Option<f32>,
    /// On the recurrence's input, after its site is shown.
    pub recurrence_in: Option<f32>,
    /// On the gate of the MLP, before its activation.
    pub gate: Option<f32>,
    /// On attention's output.
    pub attention: Option<f32>,
    /// On the recurrence's output.
    pub recurrence: Option<f32>,
    /// On the MLP's output.
    pub mlp: Option<f32>,
}

impl Factors {
    /// One factor on the output of every part (Granite).
    pub fn of_all(factor: Option<f32>) -> Self {
        Factors { attention: factor, recurrence: factor, mlp: factor, ..Factors::default() }
    }
}

impl Layer {
    /// Whether the block mixes tokens.
    pub fn mixes(&self) -> bool {
        self.attention.is_some() || self.recurrence.is_some()
    }

    /// The earlier layer whose keys and values this block's attention reads, if it has none of its own.
    pub fn keys_of(&self) -> Option<usize> {
        self.attention.as_ref().and_then(|attention| attention.keys_of)
    }

    /// How queries, keys and values are compressed, if they are.
    pub fn latent(&self) -> Option<Latent> {
        self.attention.as_ref().and_then(|attention| attention.latent)
    }

    /// Number of experts that a router chooses from, if the block has any.
    pub fn experts(&self) -> Option<usize> {
        self.mlp.and_then(Mlp::experts)
    }

    /// Width of what its experts read and give, if it is not the stream's.
    pub fn experts_latent(&self) -> Option<usize> {
        match self.mlp {
            Some(Mlp::Experts { latent, .. }) => latent,
            _ => None,
        }
    }

    /// Neurons of its MLP, 0 if it has none; with experts, those of a single one.
    pub fn d_mlp(&self) -> usize {
        self.mlp.map_or(0, Mlp::d_mlp)
    }
}
