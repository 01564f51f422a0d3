//! The checksum inside a record, a plan or a receipt.
//!
//! It covers the bytes of the file, with zeros in place of its own digits, so it needs no second JSON encoding, and any
//! change to the file shows. Every change by easyroutine renews it. It reveals a slip of the hand or a flipped bit, not
//! a forger.

use serde_json::Value;
use uuid::Uuid;

use crate::hash::{DIGITS, Sum};

/// The key in `_store`.
pub(crate) const KEY: &str = "record_xxh3";

/// Records from this version on have a checksum: a missing one was removed.
pub(crate) const SINCE_VERSION: u64 = 2;

/// Whether a record is as easyroutine wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecordSum {
    /// Its checksum is right.
    Right,
    /// It was written before records had checksums.
    #[default]
    None,
    /// Another program changed it, or it is damaged.
    Wrong,
}

/// Checks the checksum of a record, given its file and the parsed `_store`.
pub(crate) fn of(text: &[u8], store: Option<&Value>) -> RecordSum {
    let version = store.and_then(|store| store.get("version")).and_then(Value::as_u64);
    match store.and_then(|store| store.get(KEY)) {
        None if version.is_none_or(|version| version < SINCE_VERSION) => RecordSum::None,
        Some(Value::String(sum)) if is_right(text, sum) => RecordSum::Right,
        _ => RecordSum::Wrong,
    }
}

/// Whether a text has this checksum.
pub(crate) fn is_right(text: &[u8], sum: &str) -> bool {
    let place = std::str::from_utf8(text).ok().and_then(|text| text.find(sum));
    sum.len() == DIGITS && place.is_some_and(|at| over(text, at) == sum)
}

/// A string that occurs nowhere else in the record, in place of the checksum.
pub(crate) fn placeholder() -> String {
    Uuid::new_v4().simple().to_string()[..DIGITS].to_owned()
}

/// The text with the checksum in place of the placeholder.
pub(crate) fn filled(mut text: String, placeholder: &str) -> String {
    if let Some(at) = text.find(placeholder) {
        let sum = over(text.as_bytes(), at);
        text.replace_range(at..at + DIGITS, &sum);
    }
    text
}

fn over(text: &[u8], at: usize) -> String {
    let mut sum = Sum::default();
    sum.add(&text[..at]);
    sum.add(&[b'0'; DIGITS]);
    sum.add(&text[at + DIGITS..]);
    sum.finish()
}
