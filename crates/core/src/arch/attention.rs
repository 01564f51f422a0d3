//! What attention computes, as plain data.

use super::{Bias, Heads, Latent, Norm};

/// Attention of one block.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Its heads, where they are not those of the model.
    pub heads: Option<Heads>,
    /// How queries, keys and values are compressed, if they are.
    pub latent: Option<Latent>,
    /// Factor on the scores.
    pub scale: f32,
    /// `c * tanh(score / c)` before the mask.
    pub softcap: Option<f32>,
    /// Norm of queries and keys after their projections.
    pub qk_norm: QkNorm,
    /// Whether that norm stands before the rotation.
    pub qk_norm_at: QkNormAt,
    /// Norm of each head's value.
    pub v_norm: Option<Norm>,
    /// Where values come from.
    pub values: ValuesFrom,
    /// The earlier layer whose keys and values these heads read, where they have none of their own.
    pub keys_of: Option<usize>,
    /// Queries, keys and values are clamped to `-c..c`, after that norm where it stands before the rotation (OLMo, MPT).
    pub clip: Option<f32>,
    /// Growth of queries with their position, after the rotation.
    pub query_growth: Option<QueryGrowth>,
    /// How far back a query sees.
    pub window: Window,
    /// How attention knows positions.
    pub position: PositionMark,
    /// What mixed values are multiplied by before the output projection (Qwen3-Next).
    pub gate: AttentionGate,
    /// Whether each head has a logit more in its softmax, whose weight goes to no key (gpt-oss).
    pub sinks: Bias,
}

/// What mixed values are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionGate {
    /// Nothing.
    None,
    /// The sigmoid of a projection as wide as they are.
    Sigmoid,
}

/// Where values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValuesFrom {
    /// A projection of their own.
    Projection,
    /// The projected keys, before their norm and rotation.
    Keys,
}

/// Where queries and keys are normed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNormAt {
    /// Before they turn.
    Projected,
    /// After they turned.
    Rotated,
}

/// Queries times `1 + beta ln(1 + floor(position / original))` (Llama 4).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryGrowth {
    /// How fast they grow.
    pub beta: f32,
    /// Positions below which nothing grows.
    pub original: usize,
}

/// Norm of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum QkNorm {
    /// None.
    None,
    /// Every head alone, one weight vector of `d_head` for all heads.
    PerHead(Norm),
    /// Every head alone, with a weight vector of its own (`[n_heads, d_head]`).
    PerHeadOwnWeights(Norm),
    /// The whole projection at once.
    Whole(Norm),
}

/// Reach of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// All earlier tokens.
    Full,
    /// Key `j` is visible to query `i` where `i - j < n`.
    Sliding(usize),
}

/// How attention of one block knows positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionMark {
    /// Rotary, by the table of this index in [`Arch::ropes`](super::Arch::ropes).
    Rope(usize),
    /// Linear biases (arXiv:2108.12409), slopes by head.
    Alibi(Slopes),
    /// Not at all (learned positions, or none).
    None,
}

/// Slopes of linear biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slopes {
    /// The powers for the next lower power of two, then every other one for the next higher.
    OfLowerPower,
    /// The same, slopes and biases rounded to bf16 and scaled as scores are.
    OfLowerPowerRounded,
    /// The powers for the next higher power of two: every other one first, then those between.
    OfHigherPower,
}
