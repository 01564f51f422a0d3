//! A cache's memory use, in words.

use indexmap::IndexMap;

use super::{ActivationCache, Content};

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
