//! Applies changes to reported activations.

use std::sync::Arc;

use easyroutine_sites::Point;

use super::Softmax;
use super::check::Edits;
use super::places::Places;
use super::tensor::Spread;
use crate::error::Result;
use crate::tap::{Tap, Value, Want};

/// The change to one row at one point.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) row: usize,
    pub(super) target: Target,
    /// The changed entries of vectors, ascending, or `None` for all.
    pub(super) entries: Option<Arc<[usize]>>,
    pub(super) action: Action,
}

/// The changed part of a row.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// Whole vectors.
    Tokens(Places),
    /// Weights from queries to keys.
    Pairs { queries: Places, keys: Places, softmax: Softmax },
    /// Weights from queries to all keys except their own.
    OthersThanSelf { queries: Places, softmax: Softmax },
}

/// The change itself.
#[derive(Debug, Clone)]
pub(super) enum Action {
    Scale(f32),
    Set(f32),
    Put(Given),
    Add(f32, Given),
    /// Takes the values of another row, at its places with the same indices.
    Copy {
        row: usize,
        target: Target,
    },
}

/// Given values, and the place of each.
#[derive(Debug, Clone)]
pub(super) enum Given {
    /// By row and the indices of the places.
    ByNumber(Spread),
    /// By row, query and key.
    ByPosition(Spread),
}

impl Tap for Edits {
    fn wants(&self, point: Point) -> Want {
        if self.at.contains_key(&point) { Want::Edit } else { Want::Nothing }
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        self.at.get(&point).into_iter().flatten().for_each(|change| change.apply(value));
        Ok(())
    }
}

impl Target {
    /// Whether any of its queries, in a row of this length or the token after it, can see any of its keys.
    pub(super) fn reaches(&self, length: usize, window: usize) -> bool {
        let Target::Pairs { queries, keys, .. } = self else { return true };
        let sees = |query: usize| keys.within((query + 1).saturating_sub(window)..query + 1).next().is_some();
        queries.within(0..length + 1).any(|(_, query)| sees(query))
    }

    /// Numbers of its places.
    pub(super) fn counts(&self) -> [usize; 2] {
        match self {
            Target::Tokens(places) => [places.count(), 0],
            Target::Pairs { queries, keys, .. } => [queries.count(), keys.count()],
            Target::OthersThanSelf { queries, .. } => [queries.count(), 0],
        }
    }

    /// Whether it includes generated tokens.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Target::Tokens(places) => places.is_open(),
            Target::Pairs { queries, keys, .. } => queries.is_open() || keys.is_open(),
            Target::OthersThanSelf { .. } => true,
        }
    }

    /// The vector position at an index.
    pub(super) fn position(&self, number: usize) -> Option<usize> {
        match self {
            Target::Tokens(places) => places.position(number),
            Target::Pairs { queries, .. } | Target::OthersThanSelf { queries, .. } => {
                queries.position(number)
            }
        }
    }

    /// The vector column at an index.
    pub(super) fn column(&self, number: usize) -> Option<usize> {
        match self {
            Target::Pairs { keys, .. } => keys.position(number),
            Target::Tokens(_) | Target::OthersThanSelf { .. } => Some(number),
        }
    }
}

impl Change {
    pub(super) fn apply(&self, value: &mut Value<'_>) {
        match &self.target {
            Target::Tokens(places) => self.tokens(places, value),
            Target::Pairs { queries, keys, softmax } => self.pairs(queries, Some(keys), *softmax, value),
            Target::OthersThanSelf { queries, softmax } => self.pairs(queries, None, *softmax, value),
        }
    }

    fn tokens(&self, places: &Places, value: &mut Value<'_>) {
        let row = self.row;
        let run = value.batch().first(row)..value.batch().length(row);
        for (number, position) in places.within(run) {
            let source = self.source(value, number);
            let Some(vector) = value.vector_mut(row, position) else { continue };
            for (entry, column) in self.columns(vector.len()) {
                let x = &mut vector[column];
                if let Some(new) = self.changed(*x, [number, entry], [position, column], source.as_deref()) {
                    *x = new;
                }
            }
        }
    }

