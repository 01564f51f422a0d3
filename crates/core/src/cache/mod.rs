//! What was kept from a run: activations by key, with the tokens that they belong to.

mod aggregate;
mod capture;
mod kept;
mod key;
mod memory;
mod reduce;
mod running;
#[cfg(test)]
mod tests;

use std::ops::Add;

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::positions::Selection;
pub use aggregate::{Aggregation, Aggregations, Batches, CustomAggregation};
pub use capture::Capture;
pub use kept::{Kept, Numbers};
pub use key::{Key, Statistic};
pub use memory::{Grouping, parse_bytes, readable};
pub use reduce::{Axis, Examples, PatternAverage, Reduction};
pub use running::RunningMean;

/// Values by key: activations in the order of the forward pass, then anything added.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ActivationCache {
    entries: IndexMap<Key, Entry>,
    /// The tokens that the axis T counts; for patterns the columns.
    pub selection: Selection,
    /// The rows of patterns, if other tokens were requested than for the columns.
    pub pattern_rows: Option<Selection>,
    /// Whether T counts tokens or groups of them.
    pub axis: Axis,
    /// A description of the run: model, positions, configuration.
    pub metadata: Map<String, Value>,
}

/// One value of a cache.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The value.
    pub content: Content,
    /// Further information, such as its axes.
    pub info: Option<String>,
}

/// The kinds of values in a cache.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// An activation.
    Activation(Kept),
    /// Anything else that belongs to the rows, such as labels.
    Json(Value),
    /// One value per joined cache.
    List(Vec<Content>),
}

impl ActivationCache {
    /// The activation of a key.
    pub fn get(&self, key: impl Into<Key>) -> Option<&Kept> {
        match &self.entry(key)?.content {
            Content::Activation(kept) => Some(kept),
            _ => None,
        }
    }

    /// The value of a key, of any kind.
    pub fn entry(&self, key: impl Into<Key>) -> Option<&Entry> {
        self.entries.get(&key.into())
    }

    /// Whether there is a value of this key.
    pub fn contains(&self, key: impl Into<Key>) -> bool {
        self.entries.contains_key(&key.into())
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.entries.keys()
    }

