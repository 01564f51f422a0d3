//! Limits on a tokenizer.json, checked before the library reads it: a few rules can turn one letter into gigabytes, and
//! a long pattern takes minutes to compile.
//!
//! The limits are far above every tokenizer in use: the longest expressions have about 600 bytes (those of o200k and
//! DeepSeek are shorter), parts have a dozen steps, templates three pieces.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::{NormalizedString, Normalizer, Tokenizer as Backend};

use super::guard::guarded;
use crate::error::{Error, ErrorKind, Result};

/// Longest part in bytes, as written: the longest in use is T5's, with a table of 316,720 characters.
const PART: usize = 4 << 20;
/// Longest expression, replacement or prefix, in bytes.
const PATTERN: usize = 16 << 10;
/// Limit on the steps of a part, including nested ones.
const STEPS: usize = 100;
/// Limit on the bytes that a normalizer may produce per byte of text. T5's may produce 300, ALBERT's 1500.
const NORMALIZED: f64 = 20_000.0;
/// The same for a pre-tokenizer or a decoder, which produce 12 at most.
const REWRITTEN: f64 = 100.0;
/// Limit on the pieces of a template of special tokens, on the ids of a piece, and on the occurrences of the text
/// itself.
const PIECES: usize = 256;
const TEXTS: usize = 4;
/// Limit on the bytes produced from a whole text before it is divided.
const WHOLE: usize = 32 << 20;

const PARTS: [&str; 4] = ["normalizer", "pre_tokenizer", "post_processor", "decoder"];

/// Refuses a tokenizer.json whose parts are out of all proportion. The library reports other errors.
pub(super) fn check(bytes: &[u8]) -> Result<()> {
    let parts: Parts = match serde_json::from_slice(bytes) {
        Ok(parts) => parts,
        Err(e) if e.is_data() && e.to_string().contains(REFUSED) => {
            return Err(Error::new(ErrorKind::Format, e.to_string()));
        }
        Err(_) => return Ok(()),
    };
    for (name, part) in PARTS.into_iter().zip(&parts.0) {
        let mut steps = 0;
        let growth = walk(part, &mut steps)?;
        let most = if name == "normalizer" { NORMALIZED } else { REWRITTEN };
        if growth > most {
            return Err(limit(format!("`{name}` may make {growth:.0} bytes of one"), most as usize));
        }
    }
    template(&parts.0[2])
}

/// Refuses a text that the normalizer would expand beyond the available memory. `text` is checked piece by piece, so
/// that the check itself stays small.
pub(super) fn check_growth(backend: &Backend, text: &str) -> Result<()> {
    const PIECE: usize = 512;
    let Some(normalizer) = backend.get_normalizer() else { return Ok(()) };
    let part = serde_json::to_value(normalizer).unwrap_or_default();
    let growth = walk(&part, &mut 0)?;
    if text.len() as f64 * growth <= WHOLE as f64 {
        return Ok(());
    }
    let (mut rest, mut made) = (text, 0);
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rest.ceil_char_boundary(PIECE.min(rest.len())));
        let mut normalized = NormalizedString::from(piece);
        guarded("normalize the text", || normalizer.normalize(&mut normalized))?;
        made += normalized.len();
        if made > WHOLE {
            let message = format!("the normalizer makes more than {WHOLE} bytes of a text of {}", text.len());
            return Err(Error::new(ErrorKind::Tokenizer, message).hint("that is the limit: split the text"));
        }
        rest = behind;
    }
    Ok(())
}

