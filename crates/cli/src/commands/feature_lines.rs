//! Files of features, `easyroutine.feature/1`, as `easyroutine features` writes them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::failure::Failure;

/// Maximum bytes per line: a feature with a thousand examples of a thousand tokens.
const LONGEST: u64 = 256 << 20;

/// What says whether a file is complete.
#[derive(Deserialize)]
struct Line {
    schema: Option<String>,
    /// Number of features in the complete file.
    n_features: Option<usize>,
}

/// Visits the lines of a file of features one by one; each is the JSON of one feature.
///
/// # Errors
/// If the file cannot be read, a line is not a feature or the visitor refuses it (the error names the line), or the file
/// has fewer or more lines than it says it has features.
pub(super) fn each(
    file: &Path,
    command: &str,
    mut visit: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let place = file.display();
    let failed = |e: std::io::Error| Failure::failed(format!("{place}: {e}"));
    let mut reader = BufReader::new(File::open(file).map_err(failed)?);
    let (mut line, mut number, mut stated) = (String::new(), 0usize, None);
    loop {
        line.clear();
        if reader.by_ref().take(LONGEST).read_line(&mut line).map_err(failed)? == 0 {
            break;
        }
        number += 1;
        let wrong = |what: String| {
            Failure::failed(format!("{place}, line {number}: {what}"))
                .hint(format!("`{command}` reads the features_NAME.jsonl that `easyroutine features` writes"))
        };
        let found: Line = serde_json::from_str(&line).map_err(|e| wrong(e.to_string()))?;
        if found.schema.as_deref() != Some("easyroutine.feature/1") {
            return Err(wrong("is not a feature of schema easyroutine.feature/1".to_owned()));
        }
        stated = found.n_features.or(stated);
        visit(&line).map_err(|failure| failure.at(format!("{place}, line {number}")))?;
    }
    match stated.or_else(|| stated_beside(file)) {
        Some(stated) if stated != number => Err(Failure::failed(format!(
            "{place} holds {number} of {stated} features: it was cut short, or other lines were added"
        ))
        .hint(
            "run the same `easyroutine features` again: it writes the file anew from what it has collected",
        )),
        _ => Ok(()),
    }
}

/// Older files do not say how many features they hold; the JSON file beside them does.
fn stated_beside(file: &Path) -> Option<usize> {
    let about: Value = serde_json::from_slice(&std::fs::read(file.with_extension("json")).ok()?).ok()?;
    about["n_features"].as_u64().and_then(|n| usize::try_from(n).ok())
}
