//! How a recurrence is stored.

use super::Linear;

/// How a recurrence is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecurrenceNames {
    /// The first projection.
    pub input: RecurrenceInput,
    /// The convolution: `.weight` is `[channels, 1, kernel]`.
    pub convolution: &'static str,
    /// The weights of its state.
    pub state: StateNames,
    /// The norm next to the gate.
    pub norm: Option<&'static str>,
    /// Back to the stream.
    pub out: Linear,
}

/// How the first projection of a recurrence is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecurrenceInput {
    /// One projection, with its parts in this order.
    Stacked(Linear, [InputPart; 3]),
    /// One projection per part: the convolved columns, the gate, and the rest in parts of equal width.
    Split(&'static [Linear]),
    /// Two projections by key head: each head's query, key, values and their gates; and its strengths and steps.
    ByKeyHead {
        /// Queries, keys, values and gates.
        mixed: Linear,
        /// Strengths and steps.
        rates: Linear,
    },
}

/// A part of a recurrence's first projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputPart {
    /// The convolved columns.
    Convolved,
    /// The gate.
    Gate,
    /// The rest.
    Rest,
}

/// How the weights of a recurrence's state are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateNames {
    /// None.
    None,
    /// For a selective scan.
    Selective {
        /// From the convolved columns to the steps' input, and the weights of input and output.
        select: Linear,
        /// The steps' projection.
        steps: Linear,
        /// The logarithm of minus the decay, `[channels, numbers]`.
        decay: &'static str,
        /// The share of the input added to the output.
        skip: &'static str,
    },
    /// For heads whose states decay as a whole.
    Heads {
        /// Added to the steps.
        steps: &'static str,
        /// The logarithm of minus the decay.
        decay: &'static str,
        /// The share of the input added to the output.
        skip: Option<&'static str>,
    },
    /// For a linear recurrent unit; `_weight` and `_bias` follow the gates' names.
    Unit {
        /// The input's gate.
        input: &'static str,
        /// The decay's gate.
        forget: &'static str,
        /// The decay before its softplus.
        decay: &'static str,
    },
}

impl RecurrenceNames {
    /// Every projection.
    pub(super) fn projections(&self) -> Vec<Linear> {
        let mut all = match self.input {
            RecurrenceInput::Stacked(linear, _) => vec![linear],
            RecurrenceInput::Split(linears) => linears.to_vec(),
            RecurrenceInput::ByKeyHead { mixed, rates } => vec![mixed, rates],
        };
        if let StateNames::Selective { select, steps, .. } = self.state {
            all.extend([select, steps]);
        }
        all.push(self.out);
        all
    }
}
