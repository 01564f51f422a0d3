//! The vocabulary as written in its files, which is how other libraries speak of tokens.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::Tokenizer;
use super::named::ROLES;

impl Tokenizer {
    /// The id of a token as the vocabulary writes it (`ĠParis`).
    pub fn id_of_token(&self, token: &str) -> Option<u32> {
        self.backend.token_to_id(token)
    }

    /// The token of an id as the vocabulary writes it.
    pub fn token_of_id(&self, id: u32) -> Option<String> {
        self.backend.id_to_token(id)
    }

    /// Every token, added ones included.
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

    /// The tokens that have a role, by the names of tokenizer_config.json: `bos_token`, `pad_token` and so on.
    pub fn roles(&self) -> impl Iterator<Item = (&'static str, &str)> {
        ROLES.into_iter().filter_map(|role| Some((role, self.named.get(role)?)))
    }

    /// What tokenizer_config.json says.
    pub fn settings(&self) -> &Map<String, Value> {
        &self.settings
    }
}
