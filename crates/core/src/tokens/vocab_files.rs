//! Byte-level BPE from `vocab.json` and `merges.txt`: how GPT-2 was released, and some models still are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::Tokenizer as Backend;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use super::guard::guarded;
use super::pre_tokenizers::{self, PreTokenizer};
use crate::error::{Error, ErrorKind, Result};

/// The two files, if both are there.
pub(super) fn present(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    (vocab.exists() && merges.exists()).then_some((vocab, merges))
}

pub(super) fn build(vocab: &str, merges: &str, class: &str, config: &Map<String, Value>) -> Result<Backend> {
    let pre = match class {
        "" | "GPT2Tokenizer" | "CodeGenTokenizer" | "PreTrainedTokenizer" => PreTokenizer::GPT2,
        "Qwen2Tokenizer" => PreTokenizer::QWEN2,
        other => {
            let message = format!("`{other}` is not built from `vocab.json` and `merges.txt`");
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
    let prefix_space = config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
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
