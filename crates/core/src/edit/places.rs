//! The positions of one row at which something changes.

use std::ops::Range;

use crate::error::Result;
use crate::positions::{Context, Row, Specifier, select};

/// Positions of a row with their indices in the requested order, which determine the given value for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    /// Index and position, by ascending position; a position named twice has its last index.
    named: Vec<(usize, usize)>,
    /// How many were named, including repetitions: T.
    count: usize,
    /// With `all`: from this position on, every (generated) token is included.
    open: Option<usize>,
}

impl Places {
    /// Resolves specifiers in a row.
    ///
    /// # Errors
    /// As [`select`].
    pub(super) fn resolve(specifiers: &[Specifier], row: Row<'_>, context: Context<'_>) -> Result<Places> {
        let indices = select(specifiers, row, context)?.indices;
        let open = specifiers.contains(&Specifier::All).then_some(row.ids.len());
        Ok(Places { open, ..Places::at(&indices) })
    }

    /// Single positions.
    pub(super) fn at(positions: &[usize]) -> Places {
        let mut named: Vec<(usize, usize)> = positions.iter().copied().enumerate().collect();
        named.sort_by_key(|(number, position)| (*position, std::cmp::Reverse(*number)));
        named.dedup_by_key(|(_, position)| *position);
        Places { named, count: positions.len(), open: None }
    }

    /// Every position of a row of this length, and of its continuation.
    pub(super) fn all(length: usize) -> Places {
        Places { named: (0..length).map(|i| (i, i)).collect(), count: length, open: Some(length) }
    }

    /// T.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Whether it includes generated tokens.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Indices and positions within a range, by ascending position.
    pub(super) fn within(&self, range: Range<usize>) -> impl Iterator<Item = (usize, usize)> + '_ {
        let from = self.named.partition_point(|(_, position)| *position < range.start);
        let to = self.named.partition_point(|(_, position)| *position < range.end).max(from);
        let beyond = self.open.map_or(0..0, |open| open.max(range.start)..range.end);
        let generated = beyond.map(move |position| {
            let open = self.open.unwrap_or(position);
            (self.count + position - open, position)
        });
        self.named[from..to].iter().copied().chain(generated)
    }

    /// The position at an index.
    pub(super) fn position(&self, number: usize) -> Option<usize> {
        match number.checked_sub(self.count) {
            Some(beyond) => self.open.map(|open| open + beyond),
            None => self.named.iter().find(|(n, _)| *n == number).map(|(_, position)| *position),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(places: &Places, range: Range<usize>) -> Vec<(usize, usize)> {
        places.within(range).collect()
    }

    #[test]
    fn a_position_named_twice_has_its_last_number() {
        let places = Places::at(&[5, 2, 5]);
        assert_eq!(within(&places, 0..9), [(1, 2), (2, 5)]);
        assert_eq!(within(&places, 3..5), []);
        assert_eq!((places.count(), places.position(1)), (3, Some(2)));
    }

    #[test]
    fn all_goes_on_into_what_is_generated_and_names_do_not() {
        let row = Row::of(0, &[1, 2, 3]);
        let resolved = |text| {
            let specifiers = Specifier::parse_list(text).unwrap();
            Places::resolve(&specifiers, row, Context::default()).unwrap()
        };
        assert_eq!(within(&resolved("all"), 2..5), [(2, 2), (3, 3), (4, 4)]);
        assert_eq!(resolved("all"), Places::all(3));
        assert_eq!(resolved("all").position(4), Some(4));
        assert_eq!(within(&resolved("0:3"), 2..5), [(2, 2)]);
        assert_eq!(within(&resolved("last,first"), 0..9), [(1, 0), (0, 2)]);
    }
}
