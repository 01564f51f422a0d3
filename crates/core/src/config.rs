//! config.json: every key is read, inert, or refused with its name.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result, list};

/// Largest size that a config may state; keeps later products of two sizes within 64 bits.
pub const LARGEST_SIZE: u64 = 1 << 28;

const SIZE: &str = "a whole number from 1 to 2^28";

/// Keys without effect on a forward pass in any family.
pub(crate) const INERT: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation",
    "_name_or_path",
    "_num_labels",
    "add_bos_token",
    "add_eos_token",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attention_softmax_in_fp32",
    "attn_implementation",
    "attn_pdrop",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "embedding_dropout",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "guidance_scale",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "min_new_tokens",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "pad_token_id",
    "penalty_alpha",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "renormalize_logits",
    "repetition_penalty",
    "resid_pdrop",
    "residual_dropout",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tie_last_hidden_states",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];

/// One JSON object of a config, which tracks the keys that were read.
///
/// Null counts as absent only where the config class of transformers allows it: the `optional_` readers accept it, the
/// `_or` readers refuse it.
#[derive(Debug)]
pub struct Config {
    /// Its place, for errors: `config.json` or `config.json: rope_scaling`.
    place: String,
    /// The path to it, each key followed by a dot: `` or `rope_scaling.`.
    path: String,
    map: Map<String, Value>,
    /// Paths that were read, shared by a config and the objects within it.
    read: Arc<Mutex<BTreeSet<String>>>,
}

/// Replaces the word `Infinity` outside strings by what transformers 5 writes: `{"__float__": "Infinity"}`.
fn with_infinities(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    // Text between quotes that no backslash escapes is a string.
    let (mut out, mut rest, mut is_string) = (String::with_capacity(text.len()), &*text, false);
    while let Some(at) = rest.find(['"', '\\']) {
        let (before, after) = rest.split_at(at);
        let skip = match after.starts_with('\\') {
            true => after.chars().take(2).map(char::len_utf8).sum(),
            false => 1,
        };
        out += &if is_string { before.to_owned() } else { spelt(before) };
        out += &after[..skip];
        is_string ^= after.starts_with('"');
        rest = &after[skip..];
    }
    out += &if is_string { rest.to_owned() } else { spelt(rest) };
    out
}

