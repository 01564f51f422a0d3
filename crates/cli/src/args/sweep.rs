//! Arguments of `patch` and `ablate`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use super::{ModelFlag, PromptArgs, Reading, RuleArg};

/// `patch`
#[derive(Debug, ClapArgs)]
pub(crate) struct Patch {
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    /// The prompt whose activations are put into the run of PROMPT; as many tokens.
    #[arg(long, value_name = "TEXT")]
    pub(crate) base: String,
    #[command(flatten)]
    pub(crate) sweep: Sweep,
}

/// `ablate`
#[derive(Debug, ClapArgs)]
pub(crate) struct Ablate {
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    /// What is put in place: zeros, a mean (see --over), or what stands there in another prompt.
    #[arg(long, value_enum, default_value_t = ByArg::Zero, value_name = "HOW")]
    pub(crate) by: ByArg,
    /// A file of prompts that `--by mean` averages over: .jsonl, .csv, .tsv and .parquet by --field, else text with one a
    /// line. Without it the mean is over the tokens of PROMPT itself.
    #[arg(long, value_name = "FILE")]
    pub(crate) over: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reading: Reading,
    /// What the mean is taken over: `rows`, the prompts, each position for itself (all as many tokens as PROMPT), or
    /// `tokens`, all tokens of all prompts. By default rows where the lengths agree.
    #[arg(long, value_enum, value_name = "WHAT", requires = "over")]
    pub(crate) mean_over: Option<MeanOverArg>,
    /// The other prompt of `--by resample`; as many tokens.
    #[arg(long, value_name = "TEXT", required_if_eq("by", "resample"))]
    pub(crate) with: Option<String>,
    #[command(flatten)]
    pub(crate) sweep: Sweep,
}

/// What a grid is made of.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Sweep {
    /// What the columns are; `patch` has positions, `ablate` heads, unless told otherwise.
    #[arg(long, value_enum, value_name = "COLUMNS")]
    pub(crate) along: Option<AlongArg>,
    /// What is changed: resid_in, attn_out, mlp_out, ... along positions, head_out, ... along heads, several joined by
    /// commas along sites.
    #[arg(long, value_name = "SITE")]
    pub(crate) site: Option<String>,
    /// Positions of the prompt: the columns, or where each head or site is changed. All by default. May repeat.
    #[arg(long, value_name = "POSITIONS", allow_hyphen_values = true)]
    pub(crate) positions: Vec<String>,
    /// Seed of random positions.
    #[arg(long, default_value_t = 0, env = "EASYROUTINE_SEED", value_name = "N")]
    pub(crate) seed: u64,
    /// Layers: 5, -1 (the last), 4:9 (4 to 8), 0:30:5 (every fifth), joined by commas.
    #[arg(long, value_name = "LAYERS", allow_hyphen_values = true)]
    pub(crate) layers: Option<String>,
    /// What is read at the last token; `normalised` is 0 for PROMPT and 1 for the base.
    #[arg(long, value_enum, default_value_t = EffectArg::LogitDiff, value_name = "METRIC")]
    pub(crate) metric: EffectArg,
    /// The token that the metric measures: its exact text (` Mary`) or `id:7042`. By default `patch` takes what the base
    /// predicts, and `ablate` what the prompt predicts.
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub(crate) answer: Option<String>,
    /// The token it is compared with. By default `patch` takes what the prompt predicts, and `ablate` the second most
    /// likely token.
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub(crate) against: Option<String>,
    #[command(flatten)]
    pub(crate) estimating: Estimating,
}

/// How cells are estimated instead of run.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Attribution patching")]
pub(crate) struct Estimating {
    /// Estimate every cell from one gradient instead of running it: (what is put - what stands there) times the gradient.
    #[arg(long)]
    pub(crate) estimate: bool,
    /// Also run the N cells of the largest estimates, and say how well the estimates agree.
    #[arg(long, value_name = "N", requires = "estimate")]
    pub(crate) check: Option<usize>,
    /// What stands for the derivatives; `gradient` unless given.
    #[arg(long, value_enum, value_name = "RULE", requires = "estimate")]
    pub(crate) rule: Option<RuleArg>,
}

/// `--by`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ByArg {
    Zero,
    Mean,
    Resample,
}

/// `--mean-over`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MeanOverArg {
    Rows,
    Tokens,
}

/// `--along`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AlongArg {
    Positions,
    Heads,
    Sites,
}

/// `--metric` of a grid
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EffectArg {
    /// Logit of the answer minus logit of the token against it.
    #[value(alias = "logit_diff")]
    LogitDiff,
    /// The same, scaled to 0 for the prompt and 1 for the base.
    #[value(aliases = ["normalized", "normalised_logit_diff", "normalised-logit-diff"])]
    Normalised,
    /// Probability of the answer.
    #[value(alias = "probability")]
    P,
    /// KL of the base, or of the run without a change, to the changed run, in nats.
    Kl,
    /// Rank of the answer, from 1.
    Rank,
}
