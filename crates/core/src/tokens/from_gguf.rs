//! A tokenizer from a GGUF file's metadata.
//!
//! Keys: ggml's `docs/gguf.md`. transformers does the same in `integrations/gguf/gguf_tokenizer_mapping.py`. Where the
//! two differ (digits of smollm, composed form of qwen2, whole words of llama-bpe), this follows the tokenizer.json
//! with which the model was released.

use std::collections::HashMap;

use easyroutine_files::Gguf;
use serde_json::{Map, json};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{AddedToken, Tokenizer as Backend};

use super::guard::guarded;
use super::named::{self, NamedTokens};
use super::pre_tokenizers::{PreTokenizer, install, install_parts, piece_decoder};
use super::{ChatTemplates, Manners, Prefix, Side, Tokenizer, merges};
use crate::error::{Error, ErrorKind, Result};

/// `tokenizer.ggml.token_type` of tokens such as `<|im_start|>`.
const CONTROL: i64 = 3;
/// `tokenizer.ggml.token_type` of tokens that are matched as a whole but are not special, such as `<think>`.
const USER_DEFINED: i64 = 4;

/// Longest token, in bytes. The longest in use has a tenth of that; the time to find merges grows with the square of
/// the length.
const MAX_TOKEN: usize = 1024;

impl Tokenizer {
    /// The tokenizer that a GGUF file describes: byte-level BPE (`gpt2`) or SentencePiece's BPE (`llama`,
    /// `gemma4`).
    ///
    /// # Errors
    /// If the file has no tokenizer, one of another kind or one that contradicts itself, or an unknown pre-tokenization
    /// rule.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        Tokenizer::from_gguf_cut_as(gguf, None)
    }

    /// As [`Tokenizer::from_gguf`], with the pre-tokenization rule that `pre` names (`llama-bpe`, `qwen2`) instead of
    /// `tokenizer.ggml.pre`, which some files lack.
    ///
    /// # Errors
    /// As there, and if no rule has that name or the vocabulary does not use one.
    pub fn from_gguf_cut_as(gguf: &Gguf, pre: Option<&str>) -> Result<Self> {
        let kind = gguf.str("tokenizer.ggml.model")?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the GGUF file has no tokenizer (`tokenizer.ggml.model`)")
                .hint("token ids need no tokenizer: `easyroutine extract --token-ids`")
        })?;
        let vocabulary = Vocabulary::read(gguf)?;
        let mut warnings = Vec::new();
        let mut manners = Manners::default();
        let (mut backend, adds_bos) = match (kind, pre) {
            ("gpt2", pre) => {
                let (backend, pre) = byte_level(gguf, &vocabulary, pre, &mut warnings)?;
                manners.may_compose = pre.may_compose();
                (backend, pre.adds_bos)
            }
            ("llama" | "gemma4", None) => {
                let space = Space::of(gguf)?;
                if !matches!(space, Space::Always) {
                    // As in the classes of such vocabularies.
                    manners.padding_side = Side::Left;
                }
                manners.prefix = matches!(space, Space::Unless).then_some(Prefix::FirstOfGguf);
                (sentence_piece(gguf, &vocabulary, &space)?, true)
            }
            ("llama" | "gemma4", Some(pre)) => {
                let message = format!(
                    "`{}` is not for this file: its vocabulary is SentencePiece's",
                    pre.escape_debug()
                );
                return Err(Error::new(ErrorKind::Unsupported, message)
                    .hint("leave it out: such a vocabulary is cut by its scores alone"));
            }
            (other, _) => {
                let message =
                    format!("tokenizers of kind `{}` are not built from GGUF files", other.escape_debug());
                return Err(Error::new(ErrorKind::Unsupported, message)
                    .hint("`gpt2`, `llama` and `gemma4` are; else use the model's Hugging Face folder"));
            }
        };
        let named = vocabulary.named(gguf)?;
        vocabulary.add_tokens(&mut backend, &named)?;
        let adds_bos = gguf.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
        let adds_eos = gguf.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        for (adds, role) in [(adds_bos, "bos"), (adds_eos, "eos")] {
            if adds && named.get(&format!("{role}_token")).is_none() {
                warnings.push(format!(
                    "the file names no `tokenizer.ggml.{role}_token_id`, so that none is added, although \
                     `tokenizer.ggml.add_{role}_token` (true by default in such files) asks for one"
                ));
            }
        }
        let template = named::template(&named, &backend, adds_bos, adds_eos)?;
        backend.with_post_processor(Some(template));

        let mut settings = Map::new();
        // The class that uses tokenizer.json unchanged, in every version of transformers.
        settings.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
        settings.insert("add_bos_token".to_owned(), json!(adds_bos));
        settings.insert("add_eos_token".to_owned(), json!(adds_eos));
        settings.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
        named.write_to(&mut settings);
        settings.insert("padding_side".to_owned(), json!(manners.padding_side.name()));
        Tokenizer::new(backend, named, ChatTemplates::from_gguf(gguf)?, settings, manners, warnings)
    }
}