    /// Keys and activations, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Kept)> {
        self.entries.iter().filter_map(|(key, entry)| match &entry.content {
            Content::Activation(kept) => Some((key, kept)),
            _ => None,
        })
    }

    /// Keys and values of every kind, in order.
    pub fn items(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    /// Keys and values of every kind, in order, by value.
    pub fn into_items(self) -> impl Iterator<Item = (Key, Entry)> {
        self.entries.into_iter()
    }

    /// Whether any activation has a NaN.
    pub fn has_nan(&self) -> bool {
        self.iter().any(|(_, kept)| kept.has_nan())
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of rows in the selection, B.
    pub fn n_rows(&self) -> usize {
        self.selection.rows.len()
    }

    /// Sets a value, in place if the key exists; returns the replaced value.
    pub fn insert(&mut self, key: impl Into<Key>, content: impl Into<Content>) -> Option<Entry> {
        self.entries.insert(key.into(), Entry { content: content.into(), info: None })
    }

    /// Sets a value with further information.
    pub fn insert_with_info(
        &mut self,
        key: impl Into<Key>,
        content: impl Into<Content>,
        info: impl Into<String>,
    ) -> Option<Entry> {
        let entry = Entry { content: content.into(), info: Some(info.into()) };
        self.entries.insert(key.into(), entry)
    }

    /// Removes and returns a value; the others keep their order.
    pub fn remove(&mut self, key: impl Into<Key>) -> Option<Entry> {
        self.entries.shift_remove(&key.into())
    }

    /// Removes and returns an activation; the others keep their order.
    pub(crate) fn take(&mut self, key: impl Into<Key>) -> Option<Kept> {
        match self.remove(key)?.content {
            Content::Activation(kept) => Some(kept),
            Content::Json(_) | Content::List(_) => None,
        }
    }

    /// Adopts all values of another cache, which replace those under the same key, and its selection and metadata, if
    /// it has any.
    ///
    /// # Errors
    /// If both have selections and these differ: no table of positions would then be right for all keys.
    pub fn update(&mut self, other: ActivationCache) -> Result<()> {
        if other.n_rows() > 0 && self.n_rows() > 0 && !self.holds_the_tokens_of(&other) {
            return Err(Error::input(
                "the caches hold different tokens, so their keys do not belong together",
            )
            .hint("to put the rows of one behind those of the other, use `cat`"));
        }
        if self.n_rows() == 0 {
            (self.selection, self.pattern_rows, self.axis) =
                (other.selection, other.pattern_rows, other.axis);
        }
        self.entries.extend(other.entries);
        self.metadata.extend(other.metadata);
        Ok(())
    }

    /// Appends the rows of another cache, with the default aggregations. For many caches use [`Batches`], which joins
    /// each key once.
    ///
    /// # Errors
    /// As [`Batches::push`] and [`Batches::finish`].
    pub fn cat(self, other: ActivationCache) -> Result<ActivationCache> {
        let mut batches = Batches::new(Aggregations::default());
        batches.push(self)?;
        batches.push(other)?;
        batches.finish()
    }

    /// Whether every row has the same T.
    pub fn is_rectangular(&self) -> bool {
        let rows = self.pattern_rows.as_ref();
        self.axis == Axis::Groups
            || self.selection.is_rectangular() && rows.is_none_or(Selection::is_rectangular)
    }

    /// For each specifier, its columns of T: one list, or one per row if rows differ. Averages have one column per
    /// specifier, which `info` records.
    pub fn mapping_index(&self) -> Map<String, Value> {
        mapping_index(&self.selection, self.axis)
    }

    /// The same for the rows of patterns, if these have their own tokens.
    pub fn mapping_index_rows(&self) -> Option<Map<String, Value>> {
        self.pattern_rows.as_ref().map(|rows| mapping_index(rows, self.axis))
    }

    /// For each specifier and each row, the indices in the row, with negatives resolved.
    pub fn token_dict(&self) -> Map<String, Value> {
        self.selection.token_dict()
    }

    /// The values of a key, divided by specifier.
    ///
    /// # Shapes
    /// `[B, t, ...]`, t the specifier's positions; a pattern is divided by rows.
    ///
    /// # Errors
    /// If the key has no activation, or its first axis is not T.
    pub fn map_to_dict(&self, key: impl Into<Key>) -> Result<Vec<(String, Kept)>> {
        let key = &key.into();
        let kept = self.get(key).ok_or_else(|| self.lacks(key))?;
        let is_pattern = key.is_pairwise();
        let selection = self.pattern_rows.as_ref().filter(|_| is_pattern).unwrap_or(&self.selection);
        let t = |row: usize| match self.axis {
            Axis::Groups => selection.specifiers.len(),
            Axis::Tokens => selection.rows[row].indices.len(),
        };
        let fits = kept.row_shapes.len() == selection.rows.len()
            && kept.row_shapes.iter().enumerate().all(|(row, shape)| shape.first() == Some(&t(row)));
        if !fits {
            return Err(Error::input(format!("`{key}` has no axis of positions to cut")));
        }
        let cut = |group: usize| {
            kept.at(|row| match self.axis {
                Axis::Groups => group..group + 1,
                Axis::Tokens => selection.rows[row].groups[group].clone(),
            })
        };
        Ok(selection.specifiers.iter().enumerate().map(|(i, s)| (s.key(), cut(i))).collect())
    }

    /// The rows in another order: `order[i]` becomes row i. Values that do not belong to single rows are unchanged.
    ///
    /// # Errors
    /// If a row does not exist.
    pub fn in_order(mut self, order: &[usize]) -> Result<ActivationCache> {
        let n_rows = self.n_rows();
        if let Some(beyond) = order.iter().find(|row| **row >= n_rows) {
            return Err(Error::input(format!("the cache has {n_rows} rows, so there is no row {beyond}")));
        }
        for entry in self.entries.values_mut() {
            if let Content::Activation(kept) = &mut entry.content
                && kept.row_shapes.len() == n_rows
            {
                *kept = kept.in_order(order);
            }
        }
        for selection in [Some(&mut self.selection), self.pattern_rows.as_mut()].into_iter().flatten() {
            selection.rows = order.iter().map(|row| selection.rows[*row].clone()).collect();
        }
        Ok(self)
    }

    fn holds_the_tokens_of(&self, other: &ActivationCache) -> bool {
        self.selection == other.selection
            && self.axis == other.axis
            && (self.pattern_rows == other.pattern_rows || other.pattern_rows.is_none())
    }

    fn lacks(&self, key: &Key) -> Error {
        let held: Vec<String> = self.keys().take(8).map(Key::to_string).collect();
        Error::input(format!("the cache holds no activation `{key}`; it holds {}", held.join(", ")))
    }
}

impl From<Kept> for Content {
    fn from(kept: Kept) -> Self {
        Content::Activation(kept)
    }
}

impl From<Value> for Content {
    fn from(value: Value) -> Self {
        Content::Json(value)
    }
}

/// Both caches in one, with the right one's values taking precedence: [`ActivationCache::update`].
impl Add for ActivationCache {
    type Output = Result<ActivationCache>;

    fn add(mut self, other: ActivationCache) -> Self::Output {
        self.update(other)?;
        Ok(self)
    }
}

fn mapping_index(selection: &Selection, axis: Axis) -> Map<String, Value> {
    match axis {
        Axis::Tokens => selection.mapping_index(),
        Axis::Groups => {
            let mut map = Map::new();
            for (column, specifier) in selection.specifiers.iter().enumerate() {
                map.entry(specifier.key()).or_insert_with(|| json!([column]));
            }
            map.insert("info".to_owned(), json!("avg"));
            map
        }
    }
}
