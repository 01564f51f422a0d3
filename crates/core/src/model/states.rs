//! States of recurrences after tokens that were run before.

use std::collections::BTreeMap;

/// The state of a layer's recurrence after a token: the last inputs of its convolution, and its state.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Carried(pub(super) [Vec<f32>; 2]);

/// Positions of a row at which states are recorded.
#[derive(Debug)]
pub(crate) struct Marks {
    /// Ascending.
    pub(super) positions: Vec<usize>,
    /// The state before the token at each position, by layer.
    pub(super) found: BTreeMap<usize, Carried>,
}

impl Marks {
    pub(super) fn new(positions: &[usize]) -> Self {
        Marks { positions: positions.to_vec(), found: BTreeMap::new() }
    }
}
