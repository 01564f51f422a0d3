//! What a layer of experts computes, as plain data.

use super::{Activation, Bias};

/// How an expert's gate and neurons become its hidden vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ExpertGate {
    /// `act(gate) * up`
    Plain(Activation),
    /// `act(up)`: there is no gate, nor is there one in the shared expert.
    None(Activation),
    /// `(up + 1) * gate * sigmoid(alpha * gate)`, the gate clamped to at most `limit`, the neurons to `-limit..limit`.
    Clamped {
        /// Factor inside the sigmoid.
        alpha: f32,
        /// Where gate and neurons are clamped.
        limit: f32,
    },
}

/// How experts are chosen and weighed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Router {
    /// What becomes of the router's scores.
    pub scores: ExpertScores,
    /// Whether a stored correction is added to choose by, and to nothing else.
    pub correction: Bias,
    /// Groups of experts, of which some are left to choose from.
    pub groups: Option<ExpertGroups>,
    /// What becomes of the chosen experts' scores.
    pub weights: ExpertWeights,
    /// Factor on the weights.
    pub scale: f32,
    /// Whether each expert has a stored factor on its weight.
    pub factors: Bias,
    /// The norm of router and experts where they read the stream by themselves, each through a norm of its own, and not what
    /// the shared expert reads; the sums of both are then normed too (Gemma 4).
    pub apart: Option<super::Norm>,
}

/// What becomes of a router's scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ExpertScores {
    /// The softmax over all experts.
    Softmax,
    /// Each by itself.
    Sigmoid,
    /// Two experts one after the other, each weighed among those whose scores are near it (arXiv:2409.12136).
    SparseMixer {
        /// Half the relative distance from the best that counts as near.
        jitter: f32,
    },
}

/// Groups of experts that are next to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertGroups {
    /// How many.
    pub count: usize,
    /// How many are left to choose from.
    pub kept: usize,
    /// What ranks them.
    pub rank: GroupRank,
}

/// What ranks groups of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupRank {
    /// The best of a group.
    Best,
    /// The sum of the two best.
    TwoBest,
}

/// Weights of the chosen experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ExpertWeights {
    /// Divided by their sum, or by this where the sum is less.
    Renormalised {
        /// The least divisor.
        least: f32,
    },
    /// The scores as they are.
    AsTheyAre,
}

/// A gated expert that every token goes through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SharedExpert {
    /// Neurons.
    pub d_mlp: usize,
    /// Non-linearity of the gate.
    pub act: Activation,
    /// What it is multiplied by.
    pub weight: SharedWeight,
}

/// What a shared expert's output is multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedWeight {
    /// Nothing.
    One,
    /// The sigmoid of a product with what it reads.
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
