//! What mixes tokens by a state that is carried from one to the next, as plain data.

use super::{Activation, Bias, Norm};

/// A recurrence: one projection, a short convolution of some of its columns, a state, a gate, a projection back.
///
/// The first projection gives, side by side, the columns that are convolved, those of the gate, and the rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recurrence {
    /// How many tokens the convolution reads.
    pub kernel: usize,
    /// Whether the convolution has a bias.
    pub bias: Bias,
    /// What becomes of the convolution's sums.
    pub act: Option<Activation>,
    /// Factors on the parts of the first projection of a state space: x, B, C, the gate and the steps (Falcon H1).
    pub factors: Option<[f32; 5]>,
    /// What is carried from token to token.
    pub state: State,
    /// What the output is multiplied by, and where it is normed.
    pub gate: Gate,
}

/// What a recurrence carries from token to token beside the last inputs of its convolution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum State {
    /// Nothing: the convolution is all. It reads what the rest of the first projection multiplies (LFM2).
    None {
        /// Channels.
        width: usize,
    },
    /// Some numbers for each channel, whose step, input and output weights come of the convolved columns
    /// (Mamba, arXiv:2312.00752).
    Selective {
        /// Channels.
        width: usize,
        /// Numbers a channel.
        size: usize,
        /// Width of what the steps are projected from.
        rank: usize,
    },
    /// A matrix for each head, which decays as a whole (Mamba 2, arXiv:2405.21060). Convolved are x, B and C; the rest is
    /// the steps.
    Space {
        /// Heads.
        heads: usize,
        /// Width of a head.
        d_head: usize,
        /// Groups of heads that share B and C.
        groups: usize,
        /// Rows of a head's matrix.
        size: usize,
        /// Least and largest step.
        steps: [f32; 2],
    },
    /// A matrix for each head of values, which is corrected towards each key's value (arXiv:2412.06464). Convolved are
    /// queries, keys and values; the rest is strengths and steps.
    Delta {
        /// Heads of queries and keys.
        key_heads: usize,
        /// Heads of values.
        value_heads: usize,
        /// Width of a query and of a key.
        d_key: usize,
        /// Width of a value.
        d_value: usize,
    },
    /// One number for each channel, with gates of blocks of channels (RG-LRU, arXiv:2402.19427).
    Unit {
        /// Channels.
        width: usize,
        /// Blocks of channels.
        blocks: usize,
    },
}

/// The gate on what a recurrence gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// What becomes of the gate's columns.
    pub act: Option<Activation>,
    /// The norm before or after it.
    pub norm: GateNorm,
}

/// The norm beside a gate, of so many columns each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GateNorm {
    /// None.
    None,
    /// What is gated is normed first, by one weight vector for all groups.
    Before(Norm, usize),
    /// What is gated is normed first, each group by weights of its own.
    BeforeOwnWeights(Norm, usize),
    /// The gated output is normed, each group by weights of its own.
    AfterOwnWeights(Norm, usize),
}

impl Recurrence {
    /// Columns that are convolved.
    pub fn convolved(&self) -> usize {
        match self.state {
            State::None { width } | State::Selective { width, .. } | State::Unit { width, .. } => width,
            State::Space { heads, d_head, groups, size, .. } => heads * d_head + 2 * groups * size,
            State::Delta { key_heads, value_heads, d_key, d_value } => {
                2 * key_heads * d_key + value_heads * d_value
            }
        }
    }

    /// Width of what it gives, which is that of its gate.
    pub fn width(&self) -> usize {
        match self.state {
            State::None { width } | State::Selective { width, .. } | State::Unit { width, .. } => width,
            State::Space { heads, d_head, .. } => heads * d_head,
            State::Delta { value_heads, d_value, .. } => value_heads * d_value,
        }
    }

    /// Columns of its first projection beside those that are convolved and the gate's.
    pub fn rest(&self) -> usize {
        match self.state {
            State::None { width } => width,
            State::Selective { .. } | State::Unit { .. } => 0,
            State::Space { heads, .. } => heads,
            State::Delta { value_heads, .. } => 2 * value_heads,
        }
    }

    /// Columns that are projected from the convolved ones.
    pub fn selected(&self) -> usize {
        match self.state {
            State::Selective { size, rank, .. } => rank + 2 * size,
            State::Unit { width, .. } => 2 * width,
            State::None { .. } | State::Space { .. } | State::Delta { .. } => 0,
        }
    }

    /// Numbers that are carried from token to token: of the convolution, and of the state.
    pub fn carried(&self) -> [usize; 2] {
        let state = match self.state {
            State::None { .. } => 0,
            State::Selective { width, size, .. } => width * size,
            State::Space { heads, d_head, size, .. } => heads * d_head * size,
            State::Delta { value_heads, d_key, d_value, .. } => value_heads * d_key * d_value,
            State::Unit { width, .. } => width,
        };
        [(self.kernel - 1) * self.convolved(), state]
    }
}