fn spelt(text: &str) -> String {
    let signed = text.replace("-Infinity", "\0");
    let positive = signed.replace("Infinity", r#"{"__float__": "Infinity"}"#);
    positive.replace('\0', r#"{"__float__": "-Infinity"}"#)
}

impl Config {
    /// Parses the bytes of a config.json.
    ///
    /// # Errors
    /// If the bytes are not a JSON object.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Config::parse_as("config.json", bytes)
    }

    /// Parses the bytes of a config that errors call `place`.
    ///
    /// # Errors
    /// If the bytes are not a JSON object.
    pub(crate) fn parse_as(place: &str, bytes: &[u8]) -> Result<Self> {
        let value: Value = match serde_json::from_slice(bytes) {
            Ok(value) => value,
            // Python writes infinity as a word, which is not JSON.
            Err(error) => serde_json::from_str(&with_infinities(bytes))
                .map_err(|_| Error::new(ErrorKind::Config, format!("{place} is not valid JSON: {error}")))?,
        };
        match value {
            Value::Object(map) => Ok(Config::from_map(place, map)),
            _ => Err(Error::new(ErrorKind::Config, format!("{place} is not a JSON object"))),
        }
    }

    /// A config from a JSON object made elsewhere (GGUF metadata).
    pub fn from_map(place: impl Into<String>, map: Map<String, Value>) -> Self {
        Config { place: place.into(), path: String::new(), map, read: Arc::default() }
    }

    /// The object itself.
    pub fn as_map(&self) -> &Map<String, Value> {
        &self.map
    }

    /// The value of a key; `None` if absent or null. Marks the key as read.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.raw(key).filter(|v| !v.is_null())
    }

    /// The value of a key, including null. Marks the key as read.
    pub fn raw(&self, key: &str) -> Option<&Value> {
        self.marks().insert(format!("{}{key}", self.path));
        self.map.get(key)
    }

    /// Whether the object has the key, even with null. Marks the key as read.
    pub fn has(&self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    /// Refuses null if the config class does not allow it.
    fn not_null(&self, key: &str, expected: &str) -> Result<()> {
        if self.raw(key).is_some_and(Value::is_null) { Err(self.wrong(key, expected)) } else { Ok(()) }
    }

    fn marks(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A required size.
    ///
    /// # Errors
    /// If absent, not an integer, zero, or beyond 2^28.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    /// A size, or `None` if the key is absent or null.
    ///
    /// # Errors
    /// If not an integer, zero, or beyond 2^28.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let whole = value.as_u64().or_else(|| {
            value.as_f64().filter(|f| f.fract() == 0.0 && (0.0..1e15).contains(f)).map(|f| f as u64)
        });
        match whole {
            Some(n) if (1..=LARGEST_SIZE).contains(&n) => Ok(Some(n as usize)),
            _ => Err(self.wrong(key, SIZE)),
        }
    }

    /// A size with transformers' default for an absent key.
    ///
    /// # Errors
    /// As [`Config::optional_size`], and if null.
    pub fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        self.not_null(key, SIZE)?;
        Ok(self.optional_size(key)?.unwrap_or(default))
    }

    /// A size with several names, with transformers' default if all are absent.
    ///
    /// # Errors
    /// As [`Config::size_or`], and if two names have different values.
    pub fn size_of_any(&self, keys: &[&str], default: usize) -> Result<usize> {
        let mut found: Option<(usize, &str)> = None;
        for key in keys {
            self.not_null(key, SIZE)?;
            match (self.optional_size(key)?, found) {
                (Some(size), None) => found = Some((size, key)),
                (Some(size), Some((first, other))) if size != first => {
                    return Err(self.wrong(key, &format!("{first}, as `{other}` says")));
                }
                _ => {}
            }
        }
        Ok(found.map_or(default, |(size, _)| size))
    }

    /// A finite number, or `None` if the key is absent or null.
    ///
    /// # Errors
    /// If not a number.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_f64().filter(|f| f.is_finite()).map(Some).ok_or_else(|| self.wrong(key, "a finite number"))
    }

    /// A required number.
    ///
    /// # Errors
    /// If absent or not a number.
    pub fn number(&self, key: &str) -> Result<f64> {
        self.optional_number(key)?.ok_or_else(|| self.missing(key))
    }

    /// A number with transformers' default for an absent key.
    ///
    /// # Errors
    /// If not a number, or null.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        self.not_null(key, "a finite number")?;
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    /// A positive number with transformers' default for an absent key.
    ///
    /// # Errors
    /// If not a positive number, or null.
    pub fn positive_or(&self, key: &str, default: f64) -> Result<f64> {
        self.positive(key, self.number_or(key, default)?)
    }

    /// A positive number, or `None` if the key is absent or null.
    ///
    /// # Errors
    /// If not a positive number.
    pub fn optional_positive(&self, key: &str) -> Result<Option<f64>> {
        self.optional_number(key)?.map(|number| self.positive(key, number)).transpose()
    }

    fn positive(&self, key: &str, number: f64) -> Result<f64> {
        // It must be neither zero nor infinite even after rounding to f32, as happens to every number.
        let usable = number as f32;
        if usable > 0.0 && usable.is_finite() {
            Ok(number)
        } else {
            Err(self.wrong(key, "a number above zero within the range of f32"))
        }
    }

    /// A flag with transformers' default for an absent key.
    ///
    /// # Errors
    /// If not true or false, or null.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.raw(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    /// A string, or `None` if the key is absent or null.
    ///
    /// # Errors
    /// If not a string.
    pub fn optional_text(&self, key: &str) -> Result<Option<&str>> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or_else(|| self.wrong(key, "a string")),
        }
    }

    /// A list of strings, or `None` if the key is absent or null.
    ///
    /// # Errors
    /// If not a list of strings.
    pub fn optional_texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let list = value.as_array().and_then(|a| a.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        list.map(Some).ok_or_else(|| self.wrong(key, "a list of strings"))
    }

    /// A list of finite numbers, or `None` if the key is absent or null.
    ///
    /// # Errors
    /// If not a list of numbers.
    pub fn optional_numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let list = value.as_array().and_then(|a| a.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
        list.map(Some).ok_or_else(|| self.wrong(key, "a list of numbers"))
    }

    /// A list of layer indices, or `None` if the key is absent or null.
    ///
    /// # Errors
    /// If not a list of integers from 0.
    pub fn optional_indices(&self, key: &str) -> Result<Option<Vec<u64>>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let list = value.as_array().and_then(|a| a.iter().map(Value::as_u64).collect::<Option<Vec<_>>>());
        list.map(Some).ok_or_else(|| self.wrong(key, "a list of whole numbers from 0"))
    }

    /// A nested object, or `None` if the key is absent or null. Keys read from it count in [`Config::finish`] of the
    /// whole.
    ///
    /// # Errors
    /// If not an object.
    pub fn object(&self, key: &str) -> Result<Option<Config>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Config {
                place: format!("{}: `{key}`", self.place),
                path: format!("{}{key}.", self.path),
                map: map.clone(),
                read: Arc::clone(&self.read),
            })),
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }

    /// Refuses an unsupported value, naming key and value.
    pub fn unsupported(&self, key: &str, what_is_supported: &str) -> Error {
        Error::new(
            ErrorKind::Unsupported,
            format!("{}: `{key}` is {}; supported: {what_is_supported}", self.place, self.shown(key)),
        )
    }

    /// Refuses a value that makes no sense, naming key and value.
    pub fn wrong(&self, key: &str, expected: &str) -> Error {
        Error::new(
            ErrorKind::Config,
            format!("{}: `{key}` is {}; expected {expected}", self.place, self.shown(key)),
        )
    }

    /// A value as errors show it: short.
    fn shown(&self, key: &str) -> String {
        let value = self.map.get(key).map_or_else(|| "absent".to_owned(), Value::to_string);
        if value.chars().count() > 80 { value.chars().take(77).chain("...".chars()).collect() } else { value }
    }

    /// The error for a missing required key.
    pub fn missing(&self, key: &str) -> Error {
        Error::new(ErrorKind::Config, format!("{}: `{key}` is missing", self.place))
    }

    /// Checks that every key, including those of opened objects, was read, is inert here or in every family, or is
    /// allowed by name (`key` or, within an object, `object.key`). Returns the allowed keys that occurred.
    ///
    /// # Errors
    /// Names all keys that nothing read.
    pub fn finish(&self, inert: &[&str], allowed: &[String]) -> Result<Vec<String>> {
        self.finish_with(&[INERT, inert], allowed)
    }

    /// As [`Config::finish`], with only these lists of inert keys.
    ///
    /// # Errors
    /// Names all keys that nothing read.
    pub(crate) fn finish_with(&self, inert: &[&[&str]], allowed: &[String]) -> Result<Vec<String>> {
        let mut left = Vec::new();
        unread(&self.map, &self.path, &self.marks(), &mut |path| left.push(path.to_owned()));
        // The enclosing object need not account for these keys again.
        self.marks().extend(left.iter().cloned());
        let is_inert = |path: &String| {
            let key = path.strip_prefix(&self.path).unwrap_or(path);
            inert.iter().any(|list| list.contains(&key))
        };
        left.retain(|path| !is_inert(path));
        let (let_through, unknown): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|path| allowed.contains(path));
        if unknown.is_empty() {
            return Ok(let_through);
        }
        let (keys, may, does) = match unknown.len() {
            1 => ("key", "it may change the numbers", "it does not, let it"),
            _ => ("keys", "they may change the numbers", "they do not, let them"),
        };
        let flags: Vec<String> = unknown.iter().map(|key| format!("--allow-config-key {key}")).collect();
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("{}: unknown {keys} {}: {may}", self.place, list(&unknown)),
        )
        .hint(format!("if you know that {does} through: {}", flags.join(" "))))
    }
}

