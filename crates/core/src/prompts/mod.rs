//! Files of prompts: plain text with one per line, a field of JSON lines, or a column of CSV, TSV or Parquet.

mod fields;
mod jsonl;
mod lines;
mod pairs;
#[cfg(feature = "parquet")]
mod parquet;
mod quotes;
mod table;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};

pub use fields::read_fields;
pub use pairs::{MOST_OTHERS, Pair, TokenName, each_pair, pairs_from_jsonl};

/// Default limit on the bytes of a row: far beyond any context, and far below any memory.
pub const LONGEST_ROW: usize = 16 << 20;

/// One prompt of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A text to be tokenized.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
    /// A conversation, to be rendered by a chat template: messages with `role` and usually `content`.
    Messages(Vec<Map<String, Value>>),
}

impl Prompt {
    fn is_empty(&self) -> bool {
        match self {
            Prompt::Text(text) => text.is_empty(),
            Prompt::Ids(ids) => ids.is_empty(),
            Prompt::Messages(messages) => messages.is_empty(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Prompt::Text(text) => text.len(),
            Prompt::Ids(ids) => size_of_val(ids.as_slice()),
            // From JSON lines, whose length is already bounded.
            Prompt::Messages(_) => 0,
        }
    }
}

/// The format of a file of prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One prompt per line; blank lines are skipped.
    Text,
    /// One JSON object per line; blank lines are skipped.
    Jsonl,
    /// A table with a header, with fields separated by commas.
    Csv,
    /// A table with a header, with fields separated by tabs.
    Tsv,
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// The format according to a path's extension; plain text by default.
    ///
    /// # Errors
    /// If the extension is that of an unsupported format: compressed text, a JSON document, Arrow, a spreadsheet.
    pub fn of(path: &Path) -> Result<Self> {
        let refused =
            |what: &str, hint: &str| Err(Error::input(format!("{}: {what}", path.display())).hint(hint));
        match ending(path).as_str() {
            "jsonl" | "ndjson" => Ok(Format::Jsonl),
            "csv" => Ok(Format::Csv),
            "tsv" | "tab" => Ok(Format::Tsv),
            "parquet" | "pq" => Ok(Format::Parquet),
            "json" => refused(
                "prompts are read from JSON lines",
                "write one object a line into a .jsonl file: jq -c '.[]' IN.json > OUT.jsonl",
            ),
            "gz" | "zst" | "bz2" | "xz" | "zip" | "lz4" | "7z" | "tar" | "tgz" => {
                refused("compressed files are not read", "decompress it first")
            }
            "arrow" | "feather" | "ipc" => refused(
                "Arrow files are not read",
                "write it as Parquet: pandas.read_feather(IN).to_parquet(OUT), or Dataset.to_parquet(OUT)",
            ),
            "xlsx" | "xls" | "ods" | "pkl" | "pickle" | "npy" | "npz" | "pt" | "safetensors" | "db"
            | "sqlite" | "h5" | "pdf" | "docx" | "avro" | "orc" => refused(
                "files of this kind hold no prompts that are read",
                "write them as .jsonl, .csv, .tsv, .parquet, or as text with one a line",
            ),
            _ => Ok(Format::Text),
        }
    }

    /// Whether prompts are in a field or column, which must be named.
    pub fn has_fields(self) -> bool {
        self != Format::Text
    }
}

fn ending(path: &Path) -> String {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase()
}

/// Options for reading a file of prompts.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// The field or column that holds the prompts: texts, lists of token ids, or, in JSON lines, conversations.
    pub field: String,
    /// Maximum number of prompts to read.
    pub limit: Option<usize>,
    /// Whether empty or null rows are skipped instead of refused.
    pub skip_empty: bool,
    /// Maximum bytes per row.
    pub longest_row: usize,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions { field: "text".to_owned(), limit: None, skip_empty: false, longest_row: LONGEST_ROW }
    }
}

/// The prompts of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompts {
    /// The prompts, in the file's order.
    pub prompts: Vec<Prompt>,
    /// For each prompt, the number of its row in the file, from 0; blank lines and a header do not count.
    pub rows: Vec<usize>,
    /// Empty rows skipped.
    pub skipped: usize,
}

/// A row's place in its file: its number from 0, and its line from 1 if it has one.
#[derive(Debug, Clone, Copy)]
struct Place {
    row: usize,
    line: Option<usize>,
}

impl Place {
    fn wrong(self, what: impl std::fmt::Display) -> Error {
        let line = self.line.map(|line| format!("line {line}, ")).unwrap_or_default();
        Error::new(ErrorKind::Format, format!("{line}row {}: {what}", self.row))
    }
}

/// Counts of a file's prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Prompts visited.
    pub prompts: usize,
    /// Empty rows skipped.
    pub skipped: usize,
}

/// Passes prompts on as they are read.
struct Receiver<'v> {
    visit: &'v mut dyn FnMut(usize, Prompt) -> Result<bool>,
    seen: Seen,
    /// Whether no more prompts are wanted.
    has_ended: bool,
    /// Whether the visitor is running: an error then is not the file's.
    is_visiting: bool,
    /// The visitor's error, which is not the file's fault.
    failure: Option<Error>,
}

