//! Reads a tokenizer's files with limits, since they are untrusted.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};

/// Largest vocabulary file read, in bytes: the largest tokenizer.json in use has 35 MB.
const VOCABULARY: u64 = 128 << 20;
/// Largest settings file read, in bytes: those with thousands of added tokens have 2 MB.
const SETTINGS: u64 = 16 << 20;

pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    read_up_to(path, VOCABULARY)
}

fn read_up_to(path: &Path, most: u64) -> Result<Vec<u8>> {
    let failed =
        |e: std::io::Error| Error::new(ErrorKind::Io, format!("cannot be read: {e}")).at(path.display());
    // Check before opening: a named pipe would block, and a device has no end.
    let found = std::fs::metadata(path).map_err(failed)?;
    let size = found.len();
    if !found.is_file() || size > most {
        let message = match found.is_file() {
            true => format!("has {size} bytes; {most} is the limit"),
            false => "is not a plain file".to_owned(),
        };
        return Err(Error::new(ErrorKind::Format, message).at(path.display()));
    }
    std::fs::read(path).map_err(failed)
}

pub(super) fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|e| {
        let message = format!("is not UTF-8 at byte {}", e.utf8_error().valid_up_to());
        Error::new(ErrorKind::Format, message).at(path.display())
    })
}

/// The object in a JSON file; empty if there is no such file.
pub(super) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    if !path.exists() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(&read_up_to(path, SETTINGS)?) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::new(ErrorKind::Format, "is not a JSON object").at(path.display())),
        Err(e) => Err(Error::new(ErrorKind::Format, e.to_string()).at(path.display())),
    }
}
