//! The small files next to a vocabulary, merged as in transformers (`PreTrainedTokenizerBase._from_pretrained`,
//! tokenization_utils_base.py).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use indexmap::IndexMap;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer as Backend};

use super::ChatTemplates;
use super::class::Class;
use super::files::{read_object, read_text};
use super::named::ROLES;
use crate::error::{Error, ErrorKind, Result};

/// The files' contents.
pub(super) struct Settings {
    /// tokenizer_config.json.
    pub(super) config: Map<String, Value>,
    /// special_tokens_map.json.
    pub(super) map: Map<String, Value>,
    /// added_tokens.json.
    pub(super) added: Map<String, Value>,
    /// config.json.
    pub(super) model: Map<String, Value>,
    pub(super) templates: ChatTemplates,
}

/// A token named in the settings: by its text alone, or with matching options.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Named {
    Text(String),
    Token(Written),
}

impl Named {
    pub(super) fn text(&self) -> &str {
        match self {
            Named::Text(text) => text,
            Named::Token(written) => written.text(),
        }
    }

    /// As a token to add: a text is special, and whatever `is_special`.
    pub(super) fn into_added(self, is_special: bool) -> AddedToken {
        match self {
            Named::Text(text) => AddedToken::from(text, true),
            Named::Token(written) => written.into_added(is_special),
        }
    }
}

/// A token with the options that a file gives it.
#[derive(Debug, Clone)]
pub(super) struct Written {
    token: AddedToken,
    /// Whether the file gives `normalized`. If not, a token is normalised unless it is special when it is added, which
    /// may have changed by then.
    gives_normalized: bool,
}

impl PartialEq for Written {
    fn eq(&self, other: &Self) -> bool {
        self.token == other.token
    }
}

impl Written {
    /// `special` is what the token is if `value` does not say it.
    fn read(value: &Value, special: bool) -> Option<Written> {
        let flag = |name: &str| value.get(name).and_then(Value::as_bool);
        let special = flag("special").unwrap_or(special);
        let token = AddedToken::from(content(value)?, special)
            .normalized(flag("normalized").unwrap_or(!special))
            .single_word(flag("single_word").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false));
        Some(Written { token, gives_normalized: flag("normalized").is_some() })
    }

    pub(super) fn text(&self) -> &str {
        &self.token.content
    }

    fn into_added(self, is_special: bool) -> AddedToken {
        let special = self.token.special || is_special;
        let normalized = if self.gives_normalized { self.token.normalized } else { !special };
        AddedToken { special, normalized, ..self.token }
    }
}

/// The settings merged.
pub(super) struct Merged {
    /// Role -> token, first those of [`ROLES`], then a model's own such as `image_token`.
    pub(super) roles: IndexMap<String, Named>,
    /// Special tokens without a role.
    pub(super) extra: Vec<Named>,
    /// Tokens by the ids given in some file.
    pub(super) listed: BTreeMap<u32, Written>,
}

