//! Reads a file line by line: a data set may be larger than the part that is wanted.

use std::io::{BufRead, BufReader, Read};

use super::{Place, Prompt, ReadOptions, Receiver, too_long};
use crate::error::{Error, ErrorKind, Result};

/// Lines as prompts. Unless the file name says text, lines that are JSON objects are refused: they were meant as
/// records.
pub(super) fn text(
    reader: impl Read,
    options: &ReadOptions,
    is_named_text: bool,
    receiver: &mut Receiver<'_>,
) -> Result<()> {
    records(reader, options, receiver, |place, line| {
        let is_json = || serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(line).is_ok();
        if !is_named_text && place.row == 0 && line.trim_start().starts_with('{') && is_json() {
            return Err(place.wrong("a JSON object in a file that is not named as one").hint(
                "let the name end in .jsonl to read a field of each line, or in .txt to take lines as they stand",
            ));
        }
        if line.contains('\0') {
            return Err(place
                .wrong("a zero byte: this is not text")
                .hint("is the ending of the name right?"));
        }
        if line.contains('\r') {
            return Err(place.wrong("a carriage return within a line: lines end with \\n or \\r\\n").hint(
                "if each ends a line: tr '\\r' '\\n' <IN >OUT; texts that hold one go into a .jsonl file",
            ));
        }
        Ok(Some(Prompt::Text(line.to_owned())))
    })
}

/// Reads non-blank lines as rows; `read` makes a prompt of each, or returns `None` for null.
pub(super) fn records(
    reader: impl Read,
    options: &ReadOptions,
    receiver: &mut Receiver<'_>,
    read: impl Fn(Place, &str) -> Result<Option<Prompt>>,
) -> Result<()> {
    if receiver.is_full(options) {
        return Ok(());
    }
    each(reader, options, |place, line| {
        receiver.take(place, read(place, line)?, options)?;
        Ok(!receiver.is_full(options))
    })
}

/// Visits the non-blank lines until `visit` returns false.
pub(super) fn each(
    reader: impl Read,
    options: &ReadOptions,
    mut visit: impl FnMut(Place, &str) -> Result<bool>,
) -> Result<()> {
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    let (mut line, mut row) = (0, 0);
    loop {
        bytes.clear();
        let most = (options.longest_row as u64).saturating_add(2);
        let got = (&mut reader).take(most).read_until(b'\n', &mut bytes);
        let got = got.map_err(|e| Error::new(ErrorKind::Io, e.to_string()).because(e))?;
        if got == 0 {
            break;
        }
        line += 1;
        let place = Place { row, line: Some(line) };
        let text = std::str::from_utf8(&bytes).map_err(|e| {
            // Check the length first: a truncated line may look malformed.
            match got as u64 == most {
                true => too_long(place, options),
                false => place.wrong(format!("not UTF-8 at byte {}", e.valid_up_to())),
            }
        })?;
        // A byte order mark at the start of a file is not part of its first prompt.
        let text = if line == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.len() > options.longest_row {
            return Err(too_long(place, options));
        }
        if !text.trim().is_empty() {
            if !visit(place, text)? {
                break;
            }
            row += 1;
        }
    }
    Ok(())
}
