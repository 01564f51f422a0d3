//! Gradients through changes: scaled values pass on the scaled gradient, replaced values none.

use easyroutine_sites::Point;

use super::Softmax;
use super::apply::{Action, Change, Target};
use super::check::Edits;
use super::places::Places;
use crate::error::Result;
use crate::tap::{Reversible, Value};

impl Reversible for Edits {
    fn back(&mut self, point: Point, before: Option<&[f32]>, gradient: &mut Value<'_>) -> Result<()> {
        let changes = self.at.get(&point).map_or(&[][..], Vec::as_slice);
        for (number, change) in changes.iter().enumerate().rev() {
            match &change.target {
                Target::Tokens(places) => change.tokens_back(places, gradient),
                Target::Pairs { queries, keys, softmax } => {
                    if *softmax == Softmax::AfterRescaled
                        && let Some(before) = before
                    {
                        let mut square = before.to_vec();
                        changes[..number].iter().for_each(|earlier| earlier.replay(&mut square, gradient));
                        change.without_rescaling().replay(&mut square, gradient);
                        change.rescale_back(queries, Some(keys), &square, gradient);
                    }
                    change.pairs_back(queries, Some(keys), gradient);
                }
                Target::OthersThanSelf { queries, softmax } => {
                    if *softmax == Softmax::AfterRescaled
                        && let Some(before) = before
                    {
                        let mut square = before.to_vec();
                        changes[..number].iter().for_each(|earlier| earlier.replay(&mut square, gradient));
                        change.without_rescaling().replay(&mut square, gradient);
                        change.rescale_back(queries, None, &square, gradient);
                    }
                    change.pairs_back(queries, None, gradient);
                }
            }
        }
        Ok(())
    }
}

impl Change {
    /// Repeats the change on a copy.
    fn replay(&self, square: &mut Vec<f32>, shape: &Value<'_>) {
        let Some(mut value) = shape.with_pairs(square) else { return };
        self.apply(&mut value);
    }

    fn without_rescaling(&self) -> Change {
        let mut change = self.clone();
        match &mut change.target {
            Target::Pairs { softmax, .. } | Target::OthersThanSelf { softmax, .. } => {
                *softmax = Softmax::After
            }
            Target::Tokens(_) => {}
        }
        change
    }

    fn tokens_back(&self, places: &Places, gradient: &mut Value<'_>) {
        let row = self.row;
        for (number, position) in places.within(0..gradient.batch().length(row)) {
            let Some(vector) = gradient.vector_mut(row, position) else { continue };
            let taken: Vec<(usize, f32)> = self
                .columns(vector.len())
                .filter_map(|(entry, column)| {
                    let places = ([number, entry], [position, column]);
                    self.cell_back(&mut vector[column], places.0, places.1).map(|g| (column, g))
                })
                .collect();
            self.give_to_source(number, &taken, gradient);
        }
    }

    fn pairs_back(&self, queries: &Places, keys: Option<&Places>, gradient: &mut Value<'_>) {
        let row = self.row;
        for (query_number, query) in queries.within(0..gradient.batch().length(row)) {
            let chosen = self.chosen(query, keys, gradient);
            let Some(weights) = gradient.vector_mut(row, query) else { continue };
            let mut taken = Vec::new();
            for (key_number, key) in chosen {
                let cell = self.cell_back(&mut weights[key], [query_number, key_number], [query, key]);
                taken.extend(cell.map(|g| (key_number, g)));
            }
            self.give_to_source(query_number, &taken, gradient);
        }
    }

    /// The keys changed for a query: the visible ones among `keys`, or all but its own.
    fn chosen(&self, query: usize, keys: Option<&Places>, value: &Value<'_>) -> Vec<(usize, usize)> {
        let visible = value.visible(self.row, query);
        match keys {
            Some(keys) => keys.within(visible).collect(),
            None => visible.filter(|key| *key != query).map(|key| (key, key)).collect(),
        }
    }

    /// Changes one gradient; returns the part that belongs to the place the value was copied from.
    fn cell_back(&self, g: &mut f32, numbers: [usize; 2], places: [usize; 2]) -> Option<f32> {
        match &self.action {
            // Not a product: an ablated value has no gradient, whatever it was.
            Action::Scale(0.0) | Action::Set(_) => *g = 0.0,
            Action::Scale(factor) => *g *= factor,
            Action::Put(given) => {
                if self.given(given, numbers, places).is_some() {
                    *g = 0.0;
                }
            }
            Action::Add(..) => {}
            Action::Copy { .. } => return Some(std::mem::replace(g, 0.0)),
        }
        None
    }

    /// Adds the removed gradient to the place that the value was copied from.
    fn give_to_source(&self, number: usize, taken: &[(usize, f32)], gradient: &mut Value<'_>) {
        let Action::Copy { row, target } = &self.action else { return };
        let Some(vector) = target.position(number).and_then(|at| gradient.vector_mut(*row, at)) else {
            return;
        };
        for (column, g) in taken {
            if let Some(sum) = target.column(*column).and_then(|column| vector.get_mut(column)) {
                *sum += g;
            }
        }
    }

    /// Rows divided by their sums: with r = w / s, (g - Σ g r) / s. `square` is w.
    fn rescale_back(
        &self,
        queries: &Places,
        keys: Option<&Places>,
        square: &[f32],
        gradient: &mut Value<'_>,
    ) {
        let row = self.row;
        let mut square = square.to_vec();
        for (_, query) in queries.within(0..gradient.batch().length(row)) {
            if self.chosen(query, keys, gradient).is_empty() {
                continue;
            }
            let visible = gradient.visible(row, query);
            let weights: Vec<f64> = {
                let Some(value) = gradient.with_pairs(&mut square) else { return };
                let Some(weights) = value.vector(row, query) else { continue };
                weights[visible.clone()].iter().map(|x| f64::from(*x)).collect()
            };
            let sum: f64 = weights.iter().sum();
            if sum == 0.0 {
                continue;
            }
            let Some(g) = gradient.vector_mut(row, query) else { continue };
            let g = &mut g[visible];
            let along: f64 = g.iter().zip(&weights).map(|(g, w)| f64::from(*g) * w / sum).sum();
            g.iter_mut().for_each(|g| *g = ((f64::from(*g) - along) / sum) as f32);
        }
    }
}
