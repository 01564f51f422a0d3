//! How a recurrence is stored.

use super::Linear;

/// How a recurrence is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecurrenceNames {
    /// The first projection.
    pub input: RecurrenceInput,
    /// The convolution: `.weight` is `[channels, 1, kernel]`.
    pub convolution: &'static str,
    /// What belongs to its state.
    pub state: StateNames,
    /// The norm beside the gate.
    pub norm: Option<&'static str>,
    /// Back to the stream.
    pub out: Linear,
}

/// How the first projection of a recurrence is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecurrenceInput {
    /// One projection, whose parts stand in this order.
    Stacked(Linear, [InputPart; 3]),
    /// One projection a part: what is convolved, the gate, and what else there is in parts of one width.
    Split(&'static [Linear]),
    /// Two projections of key heads: of each its query, its key, its values and their gates; and its strengths and steps.
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
    /// What is convolved.
    Convolved,
    /// The gate.
    Gate,
    /// What else there is.
    Rest,
}

/// How the weights of a recurrence's state are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateNames {
    /// There are none.
    None,
    /// Of a selective scan.
    Selective {
        /// From the convolved columns to what steps are projected from, and the weights of input and output.
        select: Linear,
        /// The steps' projection.
        steps: Linear,
        /// The logarithm of minus the decay, `[channels, numbers]`.
        decay: &'static str,
        /// What of the input is added to the output.
        skip: &'static str,
    },
    /// Of heads whose states decay as a whole.
    Heads {
        /// Added to the steps.
        steps: &'static str,
        /// The logarithm of minus the decay.
        decay: &'static str,
        /// What of the input is added to the output.
        skip: Option<&'static str>,
    },
    /// Of a linear recurrent unit; `_weight` and `_bias` follow the gates' names.
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