/// How many bytes a part may produce per byte.
fn walk(part: &Value, steps: &mut usize) -> Result<f64> {
    *steps += 1;
    if *steps > STEPS {
        return Err(limit("a part has more steps than that".to_owned(), STEPS));
    }
    for list in ["normalizers", "pretokenizers", "decoders", "processors"] {
        if let Value::Array(nested) = &part[list] {
            return nested.iter().try_fold(1.0, |growth, step| Ok(growth * walk(step, steps)?));
        }
    }
    let [string, regex] = ["String", "Regex"].map(|kind| part["pattern"][kind].as_str());
    let [content, prepend] = ["content", "prepend"].map(|key| part[key].as_str());
    for (text, what) in [(string.or(regex), "a pattern"), (content, "a replacement"), (prepend, "a prefix")] {
        if let Some(length) = text.map(str::len).filter(|length| *length > PATTERN) {
            return Err(limit(format!("{what} has {length} bytes"), PATTERN));
        }
    }
    let length = |text: Option<&str>| text.map_or(0.0, |text| text.len() as f64);
    Ok(match part["type"].as_str().unwrap_or_default() {
        "Replace" => match string {
            Some(string) if !string.is_empty() => (length(content) / length(Some(string))).max(1.0),
            // An expression may match the empty string, and thus before each character.
            _ => 1.0 + length(content),
        },
        "Prepend" => 1.0 + length(prepend),
        "Precompiled" => 1.0 + longest_of(part["precompiled_charsmap"].as_str().unwrap_or_default()),
        // An Arabic ligature of 3 bytes becomes 33.
        "NFKC" | "NFKD" => 11.0,
        "NFC" | "NFD" => 3.0,
        "Lowercase" => 1.5,
        "BertNormalizer" => 8.0,
        "ByteLevel" => 3.0,
        "Metaspace" => 4.0,
        _ => 1.0,
    })
}

/// The longest text in a table of SentencePiece's: after the length of an index and the index, texts that end in 0.
fn longest_of(table: &str) -> f64 {
    let Ok(table) = STANDARD.decode(table) else { return 0.0 };
    let length = table.first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
    let texts = table.get(length.saturating_add(4)..).unwrap_or(&table);
    texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0) as f64
}

/// Checks the tokens that a post-processor puts around a text.
fn template(part: &Value) -> Result<()> {
    if let Value::Array(nested) = &part["processors"] {
        return nested.iter().try_for_each(template);
    }
    for list in ["single", "pair"] {
        let pieces = part[list].as_array().map(Vec::as_slice).unwrap_or_default();
        if pieces.len() > PIECES {
            return Err(limit(format!("a template has {} pieces", pieces.len()), PIECES));
        }
        let texts = pieces.iter().filter(|piece| piece.get("Sequence").is_some()).count();
        if texts > TEXTS {
            return Err(limit(format!("a template has the text {texts} times"), TEXTS));
        }
    }
    for (_, token) in part["special_tokens"].as_object().into_iter().flatten() {
        let ids = token["ids"].as_array().map_or(0, Vec::len);
        if ids > PIECES {
            return Err(limit(format!("a special token of a template has {ids} ids"), PIECES));
        }
    }
    Ok(())
}

fn limit(what: String, most: usize) -> Error {
    Error::new(ErrorKind::Format, format!("{what}; {most} is the limit"))
        .hint("no tokenizer in use comes near it: where is this file from?")
}

/// Occurs in every error of [`Parts`] that is a refusal.
const REFUSED: &str = "of a tokenizer.json";

/// The parts of a tokenizer.json in the order of [`PARTS`]; null for missing ones.
struct Parts([Value; 4]);

impl<'de> Deserialize<'de> for Parts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Parts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Parts, A::Error> {
                let mut parts: [Option<Value>; 4] = Default::default();
                while let Some(key) = map.next_key::<String>()? {
                    let Some(place) = PARTS.iter().position(|part| *part == key) else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    let written: &RawValue = map.next_value()?;
                    let length = written.get().len();
                    if length > PART {
                        let message = format!("`{key}` {REFUSED} has {length} bytes; {PART} is the limit");
                        return Err(A::Error::custom(message));
                    }
                    let part = serde_json::from_str(written.get()).map_err(A::Error::custom)?;
                    if parts[place].replace(part).is_some() {
                        return Err(A::Error::custom(format!("`{key}` {REFUSED} appears twice")));
                    }
                }
                Ok(Parts(parts.map(Option::unwrap_or_default)))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}
