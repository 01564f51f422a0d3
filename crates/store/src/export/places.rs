//! Finds, from a run's values, which tokens of their prompts its rows are.

use serde_json::{Map, Value};

/// `mapping_index` and `token_dict`: for each specifier, its columns and the tokens they are.
#[derive(Debug)]
pub(super) struct Places<'a> {
    columns: &'a Map<String, Value>,
    tokens: &'a Map<String, Value>,
}

impl<'a> Places<'a> {
    /// `None` if the values do not say: other data, or averages, which are not tokens.
    pub(super) fn new(values: &'a Map<String, Value>) -> Option<Self> {
        let map = |key: &str| values.get(key).and_then(Value::as_object);
        let (columns, tokens) = (map("mapping_index")?, map("token_dict")?);
        let is_averaged = columns.get("info").is_some_and(|info| info == "avg");
        (!is_averaged).then_some(Places { columns, tokens })
    }

    /// The token of each column of an example.
    pub(super) fn of(&self, example: usize, n_examples: usize, n_columns: usize) -> Vec<Option<i64>> {
        let mut found = vec![None; n_columns];
        for (specifier, columns) in self.columns {
            let columns = of_example(columns, example, true);
            let tokens = self.tokens.get(specifier).map(|t| of_example(t, example, n_examples == 1));
            for (column, token) in columns.iter().zip(tokens.into_iter().flatten()) {
                let place = column.as_u64().and_then(|column| found.get_mut(usize::try_from(column).ok()?));
                if let (Some(place), Some(token)) = (place, token.as_i64()) {
                    *place = Some(token);
                }
            }
        }
        found
    }
}

/// The list of an example: from a list of lists, or, if `is_for_all`, the only one.
fn of_example(lists: &Value, example: usize, is_for_all: bool) -> &[Value] {
    let all = lists.as_array().map_or(&[][..], Vec::as_slice);
    match all.first() {
        Some(Value::Array(_)) => all.get(example).and_then(Value::as_array).map_or(&[], Vec::as_slice),
        Some(_) if is_for_all => all,
        _ => &[],
    }
}
