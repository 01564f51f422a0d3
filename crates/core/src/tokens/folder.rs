//! A model folder's tokenizer, read as transformers' `AutoTokenizer` reads it.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::{AddedToken, ModelWrapper, Tokenizer as Backend};

use super::guard::guarded;
use super::named::{self, NamedTokens, ROLES};
use super::{Tokenizer, vocab_files};
use crate::error::{Error, ErrorKind, Result};

/// Longest file read, in bytes: the largest tokenizer.json in use has 35 MB.
const MAX_FILE: u64 = 256 << 20;

impl Tokenizer {
    /// The tokenizer of a model's folder: `tokenizer.json`, or `vocab.json` with `merges.txt`; with the settings in
    /// `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja`.
    ///
    /// # Errors
    /// If there is neither, a file is wrong, or the tokenizer's kind is not one that is built (SentencePiece's
    /// `tokenizer.model` alone).
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let mut settings = Settings::read(folder)?;
        let whole = folder.join("tokenizer.json");
        let mut backend = if whole.exists() {
            let bytes = read(&whole)?;
            let backend = guarded("read it", || Backend::from_bytes(&bytes));
            backend.and_then(without_dropout).map_err(|e| e.at(whole.display()))?
        } else if let Some((vocab, merges)) = vocab_files::present(folder) {
            vocab_files::build(&read_text(&vocab)?, &read_text(&merges)?, &settings.class, &settings.config)
                .map_err(|e| e.at(folder.display()))?
        } else {
            return Err(nothing_to_read(folder).at(folder.display()));
        };
        // Limits and padding of its training run; AutoTokenizer switches them off unless a call asks for them.
        backend.with_padding(None);
        guarded("lift its length limit", || backend.with_truncation(None).map(|_| ()))?;
        settings.name_defaults(&backend);
        settings.add_tokens(&mut backend)?;
        settings.add_ends(&mut backend)?;
        Tokenizer::new(backend, settings.named, settings.chat_template, settings.config)
    }
}

/// Refuses merges that are left out at random: a text would have other tokens each time.
fn without_dropout(backend: Backend) -> Result<Backend> {
    match backend.get_model() {
        ModelWrapper::BPE(bpe) if bpe.dropout.is_some_and(|share| share > 0.0) => Err(Error::new(
            ErrorKind::Unsupported,
            "`dropout` of the model leaves out merges at random, as in training",
        )
        .hint("set `dropout` to null")),
        _ => Ok(backend),
    }
}

/// What stands beside the vocabulary.
struct Settings {
    config: Map<String, Value>,
    /// `tokenizer_class` without `Fast`; empty if absent.
    class: String,
    named: NamedTokens,
    chat_template: Option<String>,
}

impl Settings {
    fn read(folder: &Path) -> Result<Self> {
        let config = read_object(&folder.join("tokenizer_config.json"))?;
        let map = read_object(&folder.join("special_tokens_map.json"))?;
        let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        let class = class.strip_suffix("Fast").unwrap_or(class).to_owned();
        let mut named = NamedTokens::default();
        for role in ROLES {
            if let Some(token) = config.get(role).or_else(|| map.get(role)).and_then(content) {
                named.set(role, token);
            }
        }
        let jinja = folder.join("chat_template.jinja");
        let chat_template = if jinja.exists() {
            Some(read_text(&jinja)?)
        } else {
            config.get("chat_template").and_then(default_template)
        };
        Ok(Settings { config, class, named, chat_template })
    }

    /// Gives the roles that nothing is said about the tokens that the class has for them, if the vocabulary knows them.
    fn name_defaults(&mut self, backend: &Backend) {
        for role in ROLES.into_iter().filter(|role| !self.config.contains_key(*role)) {
            let default = class_default(&self.class, role);
            if let (None, Some(token)) = (self.named.get(role), default)
                && backend.token_to_id(token).is_some()
            {
                self.named.set(role, token);
            }
        }
    }

    /// Adds the tokens that the settings know and tokenizer.json does not, in the order transformers adds them.
    fn add_tokens(&self, backend: &mut Backend) -> Result<()> {
        let mut added = Vec::new();
        if let Some(Value::Object(decoder)) = self.config.get("added_tokens_decoder") {
            let mut entries: Vec<(u32, AddedToken)> = Vec::with_capacity(decoder.len());
            for (id, value) in decoder {
                let id = id.parse().map_err(|_| wrong(format!("`added_tokens_decoder`: `{id}` is no id")))?;
                entries.push((id, added_token(value)?));
            }
            entries.sort_by_key(|(id, _)| *id);
            added.extend(entries.into_iter().map(|(_, token)| token));
        }
        let extra = ["additional_special_tokens", "extra_special_tokens"];
        let extra = extra.iter().filter_map(|key| self.config.get(*key)).flat_map(|value| match value {
            Value::Array(tokens) => tokens.iter().filter_map(content).collect(),
            Value::Object(tokens) => tokens.values().filter_map(content).collect(),
            _ => Vec::new(),
        });
        let named = self.named.tokens().map(str::to_owned).collect::<Vec<_>>();
        for token in named.into_iter().chain(extra) {
            let known = backend.get_added_vocabulary().get_vocab().contains_key(&token)
                || added.iter().any(|added| added.content == token);
            if !known {
                added.push(AddedToken::from(token, true));
            }
        }
        let known = backend.get_added_tokens_decoder();
        added.retain(|token| !known.values().any(|known| known == token));
        guarded("add the tokens of tokenizer_config.json", || backend.add_tokens(added).map(|_| ()))
    }