impl<'v> Receiver<'v> {
    fn new(visit: &'v mut dyn FnMut(usize, Prompt) -> Result<bool>) -> Receiver<'v> {
        Receiver { visit, seen: Seen::default(), has_ended: false, is_visiting: false, failure: None }
    }

    /// Passes on the value of one row, if it is a prompt; `None` is a null.
    fn take(&mut self, place: Place, value: Option<Prompt>, options: &ReadOptions) -> Result<()> {
        match value.filter(|prompt| !prompt.is_empty()) {
            Some(prompt) if prompt.bytes() > options.longest_row => Err(too_long(place, options)),
            Some(prompt) => {
                self.seen.prompts += 1;
                self.is_visiting = true;
                let visited = (self.visit)(place.row, prompt);
                self.is_visiting = false;
                match visited {
                    Ok(goes_on) => self.has_ended = !goes_on,
                    Err(error) => (self.failure, self.has_ended) = (Some(error), true),
                }
                Ok(())
            }
            None if options.skip_empty => {
                self.seen.skipped += 1;
                Ok(())
            }
            None => Err(place
                .wrong(format!("`{}` is empty", options.field))
                .hint("--skip-empty skips such rows and keeps the others' numbers")),
        }
    }

    fn is_full(&self, options: &ReadOptions) -> bool {
        self.has_ended || options.limit.is_some_and(|limit| self.seen.prompts >= limit)
    }

    fn finish(self, read: Result<()>) -> Result<Seen> {
        match self.failure {
            Some(failure) => Err(failure),
            None => read.map(|()| self.seen),
        }
    }
}

/// All prompts that a reader passes on.
fn collected(
    read: impl FnOnce(&mut dyn FnMut(usize, Prompt) -> Result<bool>) -> Result<Seen>,
) -> Result<Prompts> {
    let mut found = Prompts::default();
    let seen = read(&mut |row, prompt| {
        found.prompts.push(prompt);
        found.rows.push(row);
        Ok(true)
    })?;
    found.skipped = seen.skipped;
    Ok(found)
}

fn too_long(place: Place, options: &ReadOptions) -> Error {
    place
        .wrong(format!("longer than {} bytes", options.longest_row))
        .hint("no model reads so much at once; if it is meant, raise the limit: --longest-row SIZE")
}

fn no_field(field: &str, what: &str, names: &[String]) -> String {
    let names: Vec<String> = names.iter().take(8).map(|name| format!("`{name}`")).collect();
    format!("there is no {what} `{field}`; there are {}", names.join(", "))
}

/// The hint for naming the field of prompts.
const NAME_IT: &str = "say which holds the prompts: --field NAME";

/// Reads the prompts of a file, in order.
///
/// # Errors
/// As [`each_prompt`].
pub fn read(path: &Path, options: &ReadOptions) -> Result<Prompts> {
    collected(|visit| each_prompt(path, options, visit))
}

/// Visits the prompts of a file in order, each with its row number, until `visit` returns false. Memory holds one at a
/// time.
///
/// # Errors
/// The error of `visit`. Also if the file cannot be read or does not match its extension, a record lacks the field (its
/// line and existing fields are named), a value is neither text nor token ids nor a conversation, a row is empty or too
/// long, or there is no prompt.
pub fn each_prompt(
    path: &Path,
    options: &ReadOptions,
    mut visit: impl FnMut(usize, Prompt) -> Result<bool>,
) -> Result<Seen> {
    let format = Format::of(path)?;
    let at = |e: Error| e.at(path.display());
    let file = File::open(path).map_err(|e| at(Error::new(ErrorKind::Io, e.to_string()).because(e)))?;
    let mut receiver = Receiver::new(&mut visit);
    let read = match format {
        Format::Text => {
            let is_named_text = matches!(ending(path).as_str(), "txt" | "text" | "md");
            lines::text(BufReader::new(file), options, is_named_text, &mut receiver)
        }
        Format::Jsonl => records(BufReader::new(file), options, &mut receiver),
        Format::Csv => table::read(file, b',', options, &mut receiver),
        Format::Tsv => table::read(file, b'\t', options, &mut receiver),
        #[cfg(feature = "parquet")]
        Format::Parquet => parquet::read(file, options, &mut receiver),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => Err(Error::new(ErrorKind::Unsupported, "this build does not read Parquet")
            .hint("build with the feature `parquet`")),
    };
    let seen = receiver.finish(read.map_err(at))?;
    if seen.prompts == 0 && options.limit != Some(0) {
        return Err(at(Error::input("no prompt: the file holds none")));
    }
    Ok(seen)
}

fn records(reader: impl Read, options: &ReadOptions, receiver: &mut Receiver<'_>) -> Result<()> {
    lines::records(reader, options, receiver, |place, line| jsonl::prompt(place, line, options))
}

/// Reads plain text, one prompt per line.
///
/// # Errors
/// If a line is not UTF-8, or too long.
pub fn from_text(reader: impl Read, options: &ReadOptions) -> Result<Prompts> {
    collected(|visit| {
        let mut receiver = Receiver::new(visit);
        let read = lines::text(reader, options, true, &mut receiver);
        receiver.finish(read)
    })
}

/// Reads one JSON object per line. `NaN` and infinities, which Python writes, are allowed in other fields.
///
/// # Errors
/// As [`read`].
pub fn from_jsonl(reader: impl Read, options: &ReadOptions) -> Result<Prompts> {
    collected(|visit| {
        let mut receiver = Receiver::new(visit);
        let read = records(reader, options, &mut receiver);
        receiver.finish(read)
    })
}

/// Reads a table whose first record names the columns; `between` separates its fields. Fields may be quoted, and may
/// then contain line ends (RFC 4180).
///
/// # Errors
/// As [`read`].
pub fn from_table(reader: impl Read, between: u8, options: &ReadOptions) -> Result<Prompts> {
    collected(|visit| {
        let mut receiver = Receiver::new(visit);
        let read = table::read(reader, between, options, &mut receiver);
        receiver.finish(read)
    })
}
