//! What recurrences carry on from tokens that were run before.

use std::collections::BTreeMap;
use std::ops::Range;

use super::past::{KvCache, Past};
use crate::batch::Batch;

/// What the recurrence of a layer carries on from a token of a row: the last inputs of its convolution, and its state.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Carried(pub(super) [Vec<f32>; 2]);

/// Positions of a row at which states are looked at.
#[derive(Debug)]
pub(crate) struct Marks {
    /// Ascending.
    positions: Vec<usize>,
    /// What was carried before the tokens there.
    pub(super) found: BTreeMap<usize, Carried>,
}

impl Marks {
    pub(super) fn new(positions: &[usize]) -> Self {
        Marks { positions: positions.to_vec(), found: BTreeMap::new() }
    }
}

impl KvCache {
    /// Drops what a run that failed left.
    pub(super) fn forget_coming(&mut self) {
        self.coming.clear();
    }

    /// Takes in what the recurrences carry after a run.
    pub(super) fn take_coming(&mut self) {
        for (layer, states) in std::mem::take(&mut self.coming) {
            self.states.insert(layer, states);
        }
    }
}

impl Past<'_> {
    /// What the recurrence of a layer carries on into the first token that a row has in the batch; nothing where the row
    /// begins there. `part` is 0 for the convolution, 1 for the state.
    pub(super) fn state(&self, layer: usize, batch: &Batch, row: usize, part: usize) -> Option<&[f32]> {
        let first = batch.first(row);
        if first == 0 {
            return None;
        }
        let Carried(parts) = match self {
            Past::Nothing | Past::Marked(_) => return None,
            Past::Own(cache) => cache.states.get(&layer)?.get(row)?,
            Past::Shared(shared) => shared.states.get(&first)?,
        };
        Some(&parts[part])
    }

    /// Keeps what the recurrence of a layer carries on.
    ///
    /// # Shapes
    /// Each of `states`: rows by what is carried.
    pub(super) fn keep_states(&mut self, layer: usize, n_rows: usize, states: &[Vec<f32>; 2]) {
        let Past::Own(cache) = self else { return };
        let of_row = |values: &Vec<f32>, row: usize| {
            let size = values.len() / n_rows.max(1);
            values[row * size..(row + 1) * size].to_vec()
        };
        let rows = (0..n_rows).map(|row| Carried([0, 1].map(|part| of_row(&states[part], row))));
        cache.coming.insert(layer, rows.collect());
    }

    /// The rows of a batch in the pieces between which states are looked at, with whether each begins its row.
    pub(super) fn pieces(&self, batch: &Batch) -> Vec<Vec<(Range<usize>, bool)>> {
        let whole = || -> Vec<(Range<usize>, bool)> {
            (0..batch.n_rows()).map(|row| (batch.span(row), batch.first(row) == 0)).collect()
        };
        let Past::Marked(marks) = self else { return vec![whole()] };
        // One row, from its beginning to the last mark.
        let mut start = 0;
        let pieces = marks.positions.iter().filter(|position| **position > 0).map(|position| {
            let piece = (start..*position, start == 0);
            start = *position;
            vec![piece]
        });
        pieces.collect()
    }

    /// Notes what is carried on where a piece ends.
    pub(super) fn mark(&mut self, end: usize, part: usize, values: &[f32]) {
        if let Past::Marked(marks) = self {
            marks.found.entry(end).or_default().0[part] = values.to_vec();
        }
    }
}
