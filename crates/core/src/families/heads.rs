//! The head on a decoder. As for transformers' Auto classes, `model_type` determines the decoder; the class named in
//! `architectures` determines what reads its last stream.

use super::FAMILIES;
use crate::arch::{Arch, Bias, Head, Pooling, Score};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::names::Names;

/// Kinds of heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Logits over the vocabulary.
    Unembedding,
    /// One score per row.
    Sequence,
    /// One score per token.
    Token,
    /// Start and end of an answer.
    Answer,
    /// No head.
    Nothing,
}

/// The suffix of classes that read more than text.
const CONDITIONAL: &str = "ForConditionalGeneration";

/// Suffixes of class names. `Model` comes last, since names with heads may end so too.
const ENDS: &[(&str, Kind)] = &[
    ("ForCausalLM", Kind::Unembedding),
    ("LMHeadModel", Kind::Unembedding),
    ("ForSequenceClassification", Kind::Sequence),
    ("ForTokenClassification", Kind::Token),
    ("ForQuestionAnswering", Kind::Answer),
    ("DoubleHeadsModel", Kind::Unembedding),
    (CONDITIONAL, Kind::Unembedding),
    ("Model", Kind::Nothing),
];

/// A head requested by something other than config.json: an adapter trained with one.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Its kind.
    pub kind: Kind,
    /// Its number of labels, if known.
    pub labels: Option<usize>,
}

/// Puts the head on a decoder. Returns warnings where config.json says otherwise, and adds `architectures` to
/// `let_through` if that key was allowed and had to be.
///
/// # Errors
/// If the class's head is not supported.
pub(super) fn read(
    config: &Config,
    model_type: &str,
    asked: Option<Asked>,
    allowed: &[String],
    (arch, names): (&mut Arch, &mut Names),
    let_through: &mut Vec<String>,
) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let class = config.value("architectures").and_then(|list| list.get(0)).and_then(|name| name.as_str());
    let class: Option<String> = class.map(|name| name.chars().take(80).collect());
    // Many encoder models share this suffix: only this very model's class is one of ours.
    let is_ours = |class: &str, stem: &str| !class.ends_with(CONDITIONAL) || is_named(stem, model_type);
    let parts = |class: &'_ str| {
        parts(class).filter(|(stem, _)| is_ours(class, stem)).map(|(s, k)| (s.to_owned(), k))
    };
    let parts = class.as_deref().map(|class| parts(class).ok_or_else(|| unknown(class))).transpose();
    let parts = match parts {
        // If the key is allowed explicitly, the model is read as a language model.
        Err(_) if allowed.iter().any(|key| key == "architectures") => {
            let_through.push("architectures".to_owned());
            None
        }
        other => other?,
    };
    if let (Some(class), Some((stem, _))) = (&class, parts.as_ref())
        && !is_of(stem, model_type)
    {
        warnings.push(format!(
            "config.json names the class {class} but the `model_type` {model_type}: the latter is followed, as in \
             transformers"
        ));
    }
    if let Some(map) = config.value("auto_map").and_then(|map| map.as_object())
        && let Some(auto) = map.keys().find(|key| key.starts_with("AutoModel"))
    {
        let auto: String = auto.chars().take(60).collect();
        warnings.push(format!(
            "config.json has code of its own for {auto} (`auto_map`), which is not run: the model is read as the built-in \
             {model_type}, as transformers does without `trust_remote_code`"
        ));
    }
    let said = parts.map_or(Kind::Unembedding, |(_, kind)| kind);
    let kind = asked.map_or(said, |asked| asked.kind);
    let class = match class {
        Some(class) if kind == said => class,
        _ => format!("{model_type} with a head for {}", spoken(kind)),
    };
    arch.head = match kind {
        Kind::Unembedding => return Ok(warnings),
        Kind::Nothing => Head::Nothing { class },
        Kind::Sequence | Kind::Token | Kind::Answer => {
            let labels = match (asked.and_then(|asked| asked.labels), kind) {
                (Some(labels), _) => labels,
                (None, Kind::Answer) => 2,
                (None, _) => labels(config)?,
            };
            let padding = config.value("pad_token_id").and_then(|id| u32::try_from(id.as_u64()?).ok());
            let (modules, bias, pooling): (&[&str], _, _) = match kind {
                Kind::Sequence => (&["score"], Bias::Absent, Pooling::LastToken { padding }),
                Kind::Token => {
                    let bias = Bias::when(config.flag_or("token_classification_bias", true)?);
                    (&["score", "classifier"], bias, Pooling::EachToken)
                }
                _ => (&["qa_outputs"], Bias::Stored, Pooling::EachToken),
            };
            names.score = modules;
            Head::Score(Score { class, labels, bias, pooling })
        }
    };
    Ok(warnings)
}

fn spoken(kind: Kind) -> &'static str {
    match kind {
        Kind::Unembedding => "the next token",
        Kind::Sequence => "sequences",
        Kind::Token => "tokens",
        Kind::Answer => "answers",
        Kind::Nothing => "nothing",
    }
}

/// The decoder's part of a class name, and the kind of head.
fn parts(class: &str) -> Option<(&str, Kind)> {
    let (stem, kind) =
        ENDS.iter().find_map(|(end, kind)| class.strip_suffix(end).map(|stem| (stem, *kind)))?;
    // `ForRewardModel` and the like are separate heads.
    (kind != Kind::Nothing || !stem.contains("For")).then_some((stem, kind))
}

/// Whether a class name begins with the family's, in any case. A class of no known family contradicts nothing.
fn is_of(stem: &str, model_type: &str) -> bool {
    is_named(stem, model_type) || !FAMILIES.iter().any(|family| is_named(stem, family.model_type))
}

/// Whether a class name begins with this `model_type`, in any case.
fn is_named(stem: &str, model_type: &str) -> bool {
    let plain = |name: &str| {
        name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
    };
    let (stem, family) = (plain(stem), plain(model_type));
    let stem = stem.strip_prefix("tf").or_else(|| stem.strip_prefix("flax")).unwrap_or(&stem);
    stem == family || family.strip_suffix("text") == Some(stem)
}

/// The number of labels: as many as are named, else as many as are counted, else two (`configuration_utils.py`).
fn labels(config: &Config) -> Result<usize> {
    let counted = config.optional_size("num_labels")?;
    match config.value("id2label") {
        Some(named) => match named.as_object() {
            Some(map) if !map.is_empty() => Ok(map.len()),
            _ => Err(config.wrong("id2label", "an object with a name for each label")),
        },
        None => Ok(counted.unwrap_or(2)),
    }
}

fn unknown(class: &str) -> Error {
    let ends: Vec<&str> = ENDS.iter().map(|(end, _)| *end).collect();
    Error::new(
        ErrorKind::Unsupported,
        format!("config.json: this is a {class} (`architectures`), a class whose head is not built"),
    )
    .hint(format!(
        "supported: classes that end in {}; --allow-config-key architectures reads it as a causal language model",
        ends.join(", ")
    ))
}
