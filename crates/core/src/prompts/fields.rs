//! What a file of prompts says of each beside its text: labels, numbers, names.

use std::fs::File;
use std::path::Path;

use serde_json::{Map, Value};

use super::Format;
use crate::error::{Error, ErrorKind, Result};

/// Fields or columns of a file of prompts, each with one value a prompt, in the order of [`super::read`] and as many.
/// A record that has not the field says null; a value is a text, a number, a truth value or null.
///
/// # Errors
/// As [`super::read`]; a file of plain text, which has no fields; a field that no record has; a value of another kind.
pub fn read_fields(path: &Path, names: &[String], limit: Option<usize>) -> Result<Vec<(String, Vec<Value>)>> {
    let limit = limit.unwrap_or(usize::MAX);
    let at = |e: Error| e.at(path.display());
    let file = File::open(path).map_err(|e| at(Error::new(ErrorKind::Io, e.to_string()).because(e)))?;
    let rows = match Format::of(path)? {
        Format::Jsonl => super::lines::read(file, limit, |number, line| of_record(number, line, names)),
        #[cfg(feature = "parquet")]
        Format::Parquet => super::parquet::read_fields(file, names, limit),
        _ => Err(Error::input("prompts of this file have no fields to keep")
            .hint("write them as JSON lines: {\"text\": \"…\", \"label\": \"…\"}")),
    };
    let rows = rows.map_err(at)?;
    let column = |(number, name): (usize, &String)| {
        let values: Vec<Value> = rows.iter().map(|row| row[number].clone().unwrap_or(Value::Null)).collect();
        match rows.is_empty() || rows.iter().any(|row| row[number].is_some()) {
            true => Ok((name.clone(), values)),
            false => Err(at(Error::input(format!("no prompt has a field `{name}`")))),
        }
    };
    names.iter().enumerate().map(column).collect()
}

/// The fields of one record of JSON lines; nothing for those that it has not.
fn of_record(number: usize, line: &str, names: &[String]) -> Result<Vec<Option<Value>>> {
    let wrong = |what: String| Error::new(ErrorKind::Format, format!("line {number}: {what}"));
    let record: Map<String, Value> =
        serde_json::from_str(line).map_err(|e| wrong(format!("no JSON object: {e}")))?;
    let value = |name: &String| match record.get(name) {
        Some(Value::Array(_) | Value::Object(_)) => Err(wrong(format!(
            "`{name}` is a list or an object; a field that is kept is a text, a number, true or false"
        ))),
        value => Ok(value.cloned()),
    };
    names.iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(
        file: &str,
        text: &str,
        names: &[&str],
        limit: Option<usize>,
    ) -> Result<Vec<(String, Vec<Value>)>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        std::fs::write(&path, text).unwrap();
        read_fields(&path, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), limit)
    }

    #[test]
    fn fields_have_one_value_a_prompt() {
        let text = "{\"text\": \"a\", \"label\": \"x\"}\n\n{\"text\": \"b\", \"n\": 2}\n{\"text\": \"c\", \"label\": true}\n";
        let found = fields("p.jsonl", text, &["label", "n"], None).unwrap();
        assert_eq!(found[0], ("label".to_owned(), vec!["x".into(), Value::Null, true.into()]));
        assert_eq!(found[1].1, [Value::Null, 2.into(), Value::Null]);
        assert_eq!(fields("p.jsonl", text, &["label"], Some(1)).unwrap()[0].1, ["x"]);
    }

    #[test]
    fn what_cannot_be_kept_is_named() {
        for (file, text, says) in [
            ("p.txt", "a\n", "have no fields to keep"),
            ("p.jsonl", "{\"text\": \"a\"}\n", "no prompt has a field `label`"),
            ("p.jsonl", "{\"label\": [1]}\n", "line 1: `label` is a list or an object"),
            ("p.jsonl", "nothing\n", "line 1: no JSON object"),
        ] {
            let error = fields(file, text, &["label"], None).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
