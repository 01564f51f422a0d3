//! Metadata values: JSON, plus tensors, which JSON can't hold.

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result};
use crate::hash;
use crate::tensor::Tensor;

/// Limit on nesting: deeper values could not be read back.
const DEEPEST: usize = 64;

/// A value that may contain tensors at any depth.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// Without tensors.
    Json(Json),
    /// A tensor, stored in a shard under `aux/`; the metadata holds its checksum.
    Tensor(Tensor<'a>),
    /// A list; a tuple is one too.
    List(Vec<Value<'a>>),
    /// Named values.
    Map(Vec<(String, Value<'a>)>),
}

impl From<Json> for Value<'_> {
    fn from(json: Json) -> Self {
        Value::Json(json)
    }
}

impl Value<'_> {
    /// The value as JSON; a tensor becomes `{"_tensor": "aux/PLACE", "dtype", "shape", "xxh3"}`.
    ///
    /// # Errors
    /// If values are nested too deep.
    pub fn to_json(&self, place: &str) -> Result<Json> {
        self.split(place).map(|(json, _)| json)
    }

    /// The value as JSON, and its tensors under the names used there.
    pub(crate) fn split(&self, place: &str) -> Result<(Json, Vec<Tensor<'_>>)> {
        let mut tensors = Vec::new();
        let json = self.split_into(place, 0, &mut tensors)?;
        Ok((json, tensors))
    }

    fn split_into<'a>(&'a self, place: &str, depth: usize, tensors: &mut Vec<Tensor<'a>>) -> Result<Json> {
        if depth > DEEPEST {
            return Err(Error::input(format!("`{place}` is nested more than {DEEPEST} deep")));
        }
        Ok(match self {
            Value::Json(json) => shallow(json, DEEPEST - depth)
                .then(|| json.clone())
                .ok_or_else(|| Error::input(format!("`{place}` is nested more than {DEEPEST} deep")))?,
            Value::Tensor(tensor) => {
                let name = format!("aux/{place}");
                let about = json!({
                    "_tensor": name,
                    "dtype": tensor.dtype.to_string(),
                    "shape": tensor.shape,
                    "xxh3": hash::of(&tensor.bytes),
                });
                tensors.push(Tensor { name, ..tensor.borrowed() });
                about
            }
            Value::List(values) => values
                .iter()
                .enumerate()
                .map(|(i, value)| value.split_into(&format!("{place}.{i}"), depth + 1, tensors))
                .collect::<Result<Json>>()?,
            Value::Map(values) => {
                let mut map = Map::new();
                for (key, value) in values {
                    map.insert(key.clone(), value.split_into(&format!("{place}.{key}"), depth + 1, tensors)?);
                }
                Json::Object(map)
            }
        })
    }
}

fn shallow(json: &Json, left: usize) -> bool {
    match json {
        Json::Array(values) => left > 0 && values.iter().all(|value| shallow(value, left - 1)),
        Json::Object(values) => left > 0 && values.values().all(|value| shallow(value, left - 1)),
        _ => true,
    }
}
