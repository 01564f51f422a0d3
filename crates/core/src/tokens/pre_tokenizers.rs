//! Pre-tokenization: how text is divided before merging, by the name of the rule in GGUF files.

use serde_json::{Value, json};
use tokenizers::{DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer as Backend};

use super::guard::guarded;
use crate::error::{Error, ErrorKind, Result};

/// The rule of one family of byte-level vocabularies, as in its tokenizer.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PreTokenizer {
    cut: Cut,
    /// Whether text is first normalised to Unicode's composed form; `None` if nothing at hand says it of the model. It is
    /// then left as it is, as in llama.cpp.
    composed: Option<bool>,
    /// Whether a word that is a token is used whole, even if no merges lead to it.
    pub(super) ignore_merges: bool,
    /// Whether BOS is added by default.
    pub(super) adds_bos: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// GPT-2's own expression, part of the library's byte level.
    Gpt2,
    /// Each digit separately, then as GPT-2.
    DigitsThenGpt2,
    /// Pieces that match this expression.
    Pattern(&'static str),
    /// One step after the other.
    Steps(&'static [Step]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// What matches this expression is a piece, and what lies between.
    Split(&'static str),
    /// Each digit is a piece.
    Digits,
    /// Digits that follow one another are a piece.
    Numbers,
    /// Punctuation that follows one another is a piece.
    Punctuation,
    /// GPT-2's expression.
    Gpt2,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";

const SEED: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
// Chinese characters are pieces of their own, apart from other letters.
const KIMI: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const FALCON: &[Step] = &[Step::Punctuation, Step::Gpt2, Step::Numbers, Step::Split("[0-9][0-9][0-9]")];
const DEEPSEEK: &[Step] = &[
    Step::Split("[\r\n]"),
    Step::Split(
        r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
    ),
    Step::Split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
    Step::Split(r"\s+$"),
    Step::Split("[一-龥ࠀ-一가-퟿]+"),
    Step::Digits,
];
const DEEPSEEK_CODER: &[Step] = &[
    Step::Split("[\r\n]"),
    Step::Split(r"\s?\p{L}+"),
    Step::Split(r"\s?\p{P}+"),
    Step::Split("[一-龥ࠀ-一가-퟿]+"),
    Step::Digits,
];
const DEEPSEEK3: &[Step] = &[
    Step::Split(r"\p{N}{1,3}"),
    Step::Split("[一-龥぀-ゟ゠-ヿ]+"),
    Step::Split(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
    ),
];

const VIKING: &[Step] = &[Step::Split(BLOOM), Step::Digits];
/// Numbers in groups of three from their end; words and blanks are not cut.
const SUPERBPE: &[Step] = &[Step::Numbers, Step::Split(r"(?=(\d{3})+(?!\d))")];
const TINY_AYA: &[Step] = &[Step::Split(r"\d{1,3}(?=(?:\d{3})*\b)"), Step::Split(GPT4O)];
const MINICPM5: &[Step] = &[
    Step::Split(r"\p{N}{1,3}"),
    Step::Split(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];

/// Names whose models' tokenizer.json was not at hand, by the known name that llama.cpp cuts alike.
const CUT_ALIKE: [(&str, &[&str]); 8] = [
    ("gpt-2", &["a.x-4.0", "gigachat", "granite-docling", "jais", "mellum", "modern-bert", "trillion"]),
    ("smollm", &["codeshell", "exaone", "mellum2", "minerva-7b"]),
    ("qwen2", &["f2llmv2", "grok-2", "hunyuan", "solar-open"]),
    ("llama-bpe", &["jina-v5-nano"]),
    ("gpt-4o", &["talkie"]),
    ("glm4", &["glm5"]),
    ("deepseek-v3", &["hy_v4"]),
    ("tiny_aya", &["cohere2moe"]),
];

impl PreTokenizer {
    pub(super) const GPT2: Self =
        PreTokenizer { cut: Cut::Gpt2, composed: Some(false), ignore_merges: false, adds_bos: false };
    /// GPT-2's, on composed text: GPT-NeoX and all models with its vocabulary.
    pub(super) const COMPOSED: Self = PreTokenizer { composed: Some(true), ..PreTokenizer::GPT2 };
    pub(super) const COHERE: Self = PreTokenizer { cut: Cut::DigitsThenGpt2, ..PreTokenizer::COMPOSED };
    const AS_IN_LLAMA_CPP: Self = PreTokenizer { composed: None, ..PreTokenizer::GPT2 };
    pub(super) const QWEN2: Self = PreTokenizer { cut: Cut::Pattern(QWEN2), ..PreTokenizer::COMPOSED };
    pub(super) const QWEN35: Self = PreTokenizer { cut: Cut::Pattern(QWEN35), ..PreTokenizer::COMPOSED };

    /// By the value of `tokenizer.ggml.pre`: names and meanings from llama.cpp (src/llama-vocab.cpp), rules from the
    /// tokenizer.json of models that use the name.
    pub(super) fn named(name: &str) -> Result<Self> {
        Ok(match name {
            "gpt-2" | "phi-2" => PreTokenizer::GPT2,
            "olmo" | "mpt" => PreTokenizer::COMPOSED,
            "command-r" => PreTokenizer::COHERE,
            "smollm" | "starcoder" | "refact" => {
                PreTokenizer { cut: Cut::DigitsThenGpt2, ..PreTokenizer::GPT2 }
            }
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
            | "lfm2" => PreTokenizer {
                cut: Cut::Pattern(LLAMA3),
                composed: Some(false),
                ignore_merges: true,
                adds_bos: true,
            },
            "dbrx" | "smaug-bpe" | "chatglm-bpe" => {
                PreTokenizer { cut: Cut::Pattern(LLAMA3), ..PreTokenizer::GPT2 }
            }
            // StableLM 2's own code (tokenization_arcade100k.py) composes text and has Qwen2's expression.
            "qwen2" | "deepseek-r1-qwen" | "kormo" | "megrez" | "stablelm2" => PreTokenizer::QWEN2,
            "qwen35" => PreTokenizer::QWEN35,
            "gpt-4o" | "llama4" | "kanana2" | "minimax-m2" => {
                PreTokenizer { cut: Cut::Pattern(GPT4O), ..PreTokenizer::GPT2 }
            }
            "tekken" => PreTokenizer {
                cut: Cut::Pattern(TEKKEN),
                composed: Some(false),
                ignore_merges: true,
                adds_bos: true,
            },
            "seed-coder" => PreTokenizer { cut: Cut::Pattern(SEED), ..PreTokenizer::GPT2 },
            "glm4" => PreTokenizer { cut: Cut::Pattern(LLAMA3), ignore_merges: true, ..PreTokenizer::GPT2 },
            "falcon" => PreTokenizer { cut: Cut::Steps(FALCON), ..PreTokenizer::GPT2 },
            // llama.cpp keeps numbers together here; the models' own tokenizer.json cuts them by digits.
            "deepseek-llm" => PreTokenizer { cut: Cut::Steps(DEEPSEEK), ..PreTokenizer::GPT2 },
            "deepseek-coder" => PreTokenizer { cut: Cut::Steps(DEEPSEEK_CODER), ..PreTokenizer::GPT2 },
            "deepseek-v3" | "hunyuan-dense" | "joyai-llm" => {
                PreTokenizer { cut: Cut::Steps(DEEPSEEK3), ..PreTokenizer::GPT2 }
            }
            "bloom" | "poro-chat" | "gpt3-finnish" => {
                PreTokenizer { cut: Cut::Pattern(BLOOM), ..PreTokenizer::GPT2 }
            }
            // LumiOpen/Viking-7B's tokenizer.json.
            "viking" => PreTokenizer { cut: Cut::Steps(VIKING), ..PreTokenizer::AS_IN_LLAMA_CPP },
            // How LG cuts EXAONE 4 in llama.cpp.
            "exaone4" => PreTokenizer::AS_IN_LLAMA_CPP,
            // CohereLabs/tiny-aya-base's tokenizer.json; llama.cpp's own rule for the numbers is only close to it.
            "tiny_aya" => PreTokenizer { cut: Cut::Steps(TINY_AYA), ..PreTokenizer::AS_IN_LLAMA_CPP },
            // The code that trained it (PythonNut/superbpe).
            "superbpe" => PreTokenizer { cut: Cut::Steps(SUPERBPE), ..PreTokenizer::GPT2 },
            // openbmb/MiniCPM5-1B's tokenizer.json, which builds every word by merges; llama.cpp does not.
            "minicpm5" => PreTokenizer { cut: Cut::Steps(MINICPM5), ..PreTokenizer::GPT2 },
            // moonshotai/Kimi-K2's own code, by tiktoken, which takes a word that is a token whole.
            "kimi-k2" => PreTokenizer { cut: Cut::Pattern(KIMI), ignore_merges: true, ..PreTokenizer::GPT2 },
            other => return Err(unknown(other)),
        })
    }

    /// Whether nothing says if the model's text is composed first.
    pub(super) fn may_compose(self) -> bool {
        self.composed.is_none()
    }

    /// The rule for a file that names none, and the reason: inferred from tokens that only one rule allows, then from
    /// `general.architecture`.
    ///
    /// Files converted before spring 2024 have no `tokenizer.ggml.pre`; some converters write `default`.
    pub(super) fn guessed(architecture: &str, tokens: &[String]) -> (&'static str, String) {
        if architecture.starts_with("qwen") {
            return ("qwen2", format!("`general.architecture` is `{}`", architecture.escape_debug()));
        }
        if tokens.iter().any(|token| token == "<|begin_of_text|>") {
            return ("llama-bpe", "the vocabulary has `<|begin_of_text|>`".to_owned());
        }
        // In GPT-2's alphabet. GPT-2's rule never keeps a full stop and a following line end in one piece.
        let joined = tokens.iter().any(|token| token == ".\u{10A}" || token == ".\u{10A}\u{10A}");
        let numbers = tokens.iter().filter(|token| token.bytes().all(|byte| byte.is_ascii_digit()));
        match (joined, numbers.map(String::len).max()) {
            (true, Some(2 | 3)) => {
                ("llama-bpe", "the vocabulary joins line ends and up to three digits".to_owned())
            }
            (true, Some(1)) => ("qwen2", "the vocabulary joins line ends but no digits".to_owned()),
            _ => ("gpt-2", "nothing in the file speaks for another".to_owned()),
        }
    }

    /// Normalizer and pre-tokenizer, in the form of tokenizer.json.
    pub(super) fn parts(self, prefix_space: bool) -> (Option<Value>, Value) {
        ((self.composed == Some(true)).then(|| json!({"type": "NFC"})), self.json(prefix_space))
    }

    fn json(self, prefix_space: bool) -> Value {
        let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": true, "use_regex": use_regex});
        let first = match self.cut {
            Cut::Gpt2 => return byte_level(true),
            Cut::DigitsThenGpt2 => Step::Digits.json(&byte_level),
            Cut::Pattern(pattern) => Step::Split(pattern).json(&byte_level),
            Cut::Steps(steps) => {
                let mut all: Vec<Value> = steps.iter().map(|step| step.json(&byte_level)).collect();
                if !steps.contains(&Step::Gpt2) {
                    all.push(byte_level(false));
                }
                return json!({"type": "Sequence", "pretokenizers": all});
            }
        };
        let second = byte_level(self.cut == Cut::DigitsThenGpt2);
        json!({"type": "Sequence", "pretokenizers": [first, second]})
    }
}

fn unknown(name: &str) -> Error {
    let alike = CUT_ALIKE.iter().find(|(_, names)| names.contains(&name)).map(|(known, _)| *known);
    let message = format!("`{}` names no known rule for cutting text", name.escape_debug());
    Error::new(ErrorKind::Unsupported, message).hint(match alike {
        Some(known) => format!(
            "its tokenizer.json was not at hand; llama.cpp cuts it as it cuts `{known}`: if that is right, `--pre {known}`, \
             or use the model's Hugging Face folder"
        ),
        None => "name the rule of its tokenizer.json, as in `--pre llama-bpe` or `--pre qwen2`, or use the model's Hugging \
                 Face folder"
            .to_owned(),
    })
}

impl Step {
    fn json(self, byte_level: &dyn Fn(bool) -> Value) -> Value {
        match self {
            Step::Split(pattern) => {
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
            }
            Step::Digits => json!({"type": "Digits", "individual_digits": true}),
            Step::Numbers => json!({"type": "Digits", "individual_digits": false}),
            Step::Punctuation => json!({"type": "Punctuation", "behavior": "Contiguous"}),
            Step::Gpt2 => byte_level(true),
        }
    }
}

/// Whether text is always split between a letter and a space before a letter, by an expression that does not look
/// further: none of these matches a letter followed by a space, and they look ahead only from spaces.
pub(super) fn cuts_at_blanks(pattern: &str) -> bool {
    [LLAMA3, QWEN2, QWEN35, TEKKEN, GPT4O].contains(&pattern)
}

/// Gives a byte-level vocabulary its rule and its decoder.
pub(super) fn install(backend: &mut Backend, pre: PreTokenizer, prefix_space: bool) -> Result<()> {
    let (normalizer, pre_tokenizer) = pre.parts(prefix_space);
    install_parts(backend, normalizer, Some(pre_tokenizer), byte_decoder())
}

/// From bytes to text.
pub(super) fn byte_decoder() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})
}

/// From SentencePiece's marks to spaces, without the leading one if `strips`.
pub(super) fn piece_decoder(strips: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if strips {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

/// Sets the parts of a tokenizer, in the form of tokenizer.json; `None` removes a part.
pub(super) fn install_parts(
    backend: &mut Backend,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    decoder: Value,
) -> Result<()> {
    guarded("set up the tokenizer", || {
        let normalizer = normalizer.map(serde_json::from_value::<NormalizerWrapper>).transpose()?;
        backend.with_normalizer(normalizer)?;
        let pre_tokenizer = pre_tokenizer.map(serde_json::from_value::<PreTokenizerWrapper>).transpose()?;
        backend.with_pre_tokenizer(pre_tokenizer);
        backend.with_decoder(Some(serde_json::from_value::<DecoderWrapper>(decoder)?));
        Ok(())
    })
}
