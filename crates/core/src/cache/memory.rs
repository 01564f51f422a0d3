//! A cache's memory use, in words.

use indexmap::IndexMap;

use super::{ActivationCache, Content};
use crate::error::{Error, Result};

/// How [`ActivationCache::memory_tree`] lists keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// Every key.
    Keys,
    /// One line per name, over all layers and heads.
    Names,
}

impl ActivationCache {
    /// Bytes of a key's values, or of all. A key with parts (`last_layernorm`) counts them together; a missing key
    /// gives `None`.
    pub fn memory_bytes(&self, key: Option<&str>) -> Option<usize> {
        let Some(key) = key else { return Some(self.items().map(|(_, entry)| bytes(&entry.content)).sum()) };
        if let Some(entry) = self.entry(key) {
            return Some(bytes(&entry.content));
        }
        let part = format!("{key}.");
        let parts: Vec<usize> = (self.items())
            .filter(|(name, _)| name.to_string().starts_with(&part))
            .map(|(_, entry)| bytes(&entry.content))
            .collect();
        (!parts.is_empty()).then(|| parts.iter().sum())
    }

    /// The same as text: `40 B`, `1.5 MB`.
    pub fn memory_size(&self, key: Option<&str>) -> Option<String> {
        self.memory_bytes(key).map(|bytes| readable(bytes as u64))
    }

    /// One line per key, or per name, with shape and size, under the total.
    pub fn memory_tree(&self, grouping: Grouping) -> String {
        let mut lines: IndexMap<String, Line> = IndexMap::new();
        for (key, entry) in self.items() {
            let name = match grouping {
                Grouping::Keys => key.to_string(),
                Grouping::Names => without_numbers(&key.to_string()),
            };
            let new = || Line { shape: shape(&entry.content), keys: 0, bytes: 0 };
            let line = lines.entry(name).or_insert_with(new);
            if line.shape != shape(&entry.content) {
                line.shape = "of different shapes".to_owned();
            }
            (line.keys, line.bytes) = (line.keys + 1, line.bytes + bytes(&entry.content));
        }
        let width = lines.keys().map(String::len).max().unwrap_or(0);
        let total = lines.values().map(|line| line.bytes as u64).sum();
        let mut text = format!("{} in {} keys\n", readable(total), self.len());
        for (name, Line { shape, keys, bytes }) in lines {
            let times = if keys > 1 { format!("{keys} x ") } else { String::new() };
            text += &format!("  {name:width$}  {times}{shape}  {}\n", readable(bytes as u64));
        }
        text
    }
}

/// Bytes as text, in decimal units: `40 B`, `1.5 kB`, `3.2 GB`.
pub fn readable(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        1_000_000_000..1_000_000_000_000 => format!("{:.1} GB", bytes as f64 / 1e9),
        _ => format!("{:.1} TB", bytes as f64 / 1e12),
    }
}

/// Bytes from words: `3G`, `1.5 GB`, `800MiB`, `4096`; units of 1000 unless they have an `i`.
///
/// # Errors
/// Words that are no number of bytes, or none at all.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let wrong = || {
        Error::input(format!("`{}` is no number of bytes", text.escape_debug()))
            .hint("write one as 3G, 1.5GB, 800MiB or 4096")
    };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let (prefix, base) = unit.strip_suffix('i').map_or((unit, 1000.0), |prefix| (prefix, 1024.0));
    let power = match prefix {
        "" if base == 1000.0 => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(wrong()),
    };
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * f64::powi(base, power);
    if bytes >= 1.0 && bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(wrong()) }
}

struct Line {
    shape: String,
    keys: usize,
    bytes: usize,
}

fn bytes(content: &Content) -> usize {
    match content {
        Content::Activation(kept) => kept.bytes(),
        Content::Json(value) => value.to_string().len(),
        Content::List(list) => list.iter().map(bytes).sum(),
    }
}

fn shape(content: &Content) -> String {
    match content {
        Content::Activation(kept) => match kept.shape() {
            Some(shape) => format!("{shape:?}"),
            None => format!("{} rows of different length", kept.row_shapes.len()),
        },
        Content::Json(_) => "value".to_owned(),
        Content::List(list) => format!("{} values", list.len()),
    }
}

/// `resid_out_5` as `resid_out_*`, `pattern_L3H2` as `pattern_L*H*`.
fn without_numbers(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    for character in key.chars() {
        let digit = character.is_ascii_digit();
        if !digit {
            name.push(character);
        } else if !name.ends_with('*') {
            name.push('*');
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_with_their_units() {
        let read = |text| parse_bytes(text).ok();
        assert_eq!(read("4096"), Some(4096));
        assert_eq!(read("3G"), Some(3_000_000_000));
        assert_eq!(read("1.5 GB"), Some(1_500_000_000));
        assert_eq!(read("800MiB"), Some(800 << 20));
        assert_eq!(read("2gib"), Some(2 << 30));
        for wrong in ["", "0", "G", "3X", "-1", "1e9", "1..2G", "3Gi B", "ib", "99999999999T", "\u{202e}3"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong:?}");
        }
    }
}
