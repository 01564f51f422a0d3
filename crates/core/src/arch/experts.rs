//! What a layer of experts computes, as plain data.

use super::{Activation, Bias};

/// How an expert's gate and neurons become its hidden vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ExpertGate {
    /// `act(gate) * up`
    Plain(Activation),
    /// `act(up)`: no gate, nor in the shared expert.
    None(Activation),
    /// `(up + 1) * gate * sigmoid(alpha * gate)`, with the gate clamped to at most `limit` and the neurons to
    /// `-limit..limit`.
    Clamped {
        /// Factor inside the sigmoid.
        alpha: f32,
        /// Clamping bound of gate and neurons.
        limit: f32,
    },
}

/// How experts are chosen and weighed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Router {
    /// The transformation of the router's scores.
    pub scores: ExpertScores,
    /// Whether a stored correction is added for the choice, and only for that.
    pub correction: Bias,
    /// Groups of experts, only some of which are eligible.
    pub groups: Option<ExpertGroups>,
    /// The transformation of the chosen experts' scores.
    pub weights: ExpertWeights,
    /// Factor on the weights.
    pub scale: f32,
    /// Whether each expert has a stored factor on its weight.
    pub factors: Bias,
    /// The norm of router and experts that read the stream directly, each through its own norm, instead of the shared
    /// expert's input; both sums are then normed too (Gemma 4).
    pub apart: Option<super::Norm>,
}

/// The transformation of a router's scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ExpertScores {
    /// The softmax over all experts.
    Softmax,
    /// A sigmoid of each.
    Sigmoid,
    /// Two experts in sequence, each weighed among experts with scores near its own (arXiv:2409.12136).
    SparseMixer {
        /// Half the relative distance from the best that counts as near.
        jitter: f32,
    },
}

/// Groups of adjacent experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertGroups {
    /// Number of groups.
    pub count: usize,
    /// Number of groups kept.
    pub kept: usize,
    /// How groups are ranked.
    pub rank: GroupRank,
}

/// How groups of experts are ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupRank {
    /// By their best score.
    Best,
    /// By the sum of their two best scores.
    TwoBest,
}

/// Weights of the chosen experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ExpertWeights {
    /// Divided by their sum, or by `least` if the sum is smaller.
    Renormalised {
        /// The smallest divisor.
        least: f32,
    },
    /// The scores unchanged.
    AsTheyAre,
}

/// A gated expert that every token goes through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SharedExpert {
    /// Neurons.
    pub d_mlp: usize,
    /// Activation of the gate.
    pub act: Activation,
    /// Its weight.
    pub weight: SharedWeight,
}

/// The factor on a shared expert's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedWeight {
    /// Nothing.
    One,
    /// The sigmoid of a product with its input.
    Sigmoid,
}

impl Router {
    /// The softmax over all experts.
    pub fn softmax(weights: ExpertWeights) -> Self {
        Router {
            scores: ExpertScores::Softmax,
            correction: Bias::Absent,
            groups: None,
            weights,
            scale: 1.0,
            factors: Bias::Absent,
            apart: None,
        }
    }
}
