//! The selected tokens in every row of a batch.

use easyroutine_sites::Slice;
use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::{Context, Row, Selected, Specifier, select};
use crate::error::{Error, Result};

/// The selected tokens of every row, with the specifiers that selected them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The requested specifiers.
    pub specifiers: Vec<Specifier>,
    /// One per row.
    pub rows: Vec<Selected>,
}

impl Selection {
    /// Selects tokens in every row.
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

    /// For each specifier, its columns of T: one list, or one per row if rows differ.
    pub fn mapping_index(&self) -> Map<String, Value> {
        self.by_specifier(|groups| {
            let of_row = |row: &Selected| columns(row, groups);
            let is_same = self.rows.windows(2).all(|w| of_row(&w[0]) == of_row(&w[1]));
            match self.rows.first() {
                Some(first) if is_same => json!(of_row(first)),
                _ => self.rows.iter().map(|row| json!(of_row(row))).collect(),
            }
        })
    }

    /// The same, always one list per row, so that batches of a data set can be concatenated.
    pub fn mapping_index_by_row(&self) -> Map<String, Value> {
        self.by_specifier(|groups| self.rows.iter().map(|row| json!(columns(row, groups))).collect())
    }

    /// For each specifier and each row, the indices in the row, with negatives resolved.
    pub fn token_dict(&self) -> Map<String, Value> {
        self.by_specifier(|groups| {
            let of_row = |row: &Selected| {
                columns(row, groups).into_iter().map(|column| json!(row.indices[column])).collect::<Value>()
            };
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
    /// If the specifiers differ.
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

    /// One value per specifier, made from its indices in the list: a specifier may be requested twice.
    fn by_specifier(&self, value: impl Fn(&[usize]) -> Value) -> Map<String, Value> {
        let mut places: IndexMap<String, Vec<usize>> = IndexMap::new();
        for (group, specifier) in self.specifiers.iter().enumerate() {
            places.entry(specifier.key()).or_default().push(group);
        }
        places.into_iter().map(|(key, groups)| (key, value(&groups))).collect()
    }
}

/// The columns of T for a list of groups of a row.
fn columns(row: &Selected, groups: &[usize]) -> Vec<usize> {
    groups.iter().flat_map(|group| row.groups[*group].clone()).collect()
}

fn listed(specifiers: &[Specifier]) -> String {
    specifiers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Specifier {
    /// Reads a specifier from a configuration: a string, an integer, or a pair for a range.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn from_json(value: &Value) -> Result<Self> {
        // The bounds of positions on the command line, so that all spellings have the same.
        let whole = |value: &Value| value.as_i64().filter(|n| n.abs() < 1_000_000_000);
        let pair = |list: &Vec<Value>| match list.as_slice() {
            [start, end] => Some(Specifier::Span(Slice::new(whole(start)?, whole(end)?))),
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

    /// Writes a specifier as in configurations; reads back the same.
    pub fn to_json(&self) -> Value {
        match self {
            Specifier::At(n) => json!(n),
            Specifier::Span(Slice { start: Some(start), end: Some(end), step: 1 }) => json!([start, end]),
            other => json!(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specifier_that_is_asked_for_twice_has_all_its_columns() {
        let specifiers = Specifier::parse_list("last,last-2,last,1").unwrap();
        let rows = [&[5, 6, 7, 8][..], &[5, 6, 7]];
        let rows: Vec<Row<'_>> = rows.iter().enumerate().map(|(number, ids)| Row::of(number, ids)).collect();
        let selection = Selection::of(&specifiers, &rows, Context::default()).unwrap();
        let mapping = Value::Object(selection.mapping_index());
        assert_eq!(mapping, json!({"last": [0, 2], "last-2": [1], "1": [3]}));
        let tokens = Value::Object(selection.token_dict());
        assert_eq!(tokens, json!({"last": [[3, 3], [2, 2]], "last-2": [[2], [1]], "1": [[1], [1]]}));
    }
}