/// The file's tokens, in order of their ids.
struct Vocabulary {
    tokens: Vec<String>,
    /// One per token, or empty.
    types: Vec<i64>,
}

impl Vocabulary {
    fn read(gguf: &Gguf) -> Result<Self> {
        let tokens = gguf.strings("tokenizer.ggml.tokens")?.unwrap_or_default().to_vec();
        if tokens.is_empty() || u32::try_from(tokens.len()).is_err() {
            return Err(wrong(format!("`tokenizer.ggml.tokens` has {} tokens", tokens.len())));
        }
        if let Some((id, token)) = tokens.iter().enumerate().find(|(_, token)| token.len() > MAX_TOKEN) {
            return Err(wrong(format!("token {id} is {} bytes long; {MAX_TOKEN} is the limit", token.len())));
        }
        let types = gguf.ints("tokenizer.ggml.token_type")?.unwrap_or_default();
        if !types.is_empty() && types.len() != tokens.len() {
            return Err(wrong(format!(
                "`tokenizer.ggml.token_type` has {} entries for {} tokens",
                types.len(),
                tokens.len()
            )));
        }
        Ok(Vocabulary { tokens, types })
    }

    /// Gemma's runs of spaces are written as spaces, while the text they are looked up in uses U+2581.
    fn respell_spaces(&self) -> Vec<String> {
        let is_blank = |token: &str| token.contains(' ') && token.chars().all(char::is_whitespace);
        let respell = |token: &String| match is_blank(token) {
            true => "\u{2581}".repeat(token.chars().count()),
            false => token.clone(),
        };
        self.tokens.iter().map(respell).collect()
    }

    fn named(&self, gguf: &Gguf) -> Result<NamedTokens> {
        let mut named = NamedTokens::default();
        let keys = [
            ("bos_token", "tokenizer.ggml.bos_token_id"),
            ("eos_token", "tokenizer.ggml.eos_token_id"),
            ("unk_token", "tokenizer.ggml.unknown_token_id"),
            ("pad_token", "tokenizer.ggml.padding_token_id"),
            ("sep_token", "tokenizer.ggml.seperator_token_id"),
            ("cls_token", "tokenizer.ggml.cls_token_id"),
            ("mask_token", "tokenizer.ggml.mask_token_id"),
        ];
        for (role, key) in keys {
            let Some(id) = gguf.u64(key)? else { continue };
            let token = usize::try_from(id).ok().and_then(|id| self.tokens.get(id)).ok_or_else(|| {
                wrong(format!("`{key}` is {id}, but there are {} tokens", self.tokens.len()))
            })?;
            named.set(role, token.clone());
        }
        Ok(named)
    }

    /// Adds tokens that must be matched as a whole.
    fn add_tokens(&self, backend: &mut Backend, named: &NamedTokens) -> Result<()> {
        let is_token = |token: &str| !token.is_empty() && backend.token_to_id(token).is_some();
        let mut added: Vec<AddedToken> = Vec::new();
        for (token, kind) in self.tokens.iter().zip(&self.types) {
            let special = *kind == CONTROL;
            if (special || *kind == USER_DEFINED) && is_token(token) {
                added.push(AddedToken::from(token.as_str(), special).normalized(false));
            }
        }
        let roles = named.tokens().filter(|token| is_token(token));
        added.extend(roles.map(|token| AddedToken::from(token, true).normalized(false)));
        guarded("add the special tokens", || backend.add_tokens(added).map(|_| ()))
    }
}

/// Byte-level BPE, and its rule.
fn byte_level(
    gguf: &Gguf,
    vocabulary: &Vocabulary,
    pre: Option<&str>,
    warnings: &mut Vec<String>,
) -> Result<(Backend, PreTokenizer)> {
    const KEY: &str = "tokenizer.ggml.pre";
    let pre = match (pre, gguf.str(KEY)?) {
        (Some(pre), _) => PreTokenizer::named(pre)?,
        (None, Some(pre)) if pre != "default" => PreTokenizer::named(pre).map_err(|e| e.at(KEY))?,
        (None, stated) => {
            let architecture = gguf.str("general.architecture")?.unwrap_or_default();
            let (pre, why) = PreTokenizer::guessed(architecture, &vocabulary.tokens);
            let lacks = if stated.is_some() { "is `default`" } else { "is missing" };
            warnings.push(format!(
                "`{KEY}` {lacks}, so the file does not say how text is cut: it is cut as `{pre}` has it, since {why}; if \
                 that is wrong, all tokens may be (`--pre NAME` names another rule)"
            ));
            PreTokenizer::named(pre)?
        }
    };
    let merges = gguf
        .strings("tokenizer.ggml.merges")?
        .ok_or_else(|| wrong("`tokenizer.ggml.merges` is missing".to_owned()))?;
    let merges = merges.iter().map(|merge| split_merge(merge)).collect::<Result<Merges>>()?;
    let model = guarded("build the vocabulary", || {
        BPE::builder()
            .vocab_and_merges(vocab(&vocabulary.tokens), merges)
            .ignore_merges(pre.ignore_merges)
            .build()
    })?;
    let mut backend = Backend::new(model);
    install(&mut backend, pre, false)?;
    Ok((backend, pre))
}

