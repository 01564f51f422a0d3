//! Contradictions between a folder's files, in words: for each kind one rule (docs/design/tokenizers.md) and a warning
//! that says which side was followed.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;
use tokenizers::{AddedToken, ModelWrapper, Tokenizer as Backend};

use super::Prefix;
use super::class::Class;
use super::guard::guarded;
use super::named::{NamedTokens, ROLES};
use super::settings::{Merged, Settings, content};

/// The parts of tokenizer.json that a class may replace.
pub(super) struct AsWritten {
    has_file: bool,
    normalizer: Value,
    pre_tokenizer: Value,
    ignores_merges: bool,
    /// Tokens before and after a text.
    around: Option<(Vec<u32>, Vec<u32>)>,
    /// The ways in which the class's parts differ.
    replaced: Vec<&'static str>,
    prefix: Option<Prefix>,
}

impl AsWritten {
    pub(super) fn of(backend: &Backend, has_file: bool) -> Self {
        AsWritten {
            has_file,
            normalizer: serde_json::to_value(backend.get_normalizer()).unwrap_or_default(),
            pre_tokenizer: serde_json::to_value(backend.get_pre_tokenizer()).unwrap_or_default(),
            ignores_merges: matches!(backend.get_model(), ModelWrapper::BPE(bpe) if bpe.ignore_merges),
            around: around(backend),
            replaced: Vec::new(),
            prefix: None,
        }
    }

    /// Records where the backend, rebuilt as its class wants it, divides text differently from the file.
    pub(super) fn compare(&mut self, backend: &Backend, class: Class) {
        let rebuilt = AsWritten::of(backend, true);
        let differs = |a: &Value, b: &Value| effective(a) != effective(b);
        let parts = differs(&self.normalizer, &rebuilt.normalizer)
            || differs(&self.pre_tokenizer, &rebuilt.pre_tokenizer);
        let scheme = (class == Class::Llama && self.puts_blanks_everywhere())
            .then(|| rebuilt.pre_tokenizer["prepend_scheme"].as_str())
            .flatten();
        match scheme {
            // The same except for leading spaces: warn once a text shows the difference.
            Some("first") => self.prefix = Some(Prefix::FirstOfFolder),
            // The same, spelt differently.
            Some("always") => {}
            _ if parts => self.replaced.push("`normalizer` and `pre_tokenizer`"),
            _ => {}
        }
        if self.ignores_merges && !rebuilt.ignores_merges {
            self.replaced.push("`ignore_merges`");
        }
    }

    pub(super) fn prefix(&self) -> Option<Prefix> {
        self.prefix
    }

    /// Whether a space is put before every stretch of text.
    fn puts_blanks_everywhere(&self) -> bool {
        let steps = match &self.normalizer["normalizers"] {
            Value::Array(steps) => steps.as_slice(),
            _ => std::slice::from_ref(&self.normalizer),
        };
        let prepends = steps.iter().any(|step| step["type"] == "Prepend" && step["prepend"] == "\u{2581}");
        prepends || self.pre_tokenizer["prepend_scheme"] == "always"
    }
}

/// A part, reduced to what ids depend on.
fn effective(part: &Value) -> Value {
    match part {
        Value::Object(part) => {
            let counts = part.iter().filter(|(key, _)| *key != "trim_offsets");
            Value::Object(counts.map(|(key, value)| (key.clone(), effective(value))).collect())
        }
        Value::Array(parts) => {
            let parts: Vec<Value> = parts.iter().map(effective).collect();
            match <[Value; 1]>::try_from(parts) {
                Ok([one]) => one,
                Err(parts) => Value::Array(parts),
            }
        }
        other => other.clone(),
    }
}

/// The ids put before and after a text; `None` if the vocabulary does not determine them.
pub(super) fn around(backend: &Backend) -> Option<(Vec<u32>, Vec<u32>)> {
    let ids = |special| guarded("encode", || backend.encode("a", special)).map(|e| e.get_ids().to_vec());
    let (with, bare) = (ids(true).ok()?, ids(false).ok()?);
    let surplus = with.len().checked_sub(bare.len())?;
    if bare.is_empty() {
        return (surplus == 0).then(|| (Vec::new(), Vec::new()));
    }
    let start = (0..=surplus).find(|&start| with[start..].starts_with(&bare))?;
    Some((with[..start].to_vec(), with[start + bare.len()..].to_vec()))
}

