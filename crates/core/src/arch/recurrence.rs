//! Recurrences, which mix tokens by a state carried from one to the next, as plain data.

use super::{Activation, Bias, Norm};

/// A recurrence: a projection, a short convolution of some of its columns, a state, a gate, a projection back.
///
/// The first projection gives, side by side, the convolved columns, those of the gate, and the rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recurrence {
    /// Number of tokens that the convolution reads.
    pub kernel: usize,
    /// Whether the convolution has a bias.
    pub bias: Bias,
    /// The activation of the convolution's sums.
    pub act: Option<Activation>,
    /// Factors on the parts of the first projection of a state space: x, B, C, the gate and the steps (Falcon H1).
    pub factors: Option<[f32; 5]>,
    /// The state carried from token to token.
    pub state: State,
    /// The gate on the output, and its norm.
    pub gate: Gate,
}

/// The state that a recurrence carries, besides the last inputs of its convolution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum State {
    /// None: only the convolution. It reads the product of the rest of the first projection with its input (LFM2).
    None {
        /// Channels.
        width: usize,
    },
    /// A few numbers per channel, with step, input and output weights projected from the convolved columns (Mamba,
    /// arXiv:2312.00752).
    Selective {
        /// Channels.
        width: usize,
        /// Numbers per channel.
        size: usize,
        /// Width of the vector that the steps are projected from.
        rank: usize,
        /// The norm, without parameters, of that vector and of the weights of input and output (Falcon Mamba).
        norm: Option<Norm>,
    },
    /// A matrix per head, which decays as a whole (Mamba 2, arXiv:2405.21060). x, B and C are convolved; the rest is
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
        /// Smallest and largest step.
        steps: [f32; 2],
    },
    /// A matrix per value head, which is corrected towards each key's value (arXiv:2412.06464). Queries, keys and
    /// values are convolved; the rest is strengths and steps.
    Delta {
        /// Heads of queries and keys.
        key_heads: usize,
        /// Value heads.
        value_heads: usize,
        /// Width of a query and of a key.
        d_key: usize,
        /// Width of a value.
        d_value: usize,
    },
    /// One number per channel, with gates for blocks of channels (RG-LRU, arXiv:2402.19427).
    Unit {
        /// Channels.
        width: usize,
        /// Blocks of channels.
        blocks: usize,
    },
}

/// The gate on a recurrence's output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// The activation of the gate's columns.
    pub act: Option<Activation>,
    /// The norm before or after it.
    pub norm: GateNorm,
}

/// The norm next to a gate, over groups of this many columns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GateNorm {
    /// None.
    None,
    /// Before the gate, with one weight vector for all groups.
    Before(Norm, usize),
    /// Before the gate, with separate weights for each group.
    BeforeOwnWeights(Norm, usize),
    /// After the gate, with separate weights for each group.
    AfterOwnWeights(Norm, usize),
}

impl Recurrence {
    /// Convolved columns.
    pub fn convolved(&self) -> usize {
        match self.state {
            State::None { width } | State::Selective { width, .. } | State::Unit { width, .. } => width,
            State::Space { heads, d_head, groups, size, .. } => heads * d_head + 2 * groups * size,
            State::Delta { key_heads, value_heads, d_key, d_value } => {
                2 * key_heads * d_key + value_heads * d_value
            }
        }
    }

    /// Width of its output, which is its gate's.
    pub fn width(&self) -> usize {
        match self.state {
            State::None { width } | State::Selective { width, .. } | State::Unit { width, .. } => width,
            State::Space { heads, d_head, .. } => heads * d_head,
            State::Delta { value_heads, d_value, .. } => value_heads * d_value,
        }
    }

    /// Columns of its first projection besides the convolved ones and the gate.
    pub fn rest(&self) -> usize {
        match self.state {
            State::None { width } => width,
            State::Selective { .. } | State::Unit { .. } => 0,
            State::Space { heads, .. } => heads,
            State::Delta { value_heads, .. } => 2 * value_heads,
        }
    }

    /// Columns projected from the convolved ones.
    pub fn selected(&self) -> usize {
        match self.state {
            State::Selective { size, rank, .. } => rank + 2 * size,
            State::Unit { width, .. } => 2 * width,
            State::None { .. } | State::Space { .. } | State::Delta { .. } => 0,
        }
    }

    /// Numbers carried from token to token: of the convolution, and of the state.
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