fn split_merge(merge: &str) -> Result<(String, String)> {
    match merge.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => {
            Ok((left.to_owned(), right.to_owned()))
        }
        _ => Err(wrong(format!("`tokenizer.ggml.merges`: `{}` is not two tokens", merge.escape_debug()))),
    }
}

/// The three ways in which SentencePiece vocabularies treat a leading space.
enum Space {
    /// None is added: Gemma.
    None,
    /// One is added unless the text has one: Llama.
    Unless,
    /// One is always added: Phi-3.
    Always,
}

impl Space {
    fn of(gguf: &Gguf) -> Result<Space> {
        let architecture = gguf.str("general.architecture")?.unwrap_or_default();
        Ok(match (architecture, gguf.bool("tokenizer.ggml.add_space_prefix")?) {
            _ if is_gemma(architecture) => Space::None,
            (_, Some(false)) => Space::None,
            ("phi3", _) => Space::Always,
            _ => Space::Unless,
        })
    }
}

fn is_gemma(architecture: &str) -> bool {
    matches!(architecture, "gemma" | "gemma2" | "gemma3" | "gemma4")
}

fn sentence_piece(gguf: &Gguf, vocabulary: &Vocabulary, space: &Space) -> Result<Backend> {
    let is_gemma = is_gemma(gguf.str("general.architecture")?.unwrap_or_default());
    let tokens = if is_gemma { vocabulary.respell_spaces() } else { vocabulary.tokens.clone() };
    let merges = match gguf.strings("tokenizer.ggml.merges")? {
        Some(merges) => merges.iter().map(|merge| split_merge(merge)).collect::<Result<Merges>>()?,
        // The scores in Gemma's files do not follow the order of merges; the order of tokens does.
        None if is_gemma => implied_merges(&tokens, |id| -(id as f32)),
        None => {
            let scores = scores(gguf, tokens.len())?;
            implied_merges(&tokens, |id| scores[id])
        }
    };
    let unknown = gguf.u64("tokenizer.ggml.unknown_token_id")?;
    let unknown = unknown.and_then(|id| tokens.get(usize::try_from(id).ok()?)).cloned();
    let model = guarded("build the vocabulary", || {
        let builder =
            BPE::builder().vocab_and_merges(vocab(&tokens), merges).byte_fallback(true).fuse_unk(true);
        match unknown.filter(|_| is_gemma) {
            Some(unknown) => builder.unk_token(unknown).build(),
            None => builder.build(),
        }
    })?;
    let mut backend = Backend::new(model);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let (normalizer, pre_tokenizer) = match space {
        Space::None => (Some(replace), None),
        Space::Unless => (
            None,
            Some(
                json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": false}),
            ),
        ),
        Space::Always => {
            let prepend = json!({"type": "Prepend", "prepend": "\u{2581}"});
            (Some(json!({"type": "Sequence", "normalizers": [prepend, replace]})), None)
        }
    };
    install_parts(&mut backend, normalizer, pre_tokenizer, piece_decoder(!matches!(space, Space::None)))?;
    Ok(backend)
}

fn implied_merges(tokens: &[String], priority: impl Fn(usize) -> f32) -> Merges {
    let mut ids = HashMap::with_capacity(tokens.len());
    let mut order = Vec::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        // For a duplicate token the last id counts, at the position of the first.
        if ids.insert(token.as_str(), id as u32).is_none() {
            order.push(token.as_str());
        }
    }
    let priorities: Vec<_> = order.into_iter().map(|token| (token, priority(ids[token] as usize))).collect();
    merges::implied(&ids, &priorities)
}

fn scores(gguf: &Gguf, tokens: usize) -> Result<Vec<f32>> {
    let scores = gguf.floats("tokenizer.ggml.scores")?.unwrap_or_default();
    if scores.len() != tokens {
        return Err(wrong(format!(
            "`tokenizer.ggml.scores` has {} entries for {tokens} tokens",
            scores.len()
        )));
    }
    match scores.iter().position(|score| score.is_nan()) {
        Some(id) => Err(wrong(format!("`tokenizer.ggml.scores`: the score of token {id} is not a number"))),
        None => Ok(scores),
    }
}

fn vocab(tokens: &[String]) -> Vocab {
    tokens.iter().cloned().zip(0..).collect()
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Format, message).at("GGUF metadata")
}
