//! Reads a model folder's tokenizer like transformers' `AutoTokenizer`.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::utils::padding::PaddingDirection;
use tokenizers::utils::truncation::TruncationDirection;
use tokenizers::{AddedToken, ModelWrapper, PostProcessorWrapper, Tokenizer as Backend};

use super::class::{Class, Clues};
use super::disagreements::{self, AsWritten};
use super::files::{read, read_text};
use super::guard::guarded;
use super::limits;
use super::named::{self, NamedTokens, ROLES};
use super::rebuilt::Rules;
use super::settings::{self, Merged, Named, Settings, added_tokens};
use super::{Manners, Side, Tokenizer, vocab_files};
use crate::error::{Error, ErrorKind, Result};

impl Tokenizer {
    /// The tokenizer in a model's folder: `tokenizer.json`, or `vocab.json` with `merges.txt`; with the settings in
    /// `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`, the folder's chat templates, and the
    /// class that these and `config.json` name.
    ///
    /// Where these disagree, [`Tokenizer::warnings`] says which was followed.
    ///
    /// # Errors
    /// If there is neither, a file is wrong, or the kind of tokenizer is not supported (a lone SentencePiece
    /// `tokenizer.model`).
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let settings = Settings::read(folder)?;
        settings.refuse_versions()?;
        let whole = folder.join("tokenizer.json");
        let written = whole.exists().then(|| read(&whole)).transpose()?;
        let class = settings.class(written.as_deref());
        let mut backend = match &written {
            Some(bytes) => {
                let checked = limits::check(bytes);
                let backend = checked.and_then(|()| guarded("read it", || Backend::from_bytes(bytes)));
                backend.and_then(without_dropout).map_err(|e| e.at(whole.display()))?
            }
            None => match vocab_files::present(folder) {
                Some((vocab, merges)) => {
                    vocab_files::build(&read_text(&vocab)?, &read_text(&merges)?, class, &settings)
                        .map_err(|e| e.at(folder.display()))?
                }
                None => return Err(nothing_to_read(folder).at(folder.display())),
            },
        };
        let added_tokens = written.as_deref().map(added_tokens).unwrap_or_default();
        drop(written);
        let has_file = whole.exists();
        let merged = settings.merge(class, has_file.then_some(&backend), &added_tokens)?;
        let manners = settings.manners(class, &backend);
        let mut as_written = AsWritten::of(&backend, has_file);
        // Limits and padding from its training run; AutoTokenizer disables them unless a call requests them.
        backend.with_padding(None);
        guarded("lift its length limit", || backend.with_truncation(None).map(|_| ()))?;
        if has_file && let Some(rules) = Rules::of(class, &settings, merged.role("unk_token")) {
            rules.install(&mut backend, class).map_err(|e| e.at(whole.display()))?;
            as_written.compare(&backend, class);
        }
        backend.set_encode_special_tokens(settings.flag("split_special_tokens") == Some(true));
        merged.add(&mut backend, class)?;
        let mut named = NamedTokens::default();
        for role in ROLES {
            if let Some(token) = merged.role(role) {
                named.set(role, token);
            }
        }
        if let Some(post) = post_processor(class, &settings, &named, &backend, has_file)? {
            backend.with_post_processor(Some(post));
        }
        let mut warnings = disagreements::found(&settings, class, &merged, &as_written, &named, &backend);
        warnings.extend(disagreements::other_options(&settings, &merged, &added_tokens, &backend));
        let manners = Manners { prefix: as_written.prefix(), ..manners };
        let saved = settings.to_save(&merged, &named, &manners);
        Tokenizer::new(backend, named, settings.templates, saved, manners, warnings)
    }
}

/// Refuses merges with random dropout, which would give different tokens each time.
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