/// All contradictions, as warnings.
pub(super) fn found(
    settings: &Settings,
    class: Class,
    merged: &Merged,
    written: &AsWritten,
    named: &NamedTokens,
    backend: &Backend,
) -> Vec<String> {
    let mut found = Vec::new();
    if let Class::Foreign(name) = class {
        found.push(format!(
            "tokenizer_config.json names the class `{name}`, whose own rules are not known here: tokenizer.json is \
             followed as it stands, and ids may differ from those of transformers"
        ));
    }
    if !written.replaced.is_empty() {
        found.push(format!(
            "the class `{}` cuts text by rules of its own; they are followed, as transformers 5 does, not {} of \
             tokenizer.json",
            class.name(),
            written.replaced.join(" nor ")
        ));
    }
    if settings.flag("fix_mistral_regex") == Some(true) {
        found.push(
            "`fix_mistral_regex` of tokenizer_config.json is not followed: text is cut by the expression of tokenizer.json"
                .to_owned(),
        );
    }
    if written.has_file {
        flags(settings, class, written, named, backend, &mut found);
    }
    begins_as_the_model_says(settings, named, backend, &mut found);
    unread_tokens(settings, backend, &mut found);
    other_ids(settings, merged, backend, &mut found);
    other_roles(settings, named, &mut found);
    found
}

/// `add_bos_token` and `add_eos_token` compared with what is added.
fn flags(
    settings: &Settings,
    class: Class,
    written: &AsWritten,
    named: &NamedTokens,
    backend: &Backend,
    found: &mut Vec<String>,
) {
    let Some(added) = around(backend) else { return };
    let adds = |role: &str, ids: &[u32]| named.id(role, backend).is_some_and(|id| ids.contains(&id));
    for (flag, role, ids) in
        [("add_bos_token", "bos_token", &added.0), ("add_eos_token", "eos_token", &added.1)]
    {
        match (settings.flag(flag), adds(role, ids)) {
            (Some(true), false) => found.push(format!(
                "`{flag}` of tokenizer_config.json is true, but the post-processor of tokenizer.json, which transformers \
                 5 follows, adds no `{role}`: none is added{}",
                if role == "bos_token" { " (`--bos yes` adds it)" } else { "" }
            )),
            (Some(false), true) => found.push(format!(
                "`{flag}` of tokenizer_config.json is false, but the post-processor of tokenizer.json, which \
                 transformers 5 follows, adds a `{role}`: it is added{}",
                if role == "bos_token" { " (`--bos no` leaves it out)" } else { "" }
            )),
            _ => {}
        }
    }
    if written.around.as_ref().is_some_and(|around| *around != added) {
        let does =
            if added.0.is_empty() && added.1.is_empty() { "adds nothing to a text" } else { "adds its own" };
        found.push(format!(
            "the class `{}` {does}, whatever the post-processor of tokenizer.json says; it is followed, as in \
             transformers 5",
            class.name()
        ));
    }
}

/// The added beginning compared with the one in config.json.
fn begins_as_the_model_says(
    settings: &Settings,
    named: &NamedTokens,
    backend: &Backend,
    found: &mut Vec<String>,
) {
    let (Some(of_model), Some((before, _))) =
        (settings.model.get("bos_token_id").and_then(Value::as_u64), around(backend))
    else {
        return;
    };
    let bos = named.id("bos_token", backend);
    if let Some(&first) = before.first()
        && bos == Some(first)
        && u64::from(first) != of_model
    {
        found.push(format!(
            "config.json says `bos_token_id` {of_model}, but texts begin with {first}, the tokenizer's own"
        ));
    }
}

/// Tokens in files that are ignored because of `added_tokens_decoder`.
fn unread_tokens(settings: &Settings, backend: &Backend, found: &mut Vec<String>) {
    if !settings.has_decoder() {
        return;
    }
    let unknown = |token: &&str| backend.token_to_id(token).is_none();
    let mapped = settings.map.values().flat_map(|value| match value {
        Value::Array(tokens) => tokens.iter().filter_map(content).collect::<Vec<_>>(),
        one => content(one).into_iter().collect(),
    });
    let added = settings.added.keys().map(String::as_str);
    for (file, mut unread) in [
        ("added_tokens.json", added.filter(unknown).collect::<Vec<_>>()),
        ("special_tokens_map.json", mapped.filter(unknown).collect()),
    ] {
        unread.dedup();
        if !unread.is_empty() {
            found.push(format!(
                "{file} has tokens that no other file knows ({}); as in transformers 5 they are not read, since \
                 tokenizer_config.json has `added_tokens_decoder`",
                listed(&unread)
            ));
        }
    }
}

