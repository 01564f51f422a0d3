//! A file of prompts: plain text with one a line, JSONL with a field, Parquet with a column.

mod fields;
mod jsonl;
mod lines;
#[cfg(feature = "parquet")]
mod parquet;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

pub use fields::read_fields;

/// One prompt of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A text that has still to be cut.
    Text(String),
    /// Token ids as they are.
    Ids(Vec<u32>),
}

/// What a file of prompts is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One prompt a line; lines that are blank are passed over.
    Text,
    /// One JSON object a line; lines that are blank are passed over.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// The format that the ending of a path names; text where it names none.
    ///
    /// # Errors
    /// An ending of a format that is not read: compressed text, a JSON document.
    pub fn of(path: &Path) -> Result<Self> {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        match ending.as_str() {
            "jsonl" | "ndjson" => Ok(Format::Jsonl),
            "parquet" => Ok(Format::Parquet),
            "json" => Err(Error::input(format!("{}: prompts are read from JSON lines", path.display()))
                .hint("write one object a line into a .jsonl file: jq -c '.[]' IN.json > OUT.jsonl")),
            "gz" | "zst" | "bz2" | "xz" | "zip" => {
                Err(Error::input(format!("{}: compressed files are not read", path.display()))
                    .hint("decompress it first"))
            }
            _ => Ok(Format::Text),
        }
    }
}

/// Reads the prompts of a file, in its order, at most `limit` of them. `field` is the field or column that holds them:
/// a text, or a list of token ids.
///
/// # Errors
/// A file that cannot be read or is not what its ending says, a record without the field (its line and the fields that
/// there are are named), a value that is neither text nor token ids, no prompt at all.
pub fn read(path: &Path, field: &str, limit: Option<usize>) -> Result<Vec<Prompt>> {
    let format = Format::of(path)?;
    let limit = limit.unwrap_or(usize::MAX);
    let at = |e: Error| e.at(path.display());
    let file = File::open(path).map_err(|e| at(Error::new(ErrorKind::Io, e.to_string()).because(e)))?;
    let prompts = match format {
        Format::Text => from_text(BufReader::new(file), limit),
        Format::Jsonl => from_jsonl(BufReader::new(file), field, limit),
        #[cfg(feature = "parquet")]
        Format::Parquet => parquet::read(file, field, limit),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => Err(Error::new(ErrorKind::Unsupported, "this build does not read Parquet")
            .hint("build with the feature `parquet`")),
    };
    let prompts = prompts.map_err(at)?;
    if prompts.is_empty() && limit > 0 {
        return Err(at(Error::input("no prompt: the file holds none")));
    }
    Ok(prompts)
}

/// Reads plain text, one prompt a line.
///
/// # Errors
/// A line that is not UTF-8, or longer than any prompt.
pub fn from_text(reader: impl Read, limit: usize) -> Result<Vec<Prompt>> {
    lines::read(reader, limit, |_, line| Ok(Prompt::Text(line.to_owned())))
}

/// Reads one JSON object a line.
///
/// # Errors
/// As [`read`].
pub fn from_jsonl(reader: impl Read, field: &str, limit: usize) -> Result<Vec<Prompt>> {
    lines::read(reader, limit, |number, line| jsonl::prompt(number, line, field))
}