/// The post-processor that adds tokens around a text, if it is not tokenizer.json's.
///
/// transformers 5 reads `add_bos_token` and `add_eos_token` only if there is no tokenizer.json.
fn post_processor(
    class: Class,
    settings: &Settings,
    named: &NamedTokens,
    backend: &Backend,
    has_file: bool,
) -> Result<Option<PostProcessorWrapper>> {
    let flag = |key: &str| settings.flag(key).unwrap_or(false);
    Ok(match class {
        Class::CodeLlama => Some(named::template(named, backend, true, false)?),
        Class::GptNeoX if has_file => Some(named::template(named, backend, false, false)?),
        Class::Roberta => named::around(named, backend, "cls_token", "sep_token")?,
        _ if has_file => None,
        _ => Some(named::template(named, backend, flag("add_bos_token"), flag("add_eos_token"))?),
    })
}

impl Settings {
    fn class(&self, written: Option<&[u8]>) -> Class {
        let text = |object: &serde_json::Map<String, Value>, key: &str| {
            object.get(key).and_then(Value::as_str).map(str::to_owned)
        };
        let of_model = text(&self.model, "tokenizer_class");
        let [model_type, model_name] = ["model_type", "model_name"].map(|key| text(&self.model, key));
        let configured = text(&self.config, "tokenizer_class");
        // Code for a processor or a model says nothing about the tokenizer.
        let has_code = match self.config.get("auto_map") {
            Some(Value::Object(classes)) => {
                classes.get("AutoTokenizer").is_some_and(|class| !class.is_null())
            }
            Some(of_tokenizer) => of_tokenizer.is_array(),
            None => false,
        };
        Class::of(&Clues {
            model_type: model_type.as_deref(),
            model_name: model_name.as_deref(),
            configured: configured.as_deref(),
            of_model: of_model.as_deref(),
            has_code,
            byte_level: written.is_some_and(|bytes| contains(bytes, b"\"ByteLevel\"")),
        })
    }

    /// Refuses a tokenizer.json in whose place transformers reads the file of a version.
    fn refuse_versions(&self) -> Result<()> {
        let key = "fast_tokenizer_files";
        let files = self.config.get(key).and_then(Value::as_array).into_iter().flatten();
        match files.filter_map(Value::as_str).find(|file| is_read_instead(file)) {
            None => Ok(()),
            Some(file) => {
                let message =
                    format!("`{key}` names `{file}`, which transformers reads in place of tokenizer.json");
                let hint = format!("copy {file} over tokenizer.json and remove `{key}`");
                Err(Error::new(ErrorKind::Unsupported, message).at("tokenizer_config.json").hint(hint))
            }
        }
    }

    /// Sides and lengths: from the settings, else from tokenizer.json's padding and truncation, else the class's
    /// defaults.
    fn manners(&self, class: Class, backend: &Backend) -> Manners {
        let stated = |key: &str| match self.config.get(key).and_then(Value::as_str) {
            Some("left") => Some(Side::Left),
            Some("right") => Some(Side::Right),
            _ => None,
        };
        let pads = backend.get_padding().map(|padding| match padding.direction {
            PaddingDirection::Left => Side::Left,
            PaddingDirection::Right => Side::Right,
        });
        let cuts = backend.get_truncation().map(|truncation| match truncation.direction {
            TruncationDirection::Left => Side::Left,
            TruncationDirection::Right => Side::Right,
        });
        let of_class = if class.pads_left() { Side::Left } else { Side::Right };
        let length = ["model_max_length", "max_len"].iter().find_map(|key| self.config.get(*key));
        let is_bpe = matches!(backend.get_model(), ModelWrapper::BPE(_)) || class.has_rules();
        let cleans_bpe = self.flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output")
            == Some(true);
        Manners {
            padding_side: stated("padding_side").or(pads).unwrap_or(of_class),
            truncation_side: stated("truncation_side").or(cuts).unwrap_or(Side::Right),
            // transformers writes 1e30 for "no limit".
            max_length: length
                .and_then(Value::as_f64)
                .filter(|length| (1.0..1e20).contains(length))
                .map(|l| l as usize),
            cleans_up: self.flag("clean_up_tokenization_spaces") == Some(true) && (!is_bpe || cleans_bpe),
            prefix: None,
            may_compose: false,
        }
    }

