//! Fields of each row of a data set besides its text, kept with its activations.

use std::collections::BTreeSet;
use std::ops::Range;

use easyroutine::Error;
use easyroutine::sites::Point;
use serde_json::{Map, Value, json};

/// A named field with one value per row.
pub type Field = (String, Vec<Value>);

/// Names of a run's own values.
const TAKEN: &[&str] = &["mapping_index", "mapping_index_rows", "token_dict", "token_dict_rows", "python"];

/// Distinct values of a field that a record lists; for more, it only counts them.
const LISTED: usize = 100;

/// Refuses fields that cannot be kept with the activations of `n_examples` rows.
///
/// # Errors
/// If a name is empty, that of a kept activation or of a value that every run has, or the numbers of values and rows
/// differ.
pub(super) fn check(fields: &[Field], n_examples: usize, points: &BTreeSet<Point>) -> Result<(), Error> {
    let is_kept = |name: &str| name.parse::<Point>().is_ok_and(|point| points.contains(&point));
    for (number, (name, values)) in fields.iter().enumerate() {
        if name.is_empty() || TAKEN.contains(&name.as_str()) || is_kept(name) {
            return Err(Error::input(format!(
                "a field cannot be called `{name}`: a run has that name for something else"
            ))
            .hint(format!(
                "give the field another name in the data set, or leave it out of those that are kept; besides the \
                 activations of this run, taken are {}",
                TAKEN.join(", ")
            )));
        }
        if fields[..number].iter().any(|(other, _)| other == name) {
            return Err(Error::input(format!("the field `{name}` is named twice")));
        }
        if values.len() != n_examples {
            return Err(Error::input(format!(
                "the field `{name}` has {} values, and there are {n_examples} rows",
                values.len()
            )));
        }
    }
    Ok(())
}

/// The values of a range of rows, as kept in a unit of a run.
pub(super) fn of_rows(fields: &[Field], rows: Range<usize>) -> Map<String, Value> {
    fields.iter().map(|(name, values)| (name.clone(), Value::from(&values[rows.clone()]))).collect()
}

/// A record's summary of kept fields, by which queries find runs: each field's distinct values in order of appearance,
/// or their number. `fields.label = 'positive'` is a query condition; it reads the rows themselves if the record lists
/// no values.
pub fn summary(fields: &[Field]) -> Value {
    let of_field = |values: &[Value]| {
        let mut different: Vec<&Value> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for value in values {
            if seen.insert(value.to_string()) {
                different.push(value);
            }
        }
        if different.len() > LISTED { json!({"distinct": different.len()}) } else { json!(different) }
    };
    fields.iter().map(|(name, values)| (name.clone(), of_field(values))).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, values: Value) -> Field {
        (name.to_owned(), values.as_array().cloned().unwrap_or_default())
    }

    #[test]
    fn a_record_lists_different_values_or_says_how_many_there_are() {
        let many: Vec<usize> = (0..101).collect();
        let fields = [field("label", json!(["a", 1, "a", null, 1.0])), field("id", json!(many))];
        assert_eq!(summary(&fields), json!({"label": ["a", 1, null, 1.0], "id": {"distinct": 101}}));
    }

    #[test]
    fn a_field_has_a_name_of_its_own_and_a_value_a_row() {
        let points = BTreeSet::from(["logits".parse().unwrap()]);
        assert!(check(&[field("label", json!([1, 2]))], 2, &points).is_ok());
        // Classifier outputs are called so, and so are columns of data sets.
        assert!(check(&[field("score", json!([1, 2]))], 2, &points).is_ok());
        for (name, values) in
            [("", json!([1])), ("logits", json!([1])), ("token_dict", json!([1])), ("x", json!([1, 2]))]
        {
            assert!(check(&[field(name, values)], 1, &points).is_err(), "{name}");
        }
        assert!(check(&[field("x", json!([1])), field("x", json!([1]))], 1, &points).is_err());
    }
}