/// Tokens whose ids differ from those in a file: ids follow the order of addition, not the file.
fn other_ids(settings: &Settings, merged: &Merged, backend: &Backend, found: &mut Vec<String>) {
    let file = if settings.has_decoder() { "`added_tokens_decoder`" } else { "added_tokens.json" };
    let moved: Vec<String> = merged
        .listed
        .iter()
        .filter_map(|(&id, token)| Some((id, token.text(), backend.token_to_id(token.text())?)))
        .filter(|(id, _, actual)| id != actual)
        .map(|(id, token, actual)| format!("{} is {actual}, not {id}", quoted(token)))
        .collect();
    if !moved.is_empty() {
        let moved: Vec<&str> = moved.iter().map(String::as_str).collect();
        found.push(format!(
            "ids in {file} are not those that the vocabulary leads to, which are followed as in transformers 5: {}",
            listed_plain(&moved)
        ));
    }
}

/// Roles for which two files name different tokens.
fn other_roles(settings: &Settings, named: &NamedTokens, found: &mut Vec<String>) {
    for role in ROLES {
        let [config, map] = [&settings.config, &settings.map].map(|file| file.get(role).and_then(content));
        if let (Some(config), Some(map)) = (config, map)
            && config != map
        {
            let followed = named.get(role).unwrap_or_default();
            found.push(format!(
                "`{role}` is {} in tokenizer_config.json and {} in special_tokens_map.json: {} is followed, as in \
                 transformers 5",
                quoted(config),
                quoted(map),
                quoted(followed)
            ));
        }
    }
}

/// Tokens to which some file gives an option that is not in effect.
pub(super) fn other_options(
    settings: &Settings,
    merged: &Merged,
    added_tokens: &[Value],
    backend: &Backend,
) -> Option<String> {
    // Not `normalized`: files often differ in it, and it seldom matters.
    type InEffect = fn(&AddedToken) -> bool;
    const OPTIONS: [(&str, InEffect); 4] = [
        ("special", |token| token.special),
        ("lstrip", |token| token.lstrip),
        ("rstrip", |token| token.rstrip),
        ("single_word", |token| token.single_word),
    ];
    let added: HashMap<String, AddedToken> = backend
        .get_added_tokens_decoder()
        .into_values()
        .map(|token| (token.content.clone(), token))
        .collect();
    let has_role = |text: &str| merged.roles.values().any(|named| named.text() == text);
    let mut differing = BTreeSet::new();
    let mut compare = |object: &Value| {
        let Some(token) = content(object).and_then(|text| added.get(text)) else { return };
        for (option, in_effect) in OPTIONS {
            let stated = object.get(option).and_then(Value::as_bool);
            // A token with a role is special, whatever its object says.
            let is_plain = option == "special" && has_role(&token.content);
            if stated.is_some_and(|stated| stated != in_effect(token)) && !is_plain {
                differing.insert((token.content.clone(), option, in_effect(token)));
            }
        }
    };
    added_tokens.iter().for_each(&mut compare);
    for (key, value) in settings.config.iter().chain(&settings.map) {
        match value {
            one if key.ends_with("_token") => compare(one),
            Value::Array(list) if key.ends_with("_tokens") => list.iter().for_each(&mut compare),
            Value::Object(all) if key.ends_with("_tokens") || key == "added_tokens_decoder" => {
                all.values().for_each(&mut compare);
            }
            _ => {}
        }
    }
    let listed = merged.extra.iter().filter_map(|named| added.get(named.text()));
    differing.extend(listed.filter(|token| !token.special).map(|t| (t.content.clone(), "special", false)));
    if differing.is_empty() {
        return None;
    }
    let followed: Vec<String> = differing
        .iter()
        .map(|(token, option, value)| format!("`{option}` of {} is {value}", quoted(token)))
        .collect();
    let followed: Vec<&str> = followed.iter().map(String::as_str).collect();
    Some(format!(
        "the files do not agree on the options of their tokens; as in transformers 5, {}",
        listed_plain(&followed)
    ))
}

fn quoted(token: &str) -> String {
    const LONGEST: usize = 40;
    let short: String = token.chars().take(LONGEST).collect();
    let rest = if short.len() < token.len() { "…" } else { "" };
    format!("`{}{rest}`", short.escape_debug())
}

fn listed(tokens: &[&str]) -> String {
    let quoted: Vec<String> = tokens.iter().map(|token| quoted(token)).collect();
    listed_plain(&quoted.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The first few, and how many more there are.
fn listed_plain(words: &[&str]) -> String {
    const SHOWN: usize = 4;
    let more = words.len().saturating_sub(SHOWN);
    let shown = words[..words.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}
