//! Text to token ids and back, with the ids of transformers.
//!
//! A thin layer over the crate `tokenizers`. Added here: reading a model folder's settings like `AutoTokenizer`
//! ([`Tokenizer::from_folder`]), rebuilding a tokenizer from GGUF metadata ([`Tokenizer::from_gguf`]), and queries
//! about single tokens that never fail, whatever the vocabulary holds.

mod chat;
mod class;
mod disagreements;
mod files;
mod folder;
mod from_gguf;
mod guard;
mod limits;
mod merges;
mod named;
mod pre_tokenizers;
mod rebuilt;
mod roads;
mod save;
mod segments;
mod settings;
mod spelling;
mod vocab_files;
mod vocabulary;

#[cfg(test)]
mod folder_tests;
#[cfg(test)]
mod length_tests;
#[cfg(test)]
mod pattern_tests;
#[cfg(test)]
mod road_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use tokenizers::normalizers::NFC;
use tokenizers::{NormalizedString, Normalizer, Tokenizer as Backend};

use crate::error::{Error, ErrorKind, Result};
use guard::guarded;
use named::NamedTokens;
use segments::{Pieces, Stretches};
use spelling::Spelling;

pub use chat::{Answer, Chat, ChatOptions, ChatTemplates, LocalTime, Message};
pub use spelling::{TokenContent, TokenText};

/// A model's tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    backend: Backend,
    named: NamedTokens,
    special_ids: Vec<u32>,
    spelling: Spelling,
    templates: ChatTemplates,
    /// The contents of tokenizer_config.json when it is saved.
    settings: serde_json::Map<String, serde_json::Value>,
    manners: Manners,
    warnings: Vec<String>,
    /// How long texts are divided: determined when the first one comes.
    stretches: OnceLock<Option<Stretches>>,
}

/// A side of a row of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side {
    /// The beginning.
    Left,
    /// The end.
    #[default]
    Right,
}

impl Side {
    /// `left` or `right`, as in tokenizer_config.json.
    pub fn name(self) -> &'static str {
        match self {
            Side::Left => "left",
            Side::Right => "right",
        }
    }
}

/// A tokenizer's defaults besides dividing text.
#[derive(Debug, Clone, Copy, Default)]
struct Manners {
    padding_side: Side,
    truncation_side: Side,
    max_length: Option<usize>,
    /// Whether spaces before punctuation are removed from decoded text.
    cleans_up: bool,
    prefix: Option<Prefix>,
    /// Whether the model might compose text first (é of e and an accent), which is not done here.
    may_compose: bool,
}

/// A space is put before a text only if it has none, although the vocabulary was learned with one always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefix {
    /// Because of a folder's class, against its tokenizer.json.
    FirstOfFolder,
    /// Because transformers reads a GGUF file so, against SentencePiece and llama.cpp.
    FirstOfGguf,
}

/// Whether an encoded text begins with the beginning-of-sequence token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bos {
    /// As the model's own tokenizer does, including its other added tokens.
    #[default]
    Auto,
    /// Always: prepended if the tokenizer has not done so itself.
    Yes,
    /// Never, nor any other added token: only the text.
    No,
}

/// A text as tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoded {
    /// The tokens' ids.
    pub ids: Vec<u32>,
    /// For each token, the bytes of the text that it covers; an empty span for added tokens. Spans end at character
    /// boundaries: if one character is divided into several byte tokens, each of them covers the whole character.
    pub offsets: Vec<(usize, usize)>,
    /// Whether the first token is the beginning-of-sequence token.
    pub starts_with_bos: bool,
}

impl Tokenizer {
    /// Encodes `text` as tokens.
    ///
    /// # Errors
    /// If `bos` is [`Bos::Yes`] and the tokenizer has no such token, or the tokenizer cannot read the text (a
    /// vocabulary without its characters and without an unknown token).
    pub fn encode(&self, text: &str, bos: Bos) -> Result<Encoded> {
        Ok(self.encode_up_to(text, bos, usize::MAX)?.0)
    }

