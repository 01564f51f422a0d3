//! Arguments of `grad`.

use clap::{Args as ClapArgs, ValueEnum};
use easyroutine::gradients::Rule;

use super::{Changes, ModelFlag, PromptArgs};

/// `grad`
#[derive(Debug, ClapArgs)]
pub(crate) struct Grad {
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    #[command(flatten)]
    pub(crate) changes: Changes,
    /// Activations to differentiate with respect to: `input_embeddings,resid_out_*,pattern_L0:4H*`. May repeat.
    #[arg(short, long, value_name = "KEYS", required = true)]
    pub(crate) activations: Vec<String>,
    /// Positions at which gradients are kept; the metric sees the whole prompt. May repeat.
    #[arg(long, value_name = "POSITIONS", default_value = "all", allow_hyphen_values = true)]
    pub(crate) positions: Vec<String>,
    #[command(flatten)]
    pub(crate) measure: Measure,
    /// What replaces the derivatives.
    #[arg(long, value_enum, default_value_t = RuleArg::Gradient, value_name = "RULE")]
    pub(crate) rule: RuleArg,
}

/// What is differentiated.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Measure {
    /// The metric to differentiate, read at the last token; `ce` is a sum over the prompt.
    #[arg(long, value_enum, default_value_t = SmoothArg::LogitDiff, value_name = "METRIC")]
    pub(crate) metric: SmoothArg,
    /// The token measured by the metric: its exact text (` Mary`) or `id:7042`. Default: the model's prediction.
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub(crate) answer: Option<String>,
    /// The token that a logit difference compares it with. Default: the most likely of the other tokens.
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub(crate) against: Option<String>,
    /// For `kl`, the reference distribution: log-probabilities, one per id.
    #[arg(long, value_name = "FILE::TENSOR")]
    pub(crate) target: Option<String>,
}

/// `--metric`, for metrics with a gradient
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SmoothArg {
    /// Logit of the answer minus logit of the token against it.
    #[value(alias = "logit_diff")]
    LogitDiff,
    /// Logit of the answer.
    Logit,
    /// Log-probability of the answer, in nats.
    #[value(aliases = ["log-probability", "log_probability"])]
    Logprob,
    /// Probability of the answer.
    #[value(alias = "probability")]
    P,
    /// KL from the target to the run, in nats.
    Kl,
    /// Cross-entropy of each next token, summed, in nats.
    Ce,
}

/// `--rule`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuleArg {
    /// The derivatives themselves.
    Gradient,
    /// RelP: norm scales and attention patterns are constants, an activation is its input times a constant, and each
    /// side of a gate gets half.
    Relp,
}

impl RuleArg {
    /// The engine's rule.
    pub(crate) fn rule(self) -> Rule {
        match self {
            RuleArg::Gradient => Rule::Gradient,
            RuleArg::Relp => Rule::Relp { halves: true },
        }
    }
}
