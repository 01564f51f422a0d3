//! Tokens with a role.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tokenizers::{PostProcessorWrapper, Tokenizer as Backend};

use crate::error::{Error, ErrorKind, Result};

/// The roles of tokens, as named in tokenizer_config.json.
pub(super) const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Role -> token, for the roles of [`ROLES`].
#[derive(Debug, Clone, Default)]
pub(super) struct NamedTokens(BTreeMap<&'static str, String>);

impl NamedTokens {
    pub(super) fn set(&mut self, role: &'static str, token: impl Into<String>) {
        self.0.insert(role, token.into());
    }

    pub(super) fn get(&self, role: &str) -> Option<&str> {
        self.0.get(role).map(String::as_str)
    }

    pub(super) fn id(&self, role: &str, backend: &Backend) -> Option<u32> {
        backend.token_to_id(self.get(role)?)
    }

    pub(super) fn ids<'a>(&'a self, backend: &'a Backend) -> impl Iterator<Item = u32> + 'a {
        self.0.values().filter_map(|token| backend.token_to_id(token))
    }

    /// Roles with their tokens.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(role, token)| (*role, token.as_str()))
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(String::as_str)
    }

    /// As entries of tokenizer_config.json, with null for unfilled roles: some classes fill in what is missing.
    pub(super) fn write_to(&self, settings: &mut Map<String, Value>) {
        for role in ROLES {
            settings.insert(role.to_owned(), json!(self.get(role)));
        }
    }
}

/// The post-processor that adds beginning and end, as set by `update_post_processor` of transformers
/// (tokenization_utils_tokenizers.py): a wanted token that is not in the vocabulary, such as an empty one, has the id of
/// the unknown token, and without that is omitted.
pub(super) fn template(
    named: &NamedTokens,
    backend: &Backend,
    adds_bos: bool,
    adds_eos: bool,
) -> Result<PostProcessorWrapper> {
    let token = |role: &str, wanted: bool| {
        let token = named.get(role).filter(|_| wanted)?;
        let id = backend.token_to_id(token).or_else(|| named.id("unk_token", backend))?;
        Some((token.to_owned(), id))
    };
    let (bos, eos) = (token("bos_token", adds_bos), token("eos_token", adds_eos));
    let special = |token: &Option<(String, u32)>, sequence: u32| {
        token.iter().map(|(token, _)| json!({"SpecialToken": {"id": token, "type_id": sequence}})).collect()
    };
    let around = |sequence: u32, name: &str| -> Vec<Value> {
        let text = vec![json!({"Sequence": {"id": name, "type_id": sequence}})];
        [special(&bos, sequence), text, special(&eos, sequence)].concat()
    };
    let special_tokens: Map<String, Value> = [&bos, &eos]
        .into_iter()
        .flatten()
        .map(|(token, id)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    let pair = [around(0, "A"), around(1, "B")].concat();
    serde_json::from_value(json!({
        "type": "TemplateProcessing",
        "single": around(0, "A"),
        "pair": pair,
        "special_tokens": special_tokens,
    }))
    .map_err(|e| Error::new(ErrorKind::Tokenizer, format!("cannot add the special tokens: {e}")))
}

/// The post-processor that puts one role's token before a text and another's after it; `None` if the vocabulary lacks
/// one.
pub(super) fn around(
    named: &NamedTokens,
    backend: &Backend,
    before: &str,
    behind: &str,
) -> Result<Option<PostProcessorWrapper>> {
    let token = |role: &str| Some((named.get(role)?, named.id(role, backend)?));
    let (Some(before), Some(behind)) = (token(before), token(behind)) else { return Ok(None) };
    let described = json!({"type": "RobertaProcessing", "sep": behind, "cls": before, "trim_offsets": true,
        "add_prefix_space": false});
    let built = serde_json::from_value(described)
        .map_err(|e| Error::new(ErrorKind::Tokenizer, format!("cannot add the special tokens: {e}")))?;
    Ok(Some(built))
}