    /// Encodes `text` until there are `limit` tokens or a few more, and returns whether that is the whole text, so that
    /// a long text need not be read to its end when only its beginning is wanted. Tokens added after every text then
    /// follow that beginning.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_up_to(&self, text: &str, bos: Bos, limit: usize) -> Result<(Encoded, bool)> {
        let Pieces { mut ids, offsets, is_cut } = self.pieces(text, bos != Bos::No, limit)?;
        let mut offsets: Vec<_> = offsets.into_iter().map(|span| on_characters(text, span)).collect();
        let starts_with_bos = |ids: &[u32]| self.bos_id().is_some() && ids.first().copied() == self.bos_id();
        if bos == Bos::Yes && !starts_with_bos(&ids) {
            let id = self.bos_id().ok_or_else(|| {
                Error::new(ErrorKind::Tokenizer, "this tokenizer has no beginning-of-sequence token")
                    .hint("encode without one: `--bos auto` or `--bos no`")
            })?;
            ids.insert(0, id);
            offsets.insert(0, (0, 0));
        }
        Ok((Encoded { starts_with_bos: starts_with_bos(&ids), ids, offsets }, !is_cut))
    }

    fn pieces(&self, text: &str, special: bool, limit: usize) -> Result<Pieces> {
        if text.len() > segments::WHOLE {
            let stretches = self.stretches.get_or_init(|| Stretches::of(&self.backend));
            if let Some(stretches) = stretches {
                return stretches.encode(&self.backend, text, special, segments::WHOLE, limit);
            }
            if let Some(refusal) = segments::too_long(text.len()) {
                return Err(refusal);
            }
        }
        limits::check_growth(&self.backend, text)?;
        let encoding = guarded("encode the text", || self.backend.encode(text, special))?;
        Ok(Pieces {
            ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
            is_cut: false,
        })
    }

    /// The text of `ids`, without special tokens if `skip_special`. An id without a token is shown as `<id N>`.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let mut text = String::new();
        for run in ids.chunk_by(|&a, &b| self.is_named(a) && self.is_named(b)) {
            match run {
                [unnamed] if !self.is_named(*unnamed) => text.push_str(&format!("<id {unnamed}>")),
                named => text.push_str(&guarded("decode", || self.backend.decode(named, skip_special))?),
            }
        }
        Ok(if self.manners.cleans_up { cleaned_up(&text) } else { text })
    }

    /// Warnings about contradictions in its files, and which side was followed.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A warning about `text` itself, if its tokens depend on which of two sources is followed.
    pub fn warning_for(&self, text: &str) -> Option<String> {
        if self.manners.may_compose && !is_composed(text) {
            return Some(
                "the text has letters and accents as separate characters: as in llama.cpp they stay separate, but nothing \
                 known here says whether the model's own tokenizer joins them first; text that is already joined (Unicode's \
                 form NFC) has no such doubt"
                    .to_owned(),
            );
        }
        let prefix = self.manners.prefix?;
        let begins = text.starts_with([' ', '\u{2581}']);
        let goes_on = |token: &str| text.find(token).is_some_and(|at| at + token.len() < text.len());
        let added = self.backend.get_added_vocabulary().get_vocab();
        let what = match begins {
            true => "the text begins with a blank",
            false if added.keys().any(|token| goes_on(token)) => "text stands behind a special token",
            false => return None,
        };
        let other = match prefix {
            Prefix::FirstOfFolder => "its tokenizer.json",
            Prefix::FirstOfGguf => "llama.cpp",
        };
        Some(format!(
            "{what}: as in transformers 5 no further blank is put there; with {other}, as with SentencePiece, there would be"
        ))
    }

    /// The side on which rows are padded.
    pub fn padding_side(&self) -> Side {
        self.manners.padding_side
    }

    /// The side on which long rows are truncated.
    pub fn truncation_side(&self) -> Side {
        self.manners.truncation_side
    }

    /// The maximum number of tokens per row, if the settings state one.
    pub fn max_length(&self) -> Option<usize> {
        self.manners.max_length
    }

    /// The text of one token.
    pub fn token_text(&self, id: u32) -> TokenText {
        let content = match self.backend.id_to_token(id) {
            None => TokenContent::Unnamed(id),
            Some(token) if self.backend.get_added_vocabulary().simple_id_to_token(id).is_some() => {
                TokenContent::Text(token)
            }
            Some(token) => self.spelling.read(&token),
        };
        TokenText { content, special: self.is_special(id) }
    }

    /// The token that `text` is, if it is exactly one.
    ///
    /// ` each` is `\u{2581}each` even if the tokenizer puts another space before a text.
    pub fn single_token(&self, text: &str) -> Option<u32> {
        let one = |text: &str| match self.encode(text, Bos::No).ok()?.ids.as_slice() {
            [id] => Some(*id),
            _ => None,
        };
        one(text).or_else(|| {
            let id = one(text.strip_prefix(' ')?)?;
            let stands_for = self.spelling.read(&self.backend.id_to_token(id)?);
            (stands_for == TokenContent::Text(text.to_owned())).then_some(id)
        })
    }

    /// Ids of all special tokens, ascending: those with a role (beginning, end, padding, ...) and those that the
    /// vocabulary marks as special.
    pub fn special_ids(&self) -> &[u32] {
        &self.special_ids
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special_ids.binary_search(&id).is_ok()
    }

    /// The beginning-of-sequence token.
    pub fn bos_id(&self) -> Option<u32> {
        self.named_id("bos_token")
    }

    /// The end-of-sequence token.
    pub fn eos_id(&self) -> Option<u32> {
        self.named_id("eos_token")
    }

    /// The padding token.
    pub fn pad_id(&self) -> Option<u32> {
        self.named_id("pad_token")
    }

    /// Number of tokens, including added ones. A model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.backend.get_vocab_size(true)
    }

    /// The model's chat template (Jinja), if it has one; if it has several, the default.
    pub fn chat_template(&self) -> Option<&str> {
        self.templates.get("default")
    }

    /// All of its chat templates.
    pub fn chat_templates(&self) -> &ChatTemplates {
        &self.templates
    }

    fn new(
        backend: Backend,
        named: NamedTokens,
        templates: ChatTemplates,
        settings: serde_json::Map<String, serde_json::Value>,
        manners: Manners,
        warnings: Vec<String>,
    ) -> Result<Self> {
        let mut special: BTreeSet<u32> = named.ids(&backend).collect();
        let added = backend.get_added_tokens_decoder();
        special.extend(added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id));
        let spelling = Spelling::of(&backend)?;
        let special_ids = special.into_iter().collect();
        Ok(Tokenizer {
            backend,
            named,
            special_ids,
            spelling,
            templates,
            settings,
            manners,
            warnings,
            stretches: OnceLock::new(),
        })
    }

    fn named_id(&self, role: &str) -> Option<u32> {
        self.named.id(role, &self.backend)
    }

    fn is_named(&self, id: u32) -> bool {
        self.backend.id_to_token(id).is_some()
    }
}

/// The span widened to whole characters and clamped to the text, so that it can be used for slicing.
fn on_characters(text: &str, (start, end): (usize, usize)) -> (usize, usize) {
    let start = text.floor_char_boundary(start);
    (start, text.ceil_char_boundary(end.min(text.len())).max(start))
}

/// Whether text is in Unicode's composed form.
fn is_composed(text: &str) -> bool {
    // By lines, since the library keeps a record of every byte; nothing composes with a line end.
    text.is_ascii()
        || text.lines().all(|line| {
            let mut composed = NormalizedString::from(line);
            NFC.normalize(&mut composed).is_err() || composed.get() == line
        })
}

/// Removes the spaces that a word vocabulary leaves before punctuation (`clean_up_tokenization` of transformers).
fn cleaned_up(text: &str) -> String {
    let pairs = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
