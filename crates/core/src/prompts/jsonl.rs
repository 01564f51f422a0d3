//! One record of a JSONL file.

use serde_json::{Map, Value};

use super::Prompt;
use crate::error::{Error, ErrorKind, Result};

/// The prompt of the record on line `number`.
pub(super) fn prompt(number: usize, line: &str, field: &str) -> Result<Prompt> {
    let wrong = |what: String| Error::new(ErrorKind::Format, format!("line {number}: {what}"));
    let record: Map<String, Value> =
        serde_json::from_str(line).map_err(|e| wrong(format!("no JSON object: {e}")))?;
    let Some(value) = record.get(field) else {
        let names: Vec<String> = record.keys().take(8).map(|name| format!("`{name}`")).collect();
        return Err(wrong(format!("there is no field `{field}`; there are {}", names.join(", ")))
            .hint("say which holds the prompts: --field NAME"));
    };
    let ids = || {
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        value.as_array()?.iter().map(id).collect::<Option<Vec<u32>>>()
    };
    match value {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        _ => ids().map(Prompt::Ids).ok_or_else(|| {
            let shown: String = value.to_string().chars().take(60).collect();
            wrong(format!("`{field}` is neither a text nor a list of token ids: {shown}"))
        }),
    }
}
