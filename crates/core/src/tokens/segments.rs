//! Divides long texts into stretches that are encoded one after another: the library needs two hundred bytes of memory
//! per byte of text.
//!
//! A stretch ends where the result cannot depend on it: between a letter and a space followed by another letter. Every
//! known pre-tokenization rule splits there and looks no further. If text is not split at all, no token of the vocabulary
//! has a letter followed by a space, so no merge crosses. Letters are those of ASCII, and of other scripts if nothing
//! decomposes them. If text is split by one of these rules and nothing is put before it, a stretch may also end between
//! a letter and a line end, or a comma or full stop of Chinese and Japanese, which use no spaces.

use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer as Backend};

use super::disagreements::around;
use super::guard::guarded;
use super::pre_tokenizers;
use crate::error::{Error, ErrorKind, Result};

/// Longest text, in bytes, that is always encoded whole.
pub(super) const WHOLE: usize = 256 << 10;
/// Longest text, in bytes, that is encoded whole if its tokenizer cannot divide texts safely.
const LONGEST: usize = 8 << 20;
/// Longest part of a text, in bytes, that has no place to divide it: half a million tokens, in 200 MB of memory.
const WORD: usize = 1 << 20;

/// Ids, and for each the bytes of the text that it covers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pieces {
    pub(super) ids: Vec<u32>,
    pub(super) offsets: Vec<(usize, usize)>,
    /// Whether the text continues after them.
    pub(super) is_cut: bool,
}

/// How a tokenizer treats the space at the start of a stretch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stretches {
    before: Vec<u32>,
    behind: Vec<u32>,
    /// The space is omitted: the tokenizer puts one before every text.
    drops_blank: bool,
    /// Spans exclude the space before a token, except for the first of a text.
    trims_blank: bool,
    /// Stretches may also end between letters that are not ASCII.
    beyond_ascii: bool,
    /// Stretches may also end before one of the [`MARKS`].
    ends_before_marks: bool,
}

/// Characters that every known rule splits from a letter before them.
const MARKS: [char; 4] = ['\n', '\u{3001}', '\u{3002}', '\u{FF0C}'];

/// Whether every known rule treats a character as a letter, not as a combining mark, and normal forms C and KC keep it:
/// letters of Latin, Greek, Cyrillic, Hebrew, Arabic, Devanagari and Thai, kana, the common ideographs and Hangul
/// syllables.
fn is_letter(c: char) -> bool {
    matches!(c, 'a'..='z' | 'A'..='Z' | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{12F}'
        | '\u{3B1}'..='\u{3C9}' | '\u{400}'..='\u{45F}' | '\u{5D0}'..='\u{5EA}' | '\u{621}'..='\u{63A}'
        | '\u{641}'..='\u{64A}' | '\u{905}'..='\u{928}' | '\u{92A}'..='\u{930}' | '\u{E01}'..='\u{E2E}'
        | '\u{3041}'..='\u{3096}' | '\u{30A1}'..='\u{30FA}' | '\u{4E00}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7A3}')
}

fn is_ascii_letter(c: char) -> bool {
    c.is_ascii_alphabetic()
}

