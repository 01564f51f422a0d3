//! Fields of each prompt in a file besides its text: labels, numbers, names.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use csv::StringRecord;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Format, Place, ReadOptions, jsonl, lines, table};
use crate::error::{Error, ErrorKind, Result};

/// For each row the values of its fields; `None` for missing ones.
pub(super) type Values = Vec<Vec<Option<Value>>>;

/// Fields or columns of a file of prompts, each with one value for each of `rows`: the row numbers from
/// [`super::read`], so that the same rows are skipped. A JSON record without the field gives null; a value is a string,
/// a finite number, a boolean or null. Cells of CSV and TSV are strings.
///
/// # Errors
/// As [`super::read`]; if the file is plain text, which has no fields; if no record has the field; or if a value is of
/// another type.
pub fn read_fields(
    path: &Path,
    names: &[String],
    rows: &[usize],
    options: &ReadOptions,
) -> Result<Vec<(String, Vec<Value>)>> {
    let at = |e: Error| e.at(path.display());
    let file = File::open(path).map_err(|e| at(Error::new(ErrorKind::Io, e.to_string()).because(e)))?;
    let values = match Format::of(path)? {
        Format::Jsonl => of_lines(file, names, rows, options),
        Format::Csv => of_table(file, b',', names, rows, options),
        Format::Tsv => of_table(file, b'\t', names, rows, options),
        #[cfg(feature = "parquet")]
        Format::Parquet => super::parquet::read_fields(file, names, rows),
        _ => Err(Error::input("prompts of this file have no fields to keep")
            .hint("write them as JSON lines: {\"text\": \"…\", \"label\": \"…\"}")),
    };
    let values = values.map_err(at)?;
    if values.len() != rows.len() {
        return Err(at(Error::input(
            "the file has fewer rows than before: it was changed while it was read",
        )));
    }
    let column = |(number, name): (usize, &String)| {
        let of_name: Vec<Value> =
            values.iter().map(|row| row[number].clone().unwrap_or(Value::Null)).collect();
        match values.is_empty() || values.iter().any(|row| row[number].is_some()) {
            true => Ok((name.clone(), of_name)),
            false => Err(at(Error::input(format!("no prompt has a field `{name}`")))),
        }
    };
    names.iter().enumerate().map(column).collect()
}

fn of_lines(reader: impl Read, names: &[String], rows: &[usize], options: &ReadOptions) -> Result<Values> {
    let mut found = Values::new();
    lines::each(BufReader::new(reader), options, |place, line| {
        if rows.get(found.len()) == Some(&place.row) {
            found.push(of_record(place, line, names)?);
        }
        Ok(found.len() < rows.len())
    })?;
    Ok(found)
}

fn of_table(
    reader: impl Read,
    between: u8,
    names: &[String],
    rows: &[usize],
    options: &ReadOptions,
) -> Result<Values> {
    let mut found = Values::new();
    let find = |columns: &[String]| -> Result<Vec<usize>> {
        names.iter().map(|name| table::column(columns, name)).collect()
    };
    let cell =
        |record: &StringRecord, column: usize| record.get(column).map(|text| Value::String(text.to_owned()));
    table::each(reader, between, options, find, |place, record, columns: &Vec<usize>| {
        if rows.get(found.len()) == Some(&place.row) {
            found.push(columns.iter().map(|column| cell(record, *column)).collect());
        }
        Ok(found.len() < rows.len())
    })?;
    Ok(found)
}

/// The fields of one JSON record; `None` for missing ones.
fn of_record(place: Place, line: &str, names: &[String]) -> Result<Vec<Option<Value>>> {
    // `NaN` is allowed in fields that are not kept; elsewhere it is refused as the list that replaces it.
    let wrong = |e: serde_json::Error| place.wrong(format!("not a JSON object: {e}"));
    let plain;
    let record = match serde_json::from_str::<Record<'_>>(line) {
        Ok(record) => record,
        Err(e) => {
            plain = jsonl::without_nan(line, "[]").ok_or_else(|| wrong(e))?;
            serde_json::from_str(&plain).map_err(wrong)?
        }
    };
    let value = |name: &String| {
        let Some(text) = record.get(name.as_str()).map(|value| value.get()) else { return Ok(None) };
        match serde_json::from_str(text).map_err(wrong)? {
            Value::Array(_) | Value::Object(_) => Err(place.wrong(format!(
                "`{name}` is a list, an object or NaN; a field that is kept is a text, a finite number, true or false"
            ))),
            // An integer without a point or an exponent that does not fit an integer type has become a float.
            Value::Number(number) if number.is_f64() && !text.contains(['.', 'e', 'E']) => {
                let message = format!("`{name}` is {text}: beyond 64 bits, and would not be kept exactly");
                Err(place.wrong(message).hint("write it as a text, in quotes"))
            }
            value => Ok(Some(value)),
        }
    };
    names.iter().map(value).collect()
}

