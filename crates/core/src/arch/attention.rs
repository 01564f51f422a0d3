//! What attention computes, as plain data.

use super::{Bias, Heads, Latent, Norm};

/// Attention of one block.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Its heads, if they differ from the model's.
    pub heads: Option<Heads>,
    /// How queries, keys and values are compressed, if they are.
    pub latent: Option<Latent>,
    /// Factor on the scores.
    pub scale: f32,
    /// `c * tanh(score / c)` before the mask.
    pub softcap: Option<f32>,
    /// Norm of queries and keys after their projections.
    pub qk_norm: QkNorm,
    /// Whether that norm comes before or after rotation.
    pub qk_norm_at: QkNormAt,
    /// Norm of each head's value.
    pub v_norm: Option<Norm>,
    /// The source of values.
    pub values: ValuesFrom,
    /// The earlier layer whose keys and values these heads read, if they have none of their own.
    pub keys_of: Option<usize>,
    /// Queries, keys and values are clamped to `-c..c`, after the norm of queries and keys if that precedes rotation
    /// (OLMo, MPT).
    pub clip: Option<f32>,
    /// Scaling of queries by position, after rotation.
    pub query_growth: Option<QueryGrowth>,
    /// How far back a query sees.
    pub window: Window,
    /// How attention encodes positions.
    pub position: PositionMark,
    /// The factor on mixed values before the output projection (Qwen3-Next).
    pub gate: AttentionGate,
    /// Whether each head has an extra logit in its softmax, whose weight goes to no key (gpt-oss).
    pub sinks: Bias,
}

/// The factor on mixed values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionGate {
    /// Nothing.
    None,
    /// The sigmoid of a projection of the same width.
    Sigmoid,
}

/// The source of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValuesFrom {
    /// A projection.
    Projection,
    /// The projected keys, before their norm and rotation.
    Keys,
}

/// Where queries and keys are normed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNormAt {
    /// Before rotation.
    Projected,
    /// After rotation.
    Rotated,
}

/// Queries times `1 + beta ln(1 + floor(position / original))` (Llama 4).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryGrowth {
    /// The rate of growth.
    pub beta: f32,
    /// Positions below which the factor is 1.
    pub original: usize,
}

/// Norm of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum QkNorm {
    /// None.
    None,
    /// Each head separately, with one weight vector of `d_head` for all heads.
    PerHead(Norm),
    /// Each head separately, with its own weight vector (`[n_heads, d_head]`).
    PerHeadOwnWeights(Norm),
    /// The whole projection at once.
    Whole(Norm),
}

/// Reach of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// All earlier tokens.
    Full,
    /// Key `j` is visible to query `i` if `i - j < n`.
    Sliding(usize),
}

/// How attention of one block encodes positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionMark {
    /// Rotary, by the table with this index in [`Arch::ropes`](super::Arch::ropes).
    Rope(usize),
    /// Linear biases (arXiv:2108.12409), with one slope per head.
    Alibi(Slopes),
    /// Not at all (learned positions, or none).
    None,
}

/// Slopes of linear biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slopes {
    /// The powers for the next lower power of two, then every other one of the next higher.
    OfLowerPower,
    /// The same, with slopes and biases rounded to bf16 and scaled like scores.
    OfLowerPowerRounded,
    /// The powers for the next higher power of two: every other one first, then the rest.
    OfHigherPower,
}
