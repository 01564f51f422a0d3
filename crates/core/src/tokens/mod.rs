//! Text to token ids and back, with the ids that transformers gives.
//!
//! Thin over the crate `tokenizers`. What is added here: reading a model folder's settings as `AutoTokenizer` does
//! ([`Tokenizer::from_folder`]), rebuilding a tokenizer from GGUF metadata ([`Tokenizer::from_gguf`]), and answers about
//! single tokens that never fail, whatever the vocabulary holds.

mod chat;
mod folder;
mod from_gguf;
mod guard;
mod merges;
mod named;
mod pre_tokenizers;
mod save;
mod spelling;
mod vocab_files;
mod vocabulary;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use tokenizers::Tokenizer as Backend;

use crate::error::{Error, ErrorKind, Result};
use guard::guarded;
use named::NamedTokens;
use spelling::Spelling;

pub use chat::{Answer, Message};
pub use spelling::{TokenContent, TokenText};

/// A model's tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    backend: Backend,
    named: NamedTokens,
    special_ids: Vec<u32>,
    spelling: Spelling,
    chat_template: Option<String>,
    /// What stands in tokenizer_config.json when it is saved.
    settings: serde_json::Map<String, serde_json::Value>,
}

/// Whether an encoded text begins with the beginning-of-sequence token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bos {
    /// As the model's own tokenizer does, its other added tokens included.
    #[default]
    Auto,
    /// Always: put in front if the tokenizer has not done so itself.
    Yes,
    /// Never, and no other added token either: the text alone.
    No,
}

/// A text as tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoded {
    /// The tokens' ids.
    pub ids: Vec<u32>,
    /// For each token the bytes of the text that it stands for; an empty span for tokens that were added. Spans lie on
    /// character boundaries: the tokens of one character that was cut into bytes all have the whole character.
    pub offsets: Vec<(usize, usize)>,
    /// Whether the first token is the beginning-of-sequence token.
    pub starts_with_bos: bool,
}

impl Tokenizer {
    /// Cuts `text` into tokens.
    ///
    /// # Errors
    /// If `bos` is [`Bos::Yes`] and the tokenizer has no such token, or the tokenizer cannot read the text (a vocabulary
    /// without its characters and without an unknown token).
    pub fn encode(&self, text: &str, bos: Bos) -> Result<Encoded> {
        let add_special = bos != Bos::No;
        let encoding = guarded("encode the text", || self.backend.encode(text, add_special))?;
        let mut ids = encoding.get_ids().to_vec();
        let mut offsets: Vec<_> =
            encoding.get_offsets().iter().map(|&span| on_characters(text, span)).collect();
        let starts_with_bos = |ids: &[u32]| self.bos_id().is_some() && ids.first().copied() == self.bos_id();
        if bos == Bos::Yes && !starts_with_bos(&ids) {
            let id = self.bos_id().ok_or_else(|| {
                Error::new(ErrorKind::Tokenizer, "this tokenizer has no beginning-of-sequence token")
                    .hint("encode without one: `--bos auto` or `--bos no`")
            })?;
            ids.insert(0, id);
            offsets.insert(0, (0, 0));
        }
        Ok(Encoded { starts_with_bos: starts_with_bos(&ids), ids, offsets })
    }

    /// The text that `ids` stand for; special tokens are left out if `skip_special`. An id that no token names is shown
    /// as `<id N>`.
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
        Ok(text)
    }

    /// What one token stands for.
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
    pub fn single_token(&self, text: &str) -> Option<u32> {
        match self.encode(text, Bos::No).ok()?.ids.as_slice() {
            [id] => Some(*id),
            _ => None,
        }
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

    /// Number of tokens, added ones included. A model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.backend.get_vocab_size(true)
    }

    /// The model's chat template (Jinja), if it has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    fn new(
        backend: Backend,
        named: NamedTokens,
        chat_template: Option<String>,
        settings: serde_json::Map<String, serde_json::Value>,
    ) -> Result<Self> {
        let mut special: BTreeSet<u32> = named.ids(&backend).collect();
        let added = backend.get_added_tokens_decoder();
        special.extend(added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id));
        let spelling = Spelling::of(&backend)?;
        let special_ids = special.into_iter().collect();
        Ok(Tokenizer { backend, named, special_ids, spelling, chat_template, settings })
    }

    fn named_id(&self, role: &str) -> Option<u32> {
        self.named.id(role, &self.backend)
    }

    fn is_named(&self, id: u32) -> bool {
        self.backend.id_to_token(id).is_some()
    }
}

/// The span widened to whole characters and held within the text: it will be used to slice.
fn on_characters(text: &str, (start, end): (usize, usize)) -> (usize, usize) {
    let start = text.floor_char_boundary(start);
    (start, text.ceil_char_boundary(end.min(text.len())).max(start))
}
