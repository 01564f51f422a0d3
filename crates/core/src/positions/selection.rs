//! The tokens that were selected in every row of a batch.

use serde_json::{Map, Value, json};

use super::{Context, Row, Selected, Specifier, select};
use crate::error::{Error, Result};

/// The selected tokens of every row, with the specifiers that selected them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// What was asked for.
    pub specifiers: Vec<Specifier>,
    /// One a row.
    pub rows: Vec<Selected>,
}

impl Selection {
    /// Selects in every row.
    ///
    /// # Errors
    /// As [`select`].
    pub fn of(specifiers: &[Specifier], rows: &[Row<'_>], context: Context<'_>) -> Result<Self> {
        let selected = rows.iter().map(|row| select(specifiers, *row, context)).collect::<Result<_>>()?;
        Ok(Selection { specifiers: specifiers.to_vec(), rows: selected })
    }

    /// Every token of rows of these lengths.
    pub fn all(lengths: impl IntoIterator<Item = usize>) -> Self {
        let whole = |length: usize| Selected {
            indices: (0..length).collect(),
            groups: std::iter::once(0..length).collect(),
        };
        Selection { specifiers: vec![Specifier::All], rows: lengths.into_iter().map(whole).collect() }
    }

    /// For each specifier its columns of T: one list, or one a row where rows differ.
    pub fn mapping_index(&self) -> Map<String, Value> {
        self.by_specifier(|group| {
            let of_row = |row: &Selected| row.groups[group].clone().collect::<Vec<_>>();
            let is_same = self.rows.windows(2).all(|w| w[0].groups[group] == w[1].groups[group]);
            match self.rows.first() {
                Some(first) if is_same => json!(of_row(first)),
                _ => self.rows.iter().map(|row| json!(of_row(row))).collect(),
            }
        })
    }

    /// For each specifier and each row the indices in the row, negatives resolved.
    pub fn token_dict(&self) -> Map<String, Value> {
        self.by_specifier(|group| {
            let of_row = |row: &Selected| json!(row.indices[row.groups[group].clone()]);
            self.rows.iter().map(of_row).collect()
        })
    }

    /// Whether every row has the same T.
    pub fn is_rectangular(&self) -> bool {
        self.rows.windows(2).all(|w| w[0].indices.len() == w[1].indices.len())
    }

    /// Adds the rows of another batch.
    ///
    /// # Errors
    /// The other's specifiers are not these.
    pub fn append(&mut self, other: Selection) -> Result<()> {
        if self.specifiers != other.specifiers {
            return Err(Error::input(format!(
                "the caches were taken at different positions: {} and {}",
                listed(&self.specifiers),
                listed(&other.specifiers)
            )));
        }
        self.rows.extend(other.rows);
        Ok(())
    }

    /// One value a specifier. A specifier that was asked for twice has one value, that of its first place.
    fn by_specifier(&self, value: impl Fn(usize) -> Value) -> Map<String, Value> {
        let mut map = Map::new();
        for (group, specifier) in self.specifiers.iter().enumerate() {
            map.entry(specifier.key()).or_insert_with(|| value(group));
        }
        map
    }
}

fn listed(specifiers: &[Specifier]) -> String {
    specifiers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Specifier {
    /// Reads a specifier as configurations write it: a string, a whole number, or a pair for a range.
    ///
    /// # Errors
    /// Anything else.
    pub fn from_json(value: &Value) -> Result<Self> {
        // The bounds of a position on the command line, so that every way of writing one has the same.
        let whole = |value: &Value| value.as_i64().filter(|n| n.abs() < 1_000_000_000);
        let pair = |list: &Vec<Value>| match list.as_slice() {
            [start, end] => Some(Specifier::Span(whole(start)?, whole(end)?)),
            _ => None,
        };
        match value {
            Value::String(text) => return text.parse(),
            Value::Number(_) => whole(value).map(Specifier::At),
            Value::Array(list) => pair(list),
            _ => None,
        }
        .ok_or_else(|| {
            Error::input(format!("`{value}` names no token positions"))
                .hint("a position is a string such as \"last\", a whole number, or a pair [start, end]")
        })
    }

    /// Writes a specifier as configurations do; reads back to the same.
    pub fn to_json(&self) -> Value {
        match self {
            Specifier::At(n) => json!(n),
            Specifier::Span(start, end) => json!([start, end]),
            other => json!(other.to_string()),
        }
    }
}
