//! One record of a JSONL file.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::{NAME_IT, Place, Prompt, ReadOptions, no_field};
use crate::error::Result;

/// The prompt of a record; `None` if it is null.
pub(super) fn prompt(place: Place, line: &str, options: &ReadOptions) -> Result<Option<Prompt>> {
    let record = record(line, &options.field).or_else(|e| match without_nan(line, "null") {
        Some(line) => record(&line, &options.field),
        None => Err(e),
    });
    let record = record.map_err(|e| place.wrong(format!("not a JSON object: {e}")))?;
    let Some(value) = record.value else {
        return Err(place.wrong(no_field(&options.field, "field", &record.names)).hint(NAME_IT));
    };
    let ids = || {
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        value.as_array()?.iter().map(id).collect::<Option<Vec<u32>>>()
    };
    let messages = || {
        let messages: Vec<_> = value.as_array()?.iter().map(Value::as_object).collect::<Option<_>>()?;
        let has_role = |message: &Map<String, Value>| message.get("role").is_some_and(Value::is_string);
        (!messages.is_empty()).then(|| match messages.iter().position(|message| !has_role(message)) {
            Some(number) => {
                Err(place.wrong(format!("message {number} of `{}` has no `role`", options.field)))
            }
            None => Ok(messages.into_iter().cloned().collect()),
        })
    };
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(Prompt::Text(text))),
        _ => match (ids(), messages()) {
            (Some(ids), _) => Ok(Some(Prompt::Ids(ids))),
            (None, Some(messages)) => messages.map(|messages| Some(Prompt::Messages(messages))),
            (None, None) => {
                let shown: String = value.to_string().chars().take(60).collect();
                let what = "is neither a text nor a list of token ids or messages";
                Err(place.wrong(format!("`{}` {what}: {shown}", options.field)))
            }
        },
    }
}

/// The requested field of an object, and the first names of others; anything else takes no memory.
#[derive(Default)]
struct Record {
    value: Option<Value>,
    names: Vec<String>,
}

fn record(line: &str, field: &str) -> serde_json::Result<Record> {
    let mut reader = serde_json::Deserializer::from_str(line);
    let record = reader.deserialize_map(Wanted(field))?;
    reader.end()?;
    Ok(record)
}

struct Wanted<'a>(&'a str);

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Record;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
        let mut record = Record::default();
        while let Some(name) = map.next_key::<String>()? {
            if name == self.0 {
                record.value = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            if record.names.len() < 8 {
                record.names.push(name);
            }
        }
        Ok(record)
    }
}

/// The line with `instead` for `NaN`, `Infinity` and `-Infinity`, which Python writes but JSON lacks; `None` if it has
/// none of them.
pub(super) fn without_nan(line: &str, instead: &str) -> Option<String> {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    let mut is_in_text = false;
    let mut found = false;
    while let Some(c) = rest.chars().next() {
        let word =
            ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| !is_in_text && rest.starts_with(word));
        let length = match (word, c) {
            (Some(word), _) => {
                found = true;
                out.push_str(instead);
                rest = &rest[word.len()..];
                continue;
            }
            (None, '\\') if is_in_text => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => c.len_utf8(),
        };
        is_in_text ^= c == '"';
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    found.then_some(out)
}
