//! The checksum of a record, of a plan or of a receipt, in itself.
//!
//! It is over the bytes of the file, with zeros where its own digits stand, so that it costs no second spelling of the JSON,
//! and any change of the file shows. Whatever easyroutine changes gets a new one. It tells a slip of the hand and a bit that
//! flipped, not a forger.

use serde_json::Value;
use uuid::Uuid;

use crate::hash::{DIGITS, Sum};

/// The key under `_store`.
pub(crate) const KEY: &str = "record_xxh3";

/// Records of this version and later have a checksum: one that is gone was taken away.
pub(crate) const SINCE_VERSION: u64 = 2;

/// Whether a record is what easyroutine wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecordSum {
    /// Its checksum is right.
    Right,
    /// It was written before records had checksums.
    #[default]
    None,
    /// It was changed by something else than easyroutine, or is damaged.
    Wrong,
}

/// What the checksum of a record says, of its file and what was parsed of it.
pub(crate) fn of(text: &[u8], store: Option<&Value>) -> RecordSum {
    let version = store.and_then(|store| store.get("version")).and_then(Value::as_u64);
    match store.and_then(|store| store.get(KEY)) {
        None if version.is_none_or(|version| version < SINCE_VERSION) => RecordSum::None,
        Some(Value::String(sum)) if is_right(text, sum) => RecordSum::Right,
        _ => RecordSum::Wrong,
    }
}

/// Whether a text is the one in which this checksum was put.
pub(crate) fn is_right(text: &[u8], sum: &str) -> bool {
    let place = std::str::from_utf8(text).ok().and_then(|text| text.find(sum));
    sum.len() == DIGITS && place.is_some_and(|at| over(text, at) == sum)
}

/// A text that nothing else in the record is, to stand where the checksum will.
pub(crate) fn placeholder() -> String {
    Uuid::new_v4().simple().to_string()[..DIGITS].to_owned()
}

/// The same text with the checksum where the placeholder stood.
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
