//! What recurrences carry on from tokens that were run before.

use std::collections::BTreeMap;

/// What the recurrence of a layer carries on from a token of a row: the last inputs of its convolution, and its state.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Carried(pub(super) [Vec<f32>; 2]);

/// Positions of a row at which states are looked at.
#[derive(Debug)]
pub(crate) struct Marks {
    /// Ascending.
    pub(super) positions: Vec<usize>,
    /// What was carried before the tokens there.
    pub(super) found: BTreeMap<usize, Carried>,
}

impl Marks {
    pub(super) fn new(positions: &[usize]) -> Self {
        Marks { positions: positions.to_vec(), found: BTreeMap::new() }
    }
}
