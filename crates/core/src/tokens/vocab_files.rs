//! Byte-level BPE from `vocab.json` and `merges.txt`, as GPT-2 and some current models are released.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tokenizers::Tokenizer as Backend;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use super::class::Class;
use super::guard::guarded;
use super::pre_tokenizers::{self, PreTokenizer};
use super::settings::Settings;
use crate::error::{Error, ErrorKind, Result};

/// The two files, if both exist.
pub(super) fn present(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    (vocab.exists() && merges.exists()).then_some((vocab, merges))
}

pub(super) fn build(vocab: &str, merges: &str, class: Class, settings: &Settings) -> Result<Backend> {
    let pre = match class {
        Class::AsItStands | Class::Gpt2 | Class::CodeGen | Class::Roberta => PreTokenizer::GPT2,
        Class::GptNeoX => PreTokenizer::COMPOSED,
        Class::Cohere => PreTokenizer::COHERE,
        Class::Qwen2 => PreTokenizer::QWEN2,
        Class::Qwen35 => PreTokenizer::QWEN35,
        Class::Llama | Class::CodeLlama | Class::Gemma | Class::Foreign(_) => {
            let message = format!("`{}` is not built from `vocab.json` and `merges.txt`", class.name());
            return Err(Error::new(ErrorKind::Unsupported, message).hint(
                "write `tokenizer.json` with transformers: `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`",
            ));
        }
    };
    let vocab: BTreeMap<String, u32> = serde_json::from_str(vocab)
        .map_err(|e| Error::new(ErrorKind::Format, format!("`vocab.json`: {e}")))?;
    let vocab: Vocab = vocab.into_iter().collect();
    let merges = read_merges(merges)?;
    let model = guarded("build the vocabulary", || BPE::builder().vocab_and_merges(vocab, merges).build())?;
    let prefix_space = settings.flag("add_prefix_space").unwrap_or(false);
    let mut backend = Backend::new(model);
    pre_tokenizers::install(&mut backend, pre, prefix_space)?;
    Ok(backend)
}

fn read_merges(text: &str) -> Result<Merges> {
    let lines = text
        .lines()
        .enumerate()
        .filter(|(i, line)| !(line.is_empty() || *i == 0 && line.starts_with("#version")));
    lines
        .map(|(i, line)| match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
            _ => Err(Error::new(ErrorKind::Format, format!("`merges.txt` line {}: not two tokens", i + 1))),
        })
        .collect()
}