    /// The changed columns of a vector, numbered.
    pub(super) fn columns(&self, width: usize) -> impl Iterator<Item = (usize, usize)> {
        let count = self.entries.as_ref().map_or(width, |entries| entries.len());
        let column = |entry: usize| self.entries.as_ref().map_or(entry, |entries| entries[entry]);
        (0..count).map(move |entry| (entry, column(entry))).filter(move |(_, column)| *column < width)
    }

    /// Changes weights from queries to `keys`; `None` means all keys but their own.
    fn pairs(&self, queries: &Places, keys: Option<&Places>, softmax: Softmax, value: &mut Value<'_>) {
        let row = self.row;
        let run = value.batch().first(row)..value.batch().length(row);
        for (query_number, query) in queries.within(run) {
            // Hidden keys are skipped, so that no edit lets a token see a later one.
            let visible = value.visible(row, query);
            let chosen: Vec<(usize, usize)> = match keys {
                Some(keys) => keys.within(visible.clone()).collect(),
                None => visible.clone().filter(|key| *key != query).map(|key| (key, key)).collect(),
            };
            if chosen.is_empty() {
                continue;
            }
            let source = self.source(value, query_number);
            let Some(weights) = value.vector_mut(row, query) else { continue };
            for (key_number, key) in chosen {
                let x = &mut weights[key];
                let (numbers, places) = ([query_number, key_number], [query, key]);
                let new = match (&self.action, softmax) {
                    (Action::Scale(0.0), Softmax::Before) => Some(f32::NEG_INFINITY),
                    // Knocked-out scores stay knocked out, even under a negative factor.
                    (Action::Scale(_), Softmax::Before) if *x == f32::NEG_INFINITY => None,
                    _ => self.changed(*x, numbers, places, source.as_deref()),
                };
                if let Some(new) = new {
                    *x = new;
                }
            }
            if softmax == Softmax::AfterRescaled {
                rescale(&mut weights[visible]);
            }
        }
    }

    /// A value after the change; `None` if no value was given for it.
    fn changed(
        &self,
        x: f32,
        numbers: [usize; 2],
        places: [usize; 2],
        source: Option<&[f32]>,
    ) -> Option<f32> {
        match &self.action {
            // Not a product: an ablated infinity or NaN is 0 too.
            Action::Scale(0.0) => Some(0.0),
            Action::Scale(factor) => Some(x * factor),
            Action::Set(number) => Some(*number),
            Action::Put(given) => self.given(given, numbers, places),
            Action::Add(factor, given) => self.given(given, numbers, places).map(|value| x + factor * value),
            Action::Copy { target: Target::Tokens(_), .. } => source?.get(places[1]).copied(),
            Action::Copy { target, .. } => source?.get(target.column(numbers[1])?).copied(),
        }
    }

    /// The value given for a place.
    pub(super) fn given(&self, given: &Given, numbers: [usize; 2], places: [usize; 2]) -> Option<f32> {
        match given {
            Given::ByNumber(spread) => spread.at([self.row, numbers[0], numbers[1]]),
            Given::ByPosition(spread) => spread.at([self.row, places[0], places[1]]),
        }
    }

    /// A copy of the other row's vector that values are taken from.
    fn source(&self, value: &Value<'_>, number: usize) -> Option<Vec<f32>> {
        let Action::Copy { row, target } = &self.action else { return None };
        value.vector(*row, target.position(number)?).map(<[f32]>::to_vec)
    }
}

/// Divides weights by their sum; if the sum is zero they stay unchanged.
fn rescale(weights: &mut [f32]) {
    let sum: f64 = weights.iter().map(|x| f64::from(*x)).sum();
    if sum != 0.0 {
        weights.iter_mut().for_each(|x| *x = (f64::from(*x) / sum) as f32);
    }
}