impl Stretches {
    /// `None` unless it can be shown that dividing changes nothing.
    pub(super) fn of(backend: &Backend) -> Option<Self> {
        let ModelWrapper::BPE(bpe) = backend.get_model() else { return None };
        let has_affixes = [&bpe.continuing_subword_prefix, &bpe.end_of_word_suffix]
            .into_iter()
            .any(|affix| affix.as_deref().is_some_and(|affix| !affix.is_empty()));
        let json = |part: serde_json::Result<Value>| part.unwrap_or_default();
        let normalizer = json(serde_json::to_value(backend.get_normalizer()));
        let pre_tokenizer = json(serde_json::to_value(backend.get_pre_tokenizer()));
        let post_processor = json(serde_json::to_value(backend.get_post_processor()));
        let blank = Blank::of(&normalizer)?;
        let cuts = cuts_at_blanks(&pre_tokenizer);
        let marked = blank.is_marked || pre_tokenizer["type"] == "Metaspace";
        // Whether a token of the vocabulary has such a letter followed by a space.
        let vocab = if cuts { Default::default() } else { tokenizers::Model::get_vocab(bpe) };
        let leads_across = |is_letter: fn(char) -> bool| {
            let crosses = |token: &String| {
                token.contains('\u{2581}')
                    && token.split('\u{2581}').rev().skip(1).any(|part| part.ends_with(is_letter))
            };
            vocab.keys().any(crosses)
        };
        let is_safe = match cuts {
            true => !marked,
            false => {
                marked
                    && stays_whole(&pre_tokenizer)
                    && tokenizers::Model::token_to_id(bpe, "\u{2581}").is_some()
                    && !leads_across(is_ascii_letter)
            }
        };
        let added = backend.get_added_tokens_decoder();
        let reaches = |is_letter: fn(char) -> bool| {
            added.values().any(|token| {
                let letter_then_blank =
                    |pair: &[char]| is_letter(pair[0]) && matches!(pair[1], ' ' | '\u{2581}');
                let letters: Vec<char> = token.content.chars().collect();
                // If every text gets a leading space, a stretch begins after its own; an added token takes its place
                // first, and would lose it.
                blank.is_prepended && letters.first().copied().is_some_and(is_letter)
                    || letters.windows(2).any(letter_then_blank)
                    || token.rstrip && letters.last().copied().is_some_and(is_letter)
            })
        };
        if has_affixes || !is_safe || reaches(is_ascii_letter) {
            return None;
        }
        let beyond_ascii = !blank.decomposes && !leads_across(is_letter) && !reaches(is_letter);
        let trims_blank = trims(&post_processor)?;
        let (before, behind) = around(backend)?;
        let adds_blank = |step: &Value| step["add_prefix_space"] == true;
        let leads_on = added.values().any(|token| {
            let letters: Vec<char> = token.content.chars().collect();
            letters.windows(2).any(|pair| is_letter(pair[0]) && MARKS.contains(&pair[1]))
                || token.rstrip && letters.last().copied().is_some_and(is_letter)
        });
        let ends_before_marks = cuts
            && !trims_blank
            && !blank.decomposes
            && !leads_on
            && !steps(&pre_tokenizer, "pretokenizers").iter().any(adds_blank);
        let drops_blank = blank.is_prepended;
        Some(Stretches { before, behind, drops_blank, trims_blank, beyond_ascii, ends_before_marks })
    }

    /// Encodes a text in stretches of about `length` bytes, until there are `limit` tokens. Tokens that end a text
    /// follow the last stretch, wherever that ends.
    pub(super) fn encode(
        &self,
        backend: &Backend,
        text: &str,
        special: bool,
        length: usize,
        limit: usize,
    ) -> Result<Pieces> {
        let mut found = Pieces::default();
        let around = |found: &mut Pieces, ids: &[u32]| {
            if special {
                found.ids.extend(ids);
                found.offsets.resize(found.ids.len(), (0, 0));
            }
        };
        around(&mut found, &self.before);
        let mut start = 0;
        while start < text.len() && found.ids.len() < limit {
            let end = self.border(text, start + length)?;
            let is_first = start == 0;
            let begins = if is_first || !self.drops_blank { start } else { start + 1 };
            let encoded = guarded("encode the text", || backend.encode(&text[begins..end], false))?;
            let first = found.offsets.len();
            found.ids.extend(encoded.get_ids());
            found.offsets.extend(encoded.get_offsets().iter().map(|(from, to)| (from + begins, to + begins)));
            if let (false, Some(span), Some(token)) =
                (is_first, found.offsets.get_mut(first), encoded.get_tokens().first())
            {
                let is_blank = matches!(token.as_str(), "\u{2581}" | "\u{120}");
                *span = match (self.drops_blank, self.trims_blank) {
                    (true, _) if is_blank => (start, start + 1),
                    (true, _) => (start, span.1),
                    (false, true) if is_blank => (start + 1, start + 1),
                    (false, true) => (start + 1, span.1),
                    (false, false) => *span,
                };
            }
            start = end;
        }
        found.is_cut = start < text.len();
        around(&mut found, &self.behind);
        Ok(found)
    }

