//! The vocabulary as written in its files, which is how other libraries name tokens.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::Tokenizer;
use super::named::ROLES;

impl Tokenizer {
    /// The id of a token, spelt as in the vocabulary (`ĠParis`).
    pub fn id_of_token(&self, token: &str) -> Option<u32> {
        self.backend.token_to_id(token)
    }

    /// The token of an id, spelt as in the vocabulary.
    pub fn token_of_id(&self, id: u32) -> Option<String> {
        self.backend.id_to_token(id)
    }

    /// Every token, including added ones.
    pub fn vocabulary(&self) -> HashMap<String, u32> {
        self.backend.get_vocab(true)
    }

    /// Tokens that were added to the vocabulary, with their ids, ascending.
    pub fn added_tokens(&self) -> Vec<(String, u32)> {
        let added = self.backend.get_added_tokens_decoder();
        let mut listed: Vec<_> = added.into_iter().map(|(id, token)| (token.content, id)).collect();
        listed.sort_by_key(|(_, id)| *id);
        listed
    }

    /// The tokens with a role, by their names in tokenizer_config.json: `bos_token`, `pad_token` and so on.
    pub fn roles(&self) -> impl Iterator<Item = (&'static str, &str)> {
        ROLES.into_iter().filter_map(|role| Some((role, self.named.get(role)?)))
    }

    /// The contents of tokenizer_config.json.
    pub fn settings(&self) -> &Map<String, Value> {
        &self.settings
    }
}
