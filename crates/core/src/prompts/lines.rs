//! The lines of a file, one by one: a data set may be larger than what is wanted of it.

use std::io::{BufRead, BufReader, Read};

use crate::error::{Error, ErrorKind, Result};

/// Far beyond any context, and far below any memory: `/dev/zero` has no end of a line.
const LONGEST: usize = 64 << 20;

/// Reads up to `limit` lines that are not blank; `read` gets the number of the line, from 1, and its text.
pub(super) fn read<T>(
    reader: impl Read,
    limit: usize,
    read: impl Fn(usize, &str) -> Result<T>,
) -> Result<Vec<T>> {
    let mut reader = BufReader::new(reader);
    let mut found = Vec::new();
    let mut bytes = Vec::new();
    let mut number = 0;
    while found.len() < limit {
        bytes.clear();
        let got = (&mut reader).take(LONGEST as u64 + 1).read_until(b'\n', &mut bytes);
        let got = got.map_err(|e| Error::new(ErrorKind::Io, e.to_string()).because(e))?;
        if got == 0 {
            break;
        }
        number += 1;
        if got > LONGEST {
            return Err(Error::new(
                ErrorKind::Format,
                format!("line {number} is longer than {LONGEST} bytes"),
            ));
        }
        let text = std::str::from_utf8(&bytes).map_err(|e| {
            Error::new(ErrorKind::Format, format!("line {number}: not UTF-8 at byte {}", e.valid_up_to()))
        })?;
        // The mark that some editors put at the beginning of a file is no part of its first prompt.
        let text = if number == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if !line.trim().is_empty() {
            found.push(read(number, line)?);
        }
    }
    Ok(found)
}