    /// `add_bos_token` and `add_eos_token`, where they stand, decide; else what tokenizer.json says.
    fn add_ends(&self, backend: &mut Backend) -> Result<()> {
        let (bos, eos) = (self.config.get("add_bos_token"), self.config.get("add_eos_token"));
        if bos.is_none() && eos.is_none() {
            return Ok(());
        }
        let truth = |value: Option<&Value>| value.and_then(Value::as_bool).unwrap_or(false);
        let template = named::template(&self.named, backend, truth(bos), truth(eos))?;
        backend.with_post_processor(Some(template));
        Ok(())
    }
}

/// The roles that a class of transformers fills by itself.
fn class_default(class: &str, role: &str) -> Option<&'static str> {
    Some(match (class, role) {
        ("GPT2Tokenizer", "bos_token" | "eos_token" | "unk_token") => "<|endoftext|>",
        ("GPTNeoXTokenizer", "bos_token" | "eos_token" | "unk_token") => "<|endoftext|>",
        ("Qwen2Tokenizer", "eos_token" | "pad_token" | "unk_token") => "<|endoftext|>",
        ("LlamaTokenizer" | "CodeLlamaTokenizer", "bos_token") => "<s>",
        ("LlamaTokenizer" | "CodeLlamaTokenizer", "eos_token") => "</s>",
        ("GemmaTokenizer", "bos_token") => "<bos>",
        ("GemmaTokenizer", "eos_token") => "<eos>",
        ("GemmaTokenizer", "pad_token") => "<pad>",
        ("GemmaTokenizer", "mask_token") => "<mask>",
        ("LlamaTokenizer" | "CodeLlamaTokenizer" | "GemmaTokenizer", "unk_token") => "<unk>",
        _ => return None,
    })
}

/// A token is written as a string, or as an object with its text under `content`.
fn content(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

fn added_token(value: &Value) -> Result<AddedToken> {
    let content = content(value)
        .ok_or_else(|| wrong("an entry of `added_tokens_decoder` has no `content`".to_owned()))?;
    let flag = |name: &str, otherwise: bool| value.get(name).and_then(Value::as_bool).unwrap_or(otherwise);
    let special = flag("special", false);
    Ok(AddedToken::from(content, special)
        .normalized(flag("normalized", !special))
        .single_word(flag("single_word", false))
        .lstrip(flag("lstrip", false))
        .rstrip(flag("rstrip", false)))
}

/// One template, or a list of named ones of which `default` counts.
fn default_template(value: &Value) -> Option<String> {
    match value {
        Value::String(template) => Some(template.clone()),
        Value::Array(named) => {
            named.iter().find(|entry| entry["name"] == "default")?["template"].as_str().map(str::to_owned)
        }
        _ => None,
    }
}

fn nothing_to_read(folder: &Path) -> Error {
    if folder.join("tokenizer.model").exists() {
        return Error::new(
            ErrorKind::Unsupported,
            "has SentencePiece's `tokenizer.model` but no `tokenizer.json`",
        )
        .hint(
            "write one with transformers: `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`",
        );
    }
    Error::new(ErrorKind::NotFound, "has no `tokenizer.json`, nor `vocab.json` with `merges.txt`").hint(
        "take `tokenizer.json` from the model's repository; token ids need no tokenizer: \
             `easyroutine extract --token-ids`",
    )
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed =
        |e: std::io::Error| Error::new(ErrorKind::Io, format!("cannot be read: {e}")).at(path.display());
    // Looked at before it is opened: a named pipe would be waited for, and a device has no end.
    let found = std::fs::metadata(path).map_err(failed)?;
    let size = found.len();
    if !found.is_file() || size > MAX_FILE {
        let message = match found.is_file() {
            true => format!("has {size} bytes; {MAX_FILE} is the limit"),
            false => "is not a plain file".to_owned(),
        };
        return Err(Error::new(ErrorKind::Format, message).at(path.display()));
    }
    std::fs::read(path).map_err(failed)
}

fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|e| {
        let message = format!("is not UTF-8 at byte {}", e.utf8_error().valid_up_to());
        Error::new(ErrorKind::Format, message).at(path.display())
    })
}

/// The object in a JSON file; empty if there is no such file.
fn read_object(path: &Path) -> Result<Map<String, Value>> {
    if !path.exists() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(&read(path)?) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::new(ErrorKind::Format, "is not a JSON object").at(path.display())),
        Err(e) => Err(Error::new(ErrorKind::Format, e.to_string()).at(path.display())),
    }
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Format, message).at("tokenizer_config.json")
}
