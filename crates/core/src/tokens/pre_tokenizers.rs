//! How text is cut before merging: the rule that a vocabulary was learned with, by the name that GGUF files give it.

use serde_json::{Value, json};
use tokenizers::{DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer as Backend};

use super::guard::guarded;
use crate::error::{Error, ErrorKind, Result};

/// The rule of one family of byte-level vocabularies, as its tokenizer.json has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PreTokenizer {
    cut: Cut,
    /// Whether text is brought to Unicode's composed form first.
    composed: bool,
    /// Whether a word that is a token is taken whole, even if no merges lead to it.
    pub(super) ignore_merges: bool,
    /// Whether BOS is added where the file does not say.
    pub(super) adds_bos: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// GPT-2's own expression, which the library knows as part of its byte level.
    Gpt2,
    /// Each digit alone, then as GPT-2.
    DigitsThenGpt2,
    /// Pieces that this expression matches.
    Pattern(&'static str),
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";

impl PreTokenizer {
    pub(super) const GPT2: Self =
        PreTokenizer { cut: Cut::Gpt2, composed: false, ignore_merges: false, adds_bos: false };
    pub(super) const QWEN2: Self =
        PreTokenizer { cut: Cut::Pattern(QWEN2), composed: true, ..PreTokenizer::GPT2 };

    /// By the value of `tokenizer.ggml.pre`: names and meanings from llama.cpp (src/llama-vocab.cpp), rules from the
    /// tokenizer.json of the models that carry the name.
    pub(super) fn named(name: &str) -> Result<Self> {
        Ok(match name {
            "default" | "gpt-2" | "phi-2" | "mpt" => PreTokenizer::GPT2,
            "olmo" => PreTokenizer { composed: true, ..PreTokenizer::GPT2 },
            "smollm" | "starcoder" | "refact" => {
                PreTokenizer { cut: Cut::DigitsThenGpt2, ..PreTokenizer::GPT2 }
            }
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" => PreTokenizer {
                cut: Cut::Pattern(LLAMA3),
                composed: false,
                ignore_merges: true,
                adds_bos: true,
            },
            "dbrx" | "smaug-bpe" => PreTokenizer { cut: Cut::Pattern(LLAMA3), ..PreTokenizer::GPT2 },
            "qwen2" | "deepseek-r1-qwen" | "megrez" => PreTokenizer::QWEN2,
            "tekken" => PreTokenizer {
                cut: Cut::Pattern(TEKKEN),
                composed: false,
                ignore_merges: true,
                adds_bos: true,
            },
            "bloom" => PreTokenizer { cut: Cut::Pattern(BLOOM), ..PreTokenizer::GPT2 },
            other => {
                let message = format!(
                    "`tokenizer.ggml.pre` is `{}`, whose rule for cutting text is not known",
                    other.escape_debug()
                );
                return Err(Error::new(ErrorKind::Unsupported, message)
                    .hint("use the model's Hugging Face folder, which has `tokenizer.json`"));
            }
        })
    }

    fn json(self, prefix_space: bool) -> Value {
        let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": true, "use_regex": use_regex});
        let first = match self.cut {
            Cut::Gpt2 => return byte_level(true),
            Cut::DigitsThenGpt2 => json!({"type": "Digits", "individual_digits": true}),
            Cut::Pattern(pattern) => {
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
            }
        };
        let second = byte_level(self.cut == Cut::DigitsThenGpt2);
        json!({"type": "Sequence", "pretokenizers": [first, second]})
    }
}

/// Gives a byte-level vocabulary its rule and its decoder.
pub(super) fn install(backend: &mut Backend, pre: PreTokenizer, prefix_space: bool) -> Result<()> {
    let normalizer = pre.composed.then(|| json!({"type": "NFC"}));
    let decoder =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    install_parts(backend, normalizer, Some(pre.json(prefix_space)), decoder)
}

/// Sets the parts of a tokenizer, written as in tokenizer.json.
pub(super) fn install_parts(
    backend: &mut Backend,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    decoder: Value,
) -> Result<()> {
    guarded("set up the tokenizer", || {
        if let Some(normalizer) = normalizer {
            backend.with_normalizer(Some(serde_json::from_value::<NormalizerWrapper>(normalizer)?))?;
        }
        if let Some(pre_tokenizer) = pre_tokenizer {
            backend.with_pre_tokenizer(Some(serde_json::from_value::<PreTokenizerWrapper>(pre_tokenizer)?));
        }
        backend.with_decoder(Some(serde_json::from_value::<DecoderWrapper>(decoder)?));
        Ok(())
    })
}
