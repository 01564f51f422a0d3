//! adapter_config.json: every key is read, inert, or refused with its name.

use regex::Regex;
use serde_json::Value;

use super::MERGE;
use super::targets::{Targets, compiled};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};

/// The config values that the numbers depend on.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) base: Option<String>,
    pub(super) task: Option<Task>,
    pub(super) targets: Targets,
    rank: usize,
    alpha: f64,
    by: DividedBy,
    rank_pattern: Vec<(Regex, usize)>,
    alpha_pattern: Vec<(Regex, f64)>,
    /// Unknown keys that were allowed by name.
    pub(super) let_through: Vec<String>,
}

/// The task of an adapted model (peft, `TaskType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Predicting the next token.
    CausalLm,
    /// A score for the whole text.
    SequenceClassification,
    /// A score per token.
    TokenClassification,
    /// Start and end of an answer.
    QuestionAnswering,
    /// The stream itself.
    FeatureExtraction,
}

/// The divisor of alpha that gives the scale.
#[derive(Debug, Clone, Copy)]
enum DividedBy {
    Rank,
    /// Rank-stabilised LoRA (arXiv:2312.03732).
    RootOfRank,
}

/// Keys without effect here, for training and saving.
const INERT: &[&str] = &[
    "auto_mapping",
    "corda_config",
    "enable_lora",
    "eva_config",
    // The shapes of A and B do not depend on how the weight is stored.
    "fan_in_fan_out",
    "inference_mode",
    "lora_dropout",
    "lora_ga_config",
    "loftq_config",
    "megatron_core",
    "merge_weights",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    // The tensors show whether biases and tables were trained.
    "bias",
    "lora_bias",
];

/// Keys that change the numbers in an unsupported way, unless they are absent, null, false or empty.
const REFUSED: &[(&str, &str)] = &[
    ("alora_invocation_tokens", "an activated LoRA"),
    ("arrow_config", "a router between adapters"),
    ("ensure_weight_tying", "a tied pair of tables"),
    ("kasa_config", "KaSA"),
    ("layer_replication", "a model with repeated layers"),
    ("megatron_config", "a Megatron model"),
    ("monteclora_config", "MonteCLoRA"),
    ("target_parameters", "parameters instead of modules"),
    ("trainable_token_indices", "single rows of a table"),
    ("use_bdlora", "BD-LoRA"),
    ("use_dora", "DoRA"),
    ("use_qalora", "QA-LoRA"),
    ("velora_config", "VeLoRA"),
];

impl Settings {
    pub(super) fn read(config: &Config, allowed: &[String]) -> Result<Self> {
        let kind = config.optional_text("peft_type")?.ok_or_else(|| config.missing("peft_type"))?;
        if !kind.eq_ignore_ascii_case("lora") {
            let shown: String = kind.chars().take(40).collect();
            let message =
                format!("{}: an adapter of the kind {shown} is not applied; supported: LORA", super::CONFIG);
            return Err(Error::new(ErrorKind::Unsupported, message).hint(MERGE));
        }
        let mut refused: Vec<String> = Vec::new();
        for (key, what) in REFUSED {
            if config.raw(key).is_some_and(is_set) && !allowed.iter().any(|name| name == key) {
                refused.push(format!("`{key}` ({what})"));
            }
        }
        if let Some(way) = initialisation(config) {
            refused.push(format!(
                "`init_lora_weights` \"{way}\" (the base model's weights were changed as well)"
            ));
        }
        let task = match task(config)? {
            Ok(task) => task,
            Err(name) => {
                refused.push(format!("`task_type` {name}"));
                None
            }
        };
        if !refused.is_empty() {
            let message = format!("{}: not applied: {}", super::CONFIG, refused.join(", "));
            return Err(Error::new(ErrorKind::Unsupported, message).hint(MERGE));
        }
        let mut settings = Settings {
            base: config.optional_text("base_model_name_or_path")?.map(str::to_owned),
            task,
            targets: Targets::read(config).map_err(|e| e.at(super::CONFIG))?,
            rank: config.size_or("r", 8)?,
            alpha: config.number_or("lora_alpha", 8.0)?,
            by: if config.flag_or("use_rslora", false)? { DividedBy::RootOfRank } else { DividedBy::Rank },
            rank_pattern: patterns(config, "rank_pattern", |inner, key| inner.size(key))?,
            alpha_pattern: patterns(config, "alpha_pattern", |inner, key| inner.number(key))?,
            let_through: Vec::new(),
        };
        settings.let_through = config.finish_with(&[INERT], allowed)?;
        Ok(settings)
    }

    /// The rank and the scale of a module's update.
    pub(super) fn of_module(&self, module: &str) -> (usize, f64) {
        let rank = first(&self.rank_pattern, module).unwrap_or(self.rank);
        let alpha = first(&self.alpha_pattern, module).unwrap_or(self.alpha);
        let divisor = match self.by {
            DividedBy::Rank => rank as f64,
            DividedBy::RootOfRank => (rank as f64).sqrt(),
        };
        (rank, alpha / divisor)
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

/// An initialisation that changed the base model's weights, so that the update alone is incomplete.
fn initialisation(config: &Config) -> Option<String> {
    let value = config.raw("init_lora_weights")?;
    let harmless = match value {
        Value::Null | Value::Bool(_) => true,
        Value::String(way) => matches!(way.to_ascii_lowercase().as_str(), "gaussian" | "orthogonal" | "eva"),
        _ => false,
    };
    (!harmless)
        .then(|| value.as_str().map_or_else(|| value.to_string(), str::to_owned).chars().take(40).collect())
}

fn task(config: &Config) -> Result<std::result::Result<Option<Task>, String>> {
    Ok(Ok(match config.optional_text("task_type")? {
        None => None,
        Some("CAUSAL_LM") => Some(Task::CausalLm),
        Some("SEQ_CLS") => Some(Task::SequenceClassification),
        Some("TOKEN_CLS") => Some(Task::TokenClassification),
        Some("QUESTION_ANS") => Some(Task::QuestionAnswering),
        Some("FEATURE_EXTRACTION") => Some(Task::FeatureExtraction),
        Some(other) => return Ok(Err(other.chars().take(40).collect())),
    }))
}

/// Pattern -> value, in file order: the first pattern that matches the end of a module's name applies (peft,
/// `get_pattern_key`).
fn patterns<T>(
    config: &Config,
    key: &str,
    read: impl Fn(&Config, &str) -> Result<T>,
) -> Result<Vec<(Regex, T)>> {
    let Some(inner) = config.object(key)? else { return Ok(Vec::new()) };
    let names: Vec<String> = inner.as_map().keys().cloned().collect();
    let one = |name: String| Ok((compiled(key, &format!(r"^(?:.*\.)?(?:{name})$"))?, read(&inner, &name)?));
    names.into_iter().map(one).collect()
}

fn first<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(regex, _)| regex.is_match(module)).map(|(_, value)| *value)
}