impl Settings {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let object = |name: &str| read_object(&folder.join(name));
        let config = object("tokenizer_config.json")?;
        let templates = ChatTemplates::read(folder, &config, read_text)?;
        Ok(Settings {
            config,
            map: object("special_tokens_map.json")?,
            added: object("added_tokens.json")?,
            model: object("config.json")?,
            templates,
        })
    }

    /// Whether tokenizer_config.json has `added_tokens_decoder`; if so, two older files are ignored.
    pub(super) fn has_decoder(&self) -> bool {
        self.config.contains_key("added_tokens_decoder")
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.config.get(key).and_then(Value::as_bool)
    }

    /// The tokens that the settings name, for a class and for tokenizer.json's padding and [`added_tokens`].
    pub(super) fn merge(
        &self,
        class: Class,
        file: Option<&Backend>,
        added_tokens: &[Value],
    ) -> Result<Merged> {
        let mut stated: IndexMap<&str, &Value> = self.config.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let mut entries = Vec::new();
        if let Some(decoder) = self.config.get("added_tokens_decoder") {
            for (id, token) in decoder.as_object().into_iter().flatten() {
                let number: u32 =
                    id.parse().map_err(|_| wrong(format!("`added_tokens_decoder`: `{id}` is not an id")))?;
                let token = Written::read(token, false)
                    .ok_or_else(|| wrong("an entry of `added_tokens_decoder` has no `content`".to_owned()))?;
                entries.push((number, token));
            }
        } else {
            stated.extend(self.map.iter().map(|(key, value)| (key.as_str(), value)));
        }
        let Extra { marked, all: extra } = self.extra(class)?;
        if !self.has_decoder() {
            // Of an object in tokenizer_config.json transformers has not yet read the text at this point.
            let text_of = |role: &str| match self.map.get(role) {
                Some(value) => content(value),
                None => self.config.get(role)?.as_str(),
            };
            let is_special = |token: &str| {
                ROLES.iter().any(|role| text_of(role) == Some(token))
                    || marked.iter().any(|text| text == token)
            };
            for (token, id) in &self.added {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                    let message = format!("`{}` has {id}, which is not an id", token.escape_debug());
                    Error::new(ErrorKind::Format, message).at("added_tokens.json")
                })?;
                let token = AddedToken::from(token.as_str(), is_special(token));
                entries.push((id, Written { token, gives_normalized: true }));
            }
            // If the vocabulary has a token under another id, the library uses that; transformers merges by this one.
            let id = |token: &Value| token.get("id")?.as_u64().and_then(|id| u32::try_from(id).ok());
            entries.extend(
                added_tokens.iter().filter_map(|token| Some((id(token)?, Written::read(token, false)?))),
            );
        }
        // An entry of the same id takes another's place in the list, but roles find both.
        let by_text = entries.iter().map(|(_, token)| (token.text(), token)).collect();
        let roles = self.roles(class, &stated, &by_text, file)?;
        let listed = entries.into_iter().collect();
        Ok(Merged { roles, extra, listed })
    }

    fn roles(
        &self,
        class: Class,
        stated: &IndexMap<&str, &Value>,
        by_text: &HashMap<&str, &Written>,
        file: Option<&Backend>,
    ) -> Result<IndexMap<String, Named>> {
        let known = |named: Named| {
            let found = by_text.get(named.text()).copied();
            found.map_or(named, |token| Named::Token(token.clone()))
        };
        let padding = file.and_then(|file| file.get_padding()).filter(|_| !class.decides_padding_token());
        let default = |role: &str| match (role, padding) {
            ("pad_token", Some(padding)) => Some(padding.pad_token.as_str()),
            _ => class.default_roles().iter().find(|(of, _)| *of == role).map(|(_, token)| *token),
        };
        let mut roles = IndexMap::new();
        for role in ROLES {
            let named = match stated.get(role) {
                Some(Value::Null) => None,
                Some(value) => Some(known(
                    named(value)
                        .ok_or_else(|| wrong(format!("`{role}` is {value}, neither a token nor null")))?,
                )),
                None => default(role).map(|token| Named::Text(token.to_owned())),
            };
            roles.extend(named.map(|named| (role.to_owned(), named)));
        }
        for (role, token) in class.default_roles().iter().filter(|(role, _)| !ROLES.contains(role)) {
            roles.insert((*role).to_owned(), Named::Text((*token).to_owned()));
        }
        roles.extend(self.own_roles());
        Ok(roles)
    }

    /// Roles of the model's own, such as `image_token`. A later entry of the same role wins.
    fn own_roles(&self) -> Vec<(String, Named)> {
        let [extra, model_specific] = ["extra_special_tokens", "model_specific_special_tokens"];
        let of = |file: &Map<String, Value>, key: &str| file.get(key).and_then(Value::as_object).cloned();
        let is_own = |key: &str| key.ends_with("_token") && !ROLES.contains(&key);
        let own = |file: &Map<String, Value>, is_text: fn(&Value) -> bool| -> Map<String, Value> {
            let own = file.iter().filter(|(key, value)| is_own(key) && is_text(value));
            own.map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        // transformers gathers the roles that tokenizer_config.json spells as texts under `model_specific_special_tokens`,
        // in place of what stands there.
        let mut gathered = own(&self.config, Value::is_string);
        gathered.extend(of(&self.config, extra).unwrap_or_default());
        if gathered.is_empty() {
            gathered = of(&self.config, model_specific).unwrap_or_default();
        }
        let mut all = vec![own(&self.config, |value| !value.is_string())];
        if !self.has_decoder() {
            all.push(own(&self.map, |_| true));
            gathered = of(&self.map, model_specific).unwrap_or(gathered);
            gathered.extend(of(&self.map, extra).unwrap_or_default());
        }
        all.push(gathered);
        let entries = all.into_iter().flatten();
        entries.filter_map(|(role, value)| Some((role, named(&value)?))).collect()
    }

    /// Special tokens without a role.
    fn extra(&self, class: Class) -> Result<Extra> {
        let [key, older] = ["extra_special_tokens", "additional_special_tokens"];
        let is_filled = |value: &Value| match value {
            Value::Array(tokens) => !tokens.is_empty(),
            Value::Object(tokens) => !tokens.is_empty(),
            _ => false,
        };
        let present = self.config.get(key);
        let (mut tokens, mut left) = match (present, self.config.get(older)) {
            (Some(present), Some(older)) if !is_filled(present) => {
                (Some(tokens_of(older, key, false)?), None)
            }
            (None, Some(older)) => (Some(tokens_of(older, key, false)?), None),
            // An object assigns roles to its tokens.
            (Some(Value::Object(_)), older) => (None, older),
            (Some(present), older) => (Some(tokens_of(present, key, false)?), older),
            (None, None) => (None, None),
        };
        let is_text = |named: &&Named| matches!(named, Named::Text(_));
        let texts = tokens.iter().flatten().filter(is_text).map(|named| named.text().to_owned());
        let mut marked: Vec<String> = texts.collect();
        if !self.has_decoder() {
            match self.map.get(key) {
                Some(Value::Object(_)) => {
                    tokens = None;
                    marked.clear();
                }
                Some(value @ Value::Array(_)) => {
                    let tokens = tokens.get_or_insert_default();
                    for token in tokens_of(value, key, true)? {
                        marked.push(token.text().to_owned());
                        if !tokens.contains(&token) {
                            tokens.push(token);
                        }
                    }
                }
                _ => {}
            }
            left = self.map.get(older).or(left);
        }
        let all = match (tokens, left) {
            (Some(tokens), _) => tokens,
            (None, Some(left)) => tokens_of(left, older, false)?,
            (None, None) => {
                let own = class.default_roles().iter().filter(|(role, _)| !ROLES.contains(role));
                own.map(|(_, token)| Named::Text((*token).to_owned())).collect()
            }
        };
        Ok(Extra { marked, all })
    }
}