/// The fields of one object, unparsed.
type Record<'a> = HashMap<String, &'a RawValue>;

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(
        file: &str,
        text: &str,
        names: &[&str],
        options: &ReadOptions,
    ) -> Result<Vec<(String, Vec<Value>)>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        std::fs::write(&path, text).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        read_fields(&path, &names, &super::super::read(&path, options)?.rows, options)
    }

    #[test]
    fn fields_have_one_value_a_prompt() {
        let text = "{\"text\": \"a\", \"label\": \"x\"}\n\n{\"text\": \"b\", \"n\": 2}\n{\"text\": \"c\", \"label\": true, \"z\": NaN}\n";
        let all = ReadOptions::default();
        let found = fields("p.jsonl", text, &["label", "n"], &all).unwrap();
        assert_eq!(found[0], ("label".to_owned(), vec!["x".into(), Value::Null, true.into()]));
        assert_eq!(found[1].1, [Value::Null, 2.into(), Value::Null]);
        let one = ReadOptions { limit: Some(1), ..all };
        assert_eq!(fields("p.jsonl", text, &["label"], &one).unwrap()[0].1, ["x"]);
    }

    #[test]
    fn rows_that_are_passed_over_are_passed_over_in_fields_too() {
        let skipping = ReadOptions { skip_empty: true, ..ReadOptions::default() };
        let lines = "{\"text\": \"\", \"n\": 0}\n{\"text\": \"a\", \"n\": 1}\n\n{\"text\": null, \"n\": [2]}\n{\"text\": \"b\", \"n\": 3}\n{\"text\": \"\", \"n\": 4}\n";
        assert_eq!(fields("p.jsonl", lines, &["n"], &skipping).unwrap()[0].1, [1, 3]);
        let limited = ReadOptions { limit: Some(1), ..skipping.clone() };
        assert_eq!(fields("p.jsonl", lines, &["n"], &limited).unwrap()[0].1, [1]);
        let table = "n,text,label\n0,,x\n1,a,\"y, z\"\n2,,x\n3,\"b\nc\",\n";
        for (file, table) in [("p.csv", table), ("p.tsv", "n\ttext\tlabel\n0\t\tx\n1\ta\ty, z\n3\tb\t\n")] {
            let found = fields(file, table, &["label", "n"], &skipping).unwrap();
            assert_eq!(found[0], ("label".to_owned(), vec!["y, z".into(), "".into()]));
            assert_eq!(found[1].1, ["1", "3"]);
        }
    }

    #[test]
    fn what_cannot_be_kept_is_named() {
        for (file, text, says) in [
            ("p.txt", "a\n", "have no fields to keep"),
            ("p.jsonl", "{\"text\": \"a\"}\n", "no prompt has a field `label`"),
            (
                "p.jsonl",
                "{\"text\": \"a\", \"label\": -12345678901234567890123}\n",
                "line 1, row 0: `label` is -12345678901234567890123: beyond 64 bits",
            ),
            ("p.jsonl", "{\"text\": \"a\", \"label\": [1]}\n", "line 1, row 0: `label` is a list, an object"),
            (
                "p.jsonl",
                "{\"text\": \"a\", \"label\": NaN}\n",
                "line 1, row 0: `label` is a list, an object or NaN",
            ),
            ("p.jsonl", "nothing\n", "line 1, row 0: not a JSON object"),
            ("p.csv", "text,n\na,1\n", "there is no column `label`; there are `text`, `n`"),
        ] {
            let error = fields(file, text, &["label"], &ReadOptions::default()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
