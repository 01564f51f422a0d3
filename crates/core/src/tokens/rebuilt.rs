//! A backend as built by a class of transformers: the files' vocabulary, with the class's own rules.

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedVocabulary, ModelWrapper, Tokenizer as Backend};

use super::class::Class;
use super::guard::guarded;
use super::pre_tokenizers::{self, PreTokenizer};
use super::settings::Settings;
use crate::error::{Error, ErrorKind, Result};

const MARK: &str = "\u{2581}";

/// How a class divides and rejoins text, in the form of tokenizer.json.
#[derive(Debug)]
pub(super) struct Rules {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    decoder: Value,
    /// `unk_token`, `fuse_unk` and `byte_fallback` of the model.
    unknown: Option<String>,
    fuses_unknown: bool,
    byte_fallback: bool,
}

impl Rules {
    /// The rules of a class that has its own. `unknown` is the token for anything not in the vocabulary.
    pub(super) fn of(class: Class, settings: &Settings, unknown: Option<&str>) -> Option<Rules> {
        let prefix = settings.flag("add_prefix_space");
        let bytes = |pre: PreTokenizer| {
            let (normalizer, pre_tokenizer) = pre.parts(prefix.unwrap_or(false));
            Rules {
                normalizer,
                pre_tokenizer: Some(pre_tokenizer),
                decoder: pre_tokenizers::byte_decoder(),
                unknown: None,
                fuses_unknown: false,
                byte_fallback: false,
            }
        };
        let pieces = |scheme: &str, strips: bool| {
            let metaspace =
                json!({"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": false});
            Rules {
                normalizer: None,
                pre_tokenizer: Some(metaspace),
                decoder: pre_tokenizers::piece_decoder(strips),
                unknown: None,
                fuses_unknown: true,
                byte_fallback: true,
            }
        };
        let unknown = unknown.map(str::to_owned);
        Some(match class {
            Class::AsItStands | Class::Foreign(_) => return None,
            Class::Gpt2 | Class::CodeGen | Class::Roberta => bytes(PreTokenizer::GPT2),
            Class::GptNeoX => bytes(PreTokenizer::COMPOSED),
            Class::Qwen2 => bytes(PreTokenizer::QWEN2),
            Class::Qwen35 => bytes(PreTokenizer::QWEN35),
            Class::Cohere => bytes(PreTokenizer::COHERE),
            Class::Llama => {
                let scheme = match (prefix, settings.flag("legacy")) {
                    (Some(false), _) => "never",
                    (_, Some(true)) => "always",
                    _ => "first",
                };
                pieces(scheme, prefix != Some(false))
            }
            Class::CodeLlama => {
                let scheme = if prefix == Some(false) { "never" } else { "first" };
                Rules { unknown, ..pieces(scheme, true) }
            }
            Class::Gemma => Rules {
                normalizer: Some(json!({"type": "Replace", "pattern": {"String": " "}, "content": MARK})),
                pre_tokenizer: Some(json!({"type": "Split", "pattern": {"String": " "},
                    "behavior": "MergedWithPrevious", "invert": false})),
                decoder: pre_tokenizers::piece_decoder(false),
                unknown,
                fuses_unknown: true,
                byte_fallback: true,
            },
        })
    }

    /// Replaces the file's rules by these, and removes the file's added tokens.
    pub(super) fn install(self, backend: &mut Backend, class: Class) -> Result<()> {
        if let Some(model) = self.model(backend.get_model(), class)? {
            backend.with_model(model);
        }
        backend.with_added_vocabulary(AddedVocabulary::new());
        pre_tokenizers::install_parts(backend, self.normalizer, self.pre_tokenizer, self.decoder)
    }

    /// The model with the class's settings, if the file's differ.
    fn model(&self, model: &ModelWrapper, class: Class) -> Result<Option<BPE>> {
        let mut bpe = match model {
            ModelWrapper::BPE(bpe) => {
                let is_same = bpe.unk_token == self.unknown
                    && bpe.fuse_unk == self.fuses_unknown
                    && bpe.byte_fallback == self.byte_fallback
                    && !bpe.ignore_merges
                    && bpe.continuing_subword_prefix.as_deref().unwrap_or_default().is_empty()
                    && bpe.end_of_word_suffix.as_deref().unwrap_or_default().is_empty();
                if is_same {
                    return Ok(None);
                }
                without_subword_prefix(bpe, class)?
            }
            // Other kinds of vocabulary have no merges.
            other => {
                let vocab: Vocab = tokenizers::Model::get_vocab(other).into_iter().collect();
                guarded("build the vocabulary", || {
                    BPE::builder().vocab_and_merges(vocab, Vec::new()).build()
                })?
            }
        };
        bpe.unk_token.clone_from(&self.unknown);
        bpe.fuse_unk = self.fuses_unknown;
        bpe.byte_fallback = self.byte_fallback;
        bpe.ignore_merges = false;
        bpe.end_of_word_suffix = None;
        Ok(Some(bpe))
    }
}

/// The model with tokens and merges as they are spelled, since no class reads `continuing_subword_prefix`: a merge of `a`
/// and `##b` makes `a##b`, where the file meant `ab`.
fn without_subword_prefix(bpe: &BPE, class: Class) -> Result<BPE> {
    let mut bare = bpe.clone();
    let Some(prefix) = bare.continuing_subword_prefix.take().filter(|prefix| !prefix.is_empty()) else {
        return Ok(bare);
    };
    // What each merge makes was worked out with the prefix, when the file was read.
    let rebuilt = guarded("build the vocabulary", || {
        let text = serde_json::to_string(&bare)?;
        Ok(serde_json::from_str::<BPE>(&text)?)
    });
    rebuilt.map_err(|error| {
        let name = class.name();
        let message = format!(
            "`continuing_subword_prefix` of the model is {prefix:?}, which {name} of transformers ignores; without it the \
             merges do not fit the vocabulary: {error}"
        );
        Error::new(ErrorKind::Unsupported, message).hint(
            "to take tokenizer.json as it stands, set `\"tokenizer_class\": \"TokenizersBackend\"` in tokenizer_config.json",
        )
    })
}