/// Special tokens without a role.
struct Extra {
    /// Those by which transformers knows that a token of added_tokens.json is special: it has read the older name for
    /// them only where the present one is not in use, and no objects of tokenizer_config.json.
    marked: Vec<String>,
    all: Vec<Named>,
}

/// Tokens of a list. `special` is what an object with `__type` is that does not say it: special in special_tokens_map.json,
/// but not in tokenizer_config.json, though all of them are in a list of special tokens. One without `__type` is special:
/// earlier releases of transformers read it so, and 5 not at all.
fn tokens_of(value: &Value, key: &str, special: bool) -> Result<Vec<Named>> {
    let listed = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let read = |token: &Value| {
        let special = special || token.get("__type").is_none();
        named_as(token, special).ok_or_else(|| wrong(format!("`{key}` has {token}, which is not a token")))
    };
    listed.iter().map(read).collect()
}

/// A token is written as a string, or as an object with its text under `content`.
pub(super) fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn named(value: &Value) -> Option<Named> {
    named_as(value, false)
}

/// A token as a text or an object. An object that does not say whether it is special is as stated.
fn named_as(value: &Value, special: bool) -> Option<Named> {
    match value {
        Value::String(text) => Some(Named::Text(text.clone())),
        Value::Object(_) => Written::read(value, special).map(Named::Token),
        _ => None,
    }
}

/// `added_tokens` of tokenizer.json, as they stand.
pub(super) fn added_tokens(file: &[u8]) -> Vec<Value> {
    let parts: HashMap<String, &RawValue> = serde_json::from_slice(file).unwrap_or_default();
    let tokens = parts.get("added_tokens").and_then(|tokens| serde_json::from_str(tokens.get()).ok());
    tokens.unwrap_or_default()
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Format, message).at("tokenizer_config.json")
}