    /// The first place at or near `wanted` where a stretch may end: after a letter and before a space and a letter, or
    /// before one of [`MARKS`] if allowed.
    fn border(&self, text: &str, wanted: usize) -> Result<usize> {
        let is_known = if self.beyond_ascii { is_letter } else { is_ascii_letter };
        let from = text.floor_char_boundary(wanted.min(text.len()).saturating_sub(1));
        let window = &text[from..text.floor_char_boundary(from.saturating_add(WORD))];
        let follows_letter = |at: usize| text[from + at + 1..].chars().next().is_some_and(is_known);
        let mut letter = None;
        let found = window.char_indices().find(|&(at, c)| match letter.replace(c) {
            Some(letter) if c == ' ' => is_known(letter) && follows_letter(at),
            Some(letter) => self.ends_before_marks && MARKS.contains(&c) && is_letter(letter),
            None => false,
        });
        match found {
            Some((at, _)) => Ok(from + at),
            None if text.len() - from <= WORD => Ok(text.len()),
            None => {
                let message =
                    format!("{WORD} bytes of the text, from byte {from}, have no blank between letters");
                Err(Error::new(ErrorKind::Tokenizer, message)
                    .hint("such a text is not encoded: split it, or give token ids"))
            }
        }
    }
}

/// The refusal of a text that is too long to encode whole.
pub(super) fn too_long(bytes: usize) -> Option<Error> {
    (bytes > LONGEST).then(|| {
        Error::new(
            ErrorKind::Tokenizer,
            format!(
                "a text of {bytes} bytes: this tokenizer has to encode texts whole, and {LONGEST} bytes are the limit"
            ),
        )
        .hint("split it, or give token ids")
    })
}

/// What a character-wise normalizer does to a space.
struct Blank {
    is_marked: bool,
    is_prepended: bool,
    /// Letters are decomposed into a letter and its marks.
    decomposes: bool,
}

impl Blank {
    /// `None` for another kind of normalizer.
    fn of(normalizer: &Value) -> Option<Blank> {
        let mut blank = Blank { is_marked: false, is_prepended: false, decomposes: false };
        let steps = match normalizer {
            Value::Null => &[],
            _ => steps(normalizer, "normalizers"),
        };
        for step in steps {
            match step["type"].as_str()? {
                "NFC" | "NFKC" | "Lowercase" => {}
                "NFD" | "NFKD" => blank.decomposes = true,
                "Prepend" if step["prepend"] == "\u{2581}" && !blank.is_marked => blank.is_prepended = true,
                "Replace" if step["pattern"]["String"] == " " && step["content"] == "\u{2581}" => {
                    blank.is_marked = true
                }
                _ => return None,
            }
        }
        (!blank.is_prepended || blank.is_marked).then_some(blank)
    }
}

fn steps<'a>(part: &'a Value, list: &str) -> &'a [Value] {
    match &part[list] {
        Value::Array(steps) => steps,
        _ => std::slice::from_ref(part),
    }
}

/// Whether text is always split between a letter and a space followed by a letter.
fn cuts_at_blanks(pre_tokenizer: &Value) -> bool {
    let is_gpt2 = |step: &Value| step["type"] == "ByteLevel" && step["use_regex"] == true;
    let is_bytes = |step: &Value| step["type"] == "ByteLevel" && step["use_regex"] == false;
    let known = |step: &Value| {
        let pattern = step["pattern"]["Regex"].as_str();
        step["type"] == "Split"
            && step["behavior"] == "Isolated"
            && step["invert"] == false
            && pattern.is_some_and(pre_tokenizers::cuts_at_blanks)
    };
    match steps(pre_tokenizer, "pretokenizers") {
        [one] => is_gpt2(one),
        [digits, bytes] if digits["type"] == "Digits" => is_gpt2(bytes),
        [split, bytes] => known(split) && is_bytes(bytes),
        _ => false,
    }
}

/// Whether marked text is never split.
fn stays_whole(pre_tokenizer: &Value) -> bool {
    match pre_tokenizer["type"].as_str() {
        None => pre_tokenizer.is_null(),
        Some("Metaspace") => pre_tokenizer["split"] == false && pre_tokenizer["replacement"] == "\u{2581}",
        // Gemma's, which no longer finds a space.
        Some("Split") => pre_tokenizer["pattern"]["String"] == " ",
        _ => false,
    }
}

/// Whether spans exclude leading spaces of tokens, except at the start; `None` if unknown.
fn trims(post_processor: &Value) -> Option<bool> {
    let mut trims = false;
    let steps = match post_processor {
        Value::Null => &[],
        _ => steps(post_processor, "processors"),
    };
    for step in steps {
        match step["type"].as_str()? {
            "TemplateProcessing" => {
                let texts = step["single"].as_array()?.iter().filter(|piece| piece.get("Sequence").is_some());
                if texts.count() != 1 {
                    return None;
                }
            }
            "ByteLevel" => trims |= step["trim_offsets"] == true && step["add_prefix_space"] == true,
            _ => return None,
        }
    }
    Some(trims)
}