/// Calls `on` for every unread key. An object counts as opened once one of its keys was read.
fn unread(map: &Map<String, Value>, path: &str, marks: &BTreeSet<String>, on: &mut dyn FnMut(&str)) {
    for (key, value) in map {
        let here = format!("{path}{key}");
        if !marks.contains(&here) {
            on(&here);
        } else if let Value::Object(inner) = value {
            let inside = format!("{here}.");
            if marks.range(inside.clone()..).next().is_some_and(|mark| mark.starts_with(&inside)) {
                unread(inner, &inside, marks, on);
            }
        }
    }
}

/// Reads a small text file of a model; refuses one that is too large to be genuine.
pub(crate) fn read_small(path: &Path) -> Result<Vec<u8>> {
    const LARGEST: u64 = 16 << 20;
    let io = |e: std::io::Error| Error::new(ErrorKind::Io, format!("{}: {e}", path.display())).because(e);
    let found = std::fs::metadata(path).map_err(io)?;
    let size = found.len();
    if !found.is_file() {
        let message = format!("{} is not a plain file", path.display());
        return Err(Error::new(ErrorKind::Format, message));
    }
    if size > LARGEST {
        return Err(Error::new(
            ErrorKind::Format,
            format!("{}: {size} bytes are too many for a config", path.display()),
        ));
    }
    std::fs::read(path).map_err(io)
}
