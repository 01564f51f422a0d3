//! How a vocabulary writes text: in GPT-2's alphabet for bytes, with SentencePiece's marks, or plainly.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::Tokenizer as Backend;

use crate::error::{Error, ErrorKind, Result};

/// The text of one token, for display.
///
/// It is untrusted and may contain control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenText {
    /// The text or bytes.
    pub content: TokenContent,
    /// Whether it is a special token.
    pub special: bool,
}

/// Text, or what there is instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenContent {
    /// Text.
    Text(String),
    /// Bytes that are not valid UTF-8 by themselves: part of a character.
    Bytes(Vec<u8>),
    /// An id without a token.
    Unnamed(u32),
}

/// Text unchanged, bytes as `<0xE2><0x82>`, an unnamed id as `<id 49152>`.
impl fmt::Display for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            TokenContent::Text(text) => f.write_str(text),
            TokenContent::Bytes(bytes) => bytes.iter().try_for_each(|byte| write!(f, "<0x{byte:02X}>")),
            TokenContent::Unnamed(id) => write!(f, "<id {id}>"),
        }
    }
}

/// The way a vocabulary writes text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Each byte as one printable character: GPT-2 and its successors.
    Bytes,
    /// A space as U+2581, a byte without a token as `<0x0A>`: SentencePiece.
    Pieces,
    /// Unchanged.
    Plain,
}

impl Spelling {
    /// Determined from the decoder.
    pub(super) fn of(backend: &Backend) -> Result<Self> {
        let decoder = serde_json::to_string(&backend.get_decoder()).map_err(|e| {
            Error::new(ErrorKind::Tokenizer, format!("the decoder cannot be written as JSON: {e}"))
        })?;
        let parsed: Value = serde_json::from_str(&decoder).unwrap_or(Value::Null);
        let steps = match &parsed["decoders"] {
            Value::Array(steps) => steps.as_slice(),
            _ => std::slice::from_ref(&parsed),
        };
        let has = |kind: &str| steps.iter().any(|step| step["type"] == kind);
        let replaces_mark = || steps.iter().any(|step| step["pattern"]["String"] == "\u{2581}");
        Ok(if has("ByteLevel") {
            Spelling::Bytes
        } else if has("ByteFallback") || has("Metaspace") || replaces_mark() {
            Spelling::Pieces
        } else {
            Spelling::Plain
        })
    }

    /// The text of a token in the vocabulary.
    pub(super) fn read(self, token: &str) -> TokenContent {
        let bytes = match self {
            Spelling::Plain => return TokenContent::Text(token.to_owned()),
            Spelling::Bytes => token.chars().map(|c| byte_of(c).ok_or(c)).fold(Vec::new(), |mut bytes, c| {
                match c {
                    Ok(byte) => bytes.push(byte),
                    // Outside the alphabet: no text leads to this token; it is shown as written.
                    Err(other) => bytes.extend(other.encode_utf8(&mut [0; 4]).bytes()),
                }
                bytes
            }),
            Spelling::Pieces => match byte_piece(token) {
                Some(byte) => vec![byte],
                None => token.replace('\u{2581}', " ").into_bytes(),
            },
        };
        String::from_utf8(bytes).map_or_else(|e| TokenContent::Bytes(e.into_bytes()), TokenContent::Text)
    }
}

/// The byte of `<0x0A>`.
fn byte_piece(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The byte for a character of GPT-2's alphabet.
///
/// Printable bytes of Latin-1 map to themselves, the other 68 in order to U+0100 and up (`bytes_to_unicode` in
/// openai/gpt-2, src/encoder.py).
fn byte_of(c: char) -> Option<u8> {
    static BYTES: OnceLock<HashMap<char, u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let shown = (0..=255u8).filter(printable).map(|byte| (char::from(byte), byte));
        let hidden = (0..=255u8).filter(|byte| !printable(byte));
        shown.chain(('\u{100}'..).zip(hidden)).collect()
    });
    bytes.get(&c).copied()
}