    /// tokenizer_config.json for the backend as built: nothing in it depends on a class or another file.
    fn to_save(
        &self,
        merged: &Merged,
        named: &NamedTokens,
        manners: &Manners,
    ) -> serde_json::Map<String, Value> {
        let mut saved = self.config.clone();
        if !self.has_decoder() && !self.map.is_empty() {
            // special_tokens_map.json beats tokenizer_config.json, and is not saved.
            let lists =
                ["extra_special_tokens", "additional_special_tokens", "model_specific_special_tokens"];
            saved.retain(|key, value| {
                let is_role = key.ends_with("_token") && settings::content(value).is_some();
                !is_role && !lists.contains(&key.as_str())
            });
            let own = merged.roles.iter().filter(|(role, _)| !ROLES.contains(&role.as_str()));
            let own: serde_json::Map<String, Value> =
                own.map(|(role, named)| (role.clone(), json!(named.text()))).collect();
            let extra: Vec<&str> = merged.extra.iter().map(Named::text).collect();
            saved.insert(lists[0].to_owned(), Value::Object(own));
            saved.insert(lists[1].to_owned(), json!(extra));
        }
        let decided = ["added_tokens_decoder", "add_bos_token", "add_eos_token", "auto_map", "chat_template"];
        decided.iter().chain(&ROLES).for_each(|key| drop(saved.remove(*key)));
        // The class that uses tokenizer.json unchanged, in every version of transformers.
        saved.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
        saved.insert("padding_side".to_owned(), json!(manners.padding_side.name()));
        saved.insert("truncation_side".to_owned(), json!(manners.truncation_side.name()));
        named.write_to(&mut saved);
        saved
    }
}

impl Merged {
    pub(super) fn role(&self, role: &str) -> Option<&str> {
        self.roles.get(role).map(Named::text)
    }

    /// Adds tokens that the settings name and the backend lacks, in transformers' order.
    fn add(&self, backend: &mut Backend, class: Class) -> Result<()> {
        let known = backend.get_added_tokens_decoder().into_values().map(|token| token.content);
        // Again those that the backend has: one with a role becomes special, and of two with one text the last counts.
        let mut added: Vec<Named> = self.listed.values().cloned().map(Named::Token).collect();
        let mut texts: HashSet<String> = known.collect();
        texts.extend(added.iter().map(|named| named.text().to_owned()));
        for named in self.roles.values().chain(&self.extra) {
            if !texts.contains(named.text()) && !added.contains(named) {
                added.push(named.clone());
            }
        }
        let has_role = |token: &str| self.roles.values().any(|named| named.text() == token);
        let added = added.into_iter().map(|named| {
            let has_role = has_role(named.text());
            named.into_added(has_role)
        });
        let added: Vec<AddedToken> = added.collect();
        let mut add = |tokens: Vec<AddedToken>| {
            guarded("add the tokens of tokenizer_config.json", || backend.add_tokens(tokens).map(|_| ()))
        };
        add(added)?;
        // Two classes add their special tokens again.
        let special = self.roles.values().chain(&self.extra);
        match class {
            Class::Qwen2 => add(special.map(|named| AddedToken::from(named.text(), true)).collect()),
            Class::Cohere => add(special.cloned().map(|named| named.into_added(true)).collect()),
            _ => Ok(()),
        }?;
        // If one file calls a token special and another does not, the library treats it as special, but does not write
        // that down.
        let added = backend.get_added_tokens_decoder().into_values();
        let hidden =
            added.filter(|t| !t.special && backend.get_added_vocabulary().is_special_token(&t.content));
        let hidden: Vec<AddedToken> = hidden.map(|token| AddedToken { special: true, ..token }).collect();
        guarded("add the tokens of tokenizer_config.json", || backend.add_tokens(hidden).map(|_| ()))
    }
}

/// Whether transformers 5.24 reads this file in place of tokenizer.json: `tokenizer.VERSION.json` of that version or an
/// earlier one. A version that is no number counts too, since transformers refuses it.
fn is_read_instead(file: &str) -> bool {
    let Some((_, rest)) = file.split_once("tokenizer.") else { return false };
    let Some((version, _)) = rest.rsplit_once(".json") else { return false };
    let numbers: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
    numbers.is_none_or(|numbers| numbers[..] < [5, 24, 1][..])
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == wanted[0]);
    starts.map(|(start, _)| start).any(|start| bytes[start..].starts_with(wanted))
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
