//! Pairs of prompts: JSON lines of `clean`, `corrupt`, `answer`, `against`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::{Format, Place, Prompt, ReadOptions, lines, too_long};
use crate::error::{Error, ErrorKind, Result};

/// A pair of prompts with different answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Its number in the file, from 0.
    pub row: usize,
    /// Its line in the file, from 1.
    pub line: usize,
    /// The prompt that leads to the answer.
    pub clean: Prompt,
    /// The prompt that does not.
    pub corrupt: Prompt,
    /// The token that a metric measures.
    pub answer: Option<TokenName>,
    /// The token that it is compared with.
    pub against: Option<TokenName>,
    /// Other keys of the line, which are not read, in alphabetical order; [`MOST_OTHERS`] at most.
    pub others: Vec<String>,
}

/// Keys of a pair that are read.
const KEYS: [&str; 4] = ["clean", "corrupt", "answer", "against"];
/// How many of its other keys a pair names.
pub const MOST_OTHERS: usize = 8;

/// A token as named in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenName {
    /// By its exact text.
    Text(String),
    /// By its id.
    Id(u32),
}

/// Reads the pairs of a file one by one until `visit` returns false.
///
/// # Errors
/// The error of `visit`. Also if the file cannot be read or is not JSON lines, a line is not an object or too long, a
/// prompt is missing or empty, a token is neither text nor an id, or there is no pair.
pub fn each_pair(path: &Path, options: &ReadOptions, visit: impl FnMut(Pair) -> Result<bool>) -> Result<()> {
    let at = |e: Error| e.in_file(path);
    if Format::of(path)? != Format::Jsonl {
        return Err(at(Error::input("pairs of prompts are read from JSON lines")
            .hint("write one object a line into a .jsonl file: {\"clean\": …, \"corrupt\": …, \"answer\": …, \"against\": …}")));
    }
    let file = File::open(path).map_err(|e| at(Error::new(ErrorKind::Io, e.to_string()).because(e)))?;
    pairs_from_jsonl(file, options, visit).map_err(at)
}

/// Reads the pairs of JSON lines one by one until `visit` returns false.
///
/// # Errors
/// As [`each_pair`].
pub fn pairs_from_jsonl(
    reader: impl Read,
    options: &ReadOptions,
    mut visit: impl FnMut(Pair) -> Result<bool>,
) -> Result<()> {
    let mut seen = 0;
    lines::each(reader, options, |place, line| {
        if options.limit.is_some_and(|limit| seen >= limit) {
            return Ok(false);
        }
        seen += 1;
        visit(pair(place, line, options)?)
    })?;
    if seen == 0 && options.limit != Some(0) {
        return Err(Error::input("no pair: the file holds none"));
    }
    Ok(())
}

fn pair(place: Place, line: &str, options: &ReadOptions) -> Result<Pair> {
    let record: Map<String, Value> =
        serde_json::from_str(line).map_err(|e| place.wrong(format!("not a JSON object: {e}")))?;
    let prompt = |field: &str| {
        let found = match record.get(field) {
            Some(Value::String(text)) if !text.is_empty() => Some(Prompt::Text(text.clone())),
            Some(Value::Array(ids)) if !ids.is_empty() => {
                let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
                ids.iter().map(id).collect::<Option<Vec<u32>>>().map(Prompt::Ids)
            }
            None => {
                let names: Vec<&str> = record.keys().take(8).map(String::as_str).collect();
                return Err(place
                    .wrong(format!("there is no field `{field}`; there are {}", crate::error::list(&names)))
                    .hint("a pair has `clean` and `corrupt`, and for most metrics `answer` and `against`"));
            }
            _ => None,
        };
        match found {
            Some(prompt) if prompt.bytes() > options.longest_row => Err(too_long(place, options)),
            Some(prompt) => Ok(prompt),
            None => {
                Err(place.wrong(format!("`{field}` is not a prompt: neither a text nor a list of token ids")))
            }
        }
    };
    let token = |field: &str| match record.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(TokenName::Text(text.clone()))),
        Some(value) => match value.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) => Ok(Some(TokenName::Id(id))),
            None => Err(place.wrong(format!("`{field}` is not a token: neither a text nor an id"))),
        },
    };
    Ok(Pair {
        row: place.row,
        line: place.line.unwrap_or(0),
        clean: prompt("clean")?,
        corrupt: prompt("corrupt")?,
        answer: token("answer")?,
        against: token("against")?,
        others: record
            .keys()
            .filter(|key| !KEYS.contains(&key.as_str()))
            .take(MOST_OTHERS)
            .cloned()
            .collect(),
    })
}
