//! Arguments of `patch` and `ablate`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use super::{DictFlags, ModelFlag, PromptArgs, Reading, RuleArg};

/// `patch`
#[derive(Debug, ClapArgs)]
pub(crate) struct Patch {
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    /// The prompt whose activations are put into the run of PROMPT; with as many tokens.
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
    /// The replacement: zeros, a mean (see --over), or the activation in another prompt.
    #[arg(long, value_enum, default_value_t = ByArg::Zero, value_name = "HOW")]
    pub(crate) by: ByArg,
    /// A file of prompts for `--by mean`: .jsonl, .csv, .tsv and .parquet with --field, else text with one prompt per
    /// line. By default the mean is over the tokens of PROMPT itself.
    #[arg(long, value_name = "FILE")]
    pub(crate) over: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reading: Reading,
    /// What the mean is over: `rows`, the prompts, separately for each position (all with as many tokens as PROMPT), or
    /// `tokens`, all tokens of all prompts. By default rows if the lengths agree; of experts tokens. Of an expert the mean
    /// is over tokens that go through it.
    #[arg(long, value_enum, value_name = "WHAT", requires = "over")]
    pub(crate) mean_over: Option<MeanOverArg>,
    /// The other prompt for `--by resample`; with as many tokens.
    #[arg(long, value_name = "TEXT", required_if_eq("by", "resample"))]
    pub(crate) with: Option<String>,
    #[command(flatten)]
    pub(crate) sweep: Sweep,
}

/// What a grid is made of.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Sweep {
    /// The columns; by default `patch` has positions, `ablate` heads. Experts are those of a mixture, each changed where a
    /// token goes through it. Of a dictionary's features: positions, or features, each changed at all positions at once;
    /// that is what `ablate` does by default.
    #[arg(long, value_enum, value_name = "COLUMNS")]
    pub(crate) along: Option<AlongArg>,
    /// The site to change: resid_in, attn_out, mlp_out, ... along positions, head_out, ... along heads, expert_out along
    /// experts; several, comma-separated, along sites. `features_NAME`, of a set `features_NAME_3` or `features_NAME_*`, are the features of
    /// --dict NAME=REF; the default where a dictionary is given.
    #[arg(long, value_name = "SITE")]
    pub(crate) site: Option<String>,
    #[command(flatten)]
    pub(crate) dictionaries: DictFlags,
    /// The features to change, the rows of the grid: 3,17 or 100:110 (100 to 109).
    #[arg(long, value_name = "FEATURES", requires = "dict", conflicts_with = "top")]
    pub(crate) features: Option<String>,
    /// Change the N features whose effects a gradient estimates to be the largest, strongest first; 20 by default.
    #[arg(long, value_name = "N", requires = "dict", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) top: Option<u32>,
    /// The experts to change, the columns of the grid: 3,17 or 100:110 (100 to 109). All by default.
    #[arg(long, value_name = "EXPERTS")]
    pub(crate) experts: Option<String>,
    /// Positions of the prompt: the columns, or where each head, site or expert is changed. All by default. May repeat.
    #[arg(long, value_name = "POSITIONS", allow_hyphen_values = true)]
    pub(crate) positions: Vec<String>,
    /// Seed of random positions.
    #[arg(long, default_value_t = 0, env = "EASYROUTINE_SEED", value_name = "N")]
    pub(crate) seed: u64,
    /// Layers: 5, -1 (the last), 4:9 (4 to 8), 0:30:5 (every fifth), comma-separated.
    #[arg(long, value_name = "LAYERS", allow_hyphen_values = true)]
    pub(crate) layers: Option<String>,
    /// The metric, read at the last token; `normalised` is 0 for PROMPT and 1 for the base.
    #[arg(long, value_enum, default_value_t = EffectArg::LogitDiff, value_name = "METRIC")]
    pub(crate) metric: EffectArg,
    /// The token measured by the metric: its exact text (` Mary`) or `id:7042`. By default `patch` takes what the base
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
    /// Estimate every cell from one gradient instead of running it: (replacement - present value) times the gradient.
    #[arg(long)]
    pub(crate) estimate: bool,
    /// Also run the N cells with the largest estimates, and report how well the estimates agree.
    #[arg(long, value_name = "N", requires = "estimate")]
    pub(crate) check: Option<usize>,
    /// What replaces the derivatives; `gradient` by default.
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
    Experts,
    Features,
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
    /// KL from the base, or from the run without a change, to the changed run, in nats.
    Kl,
    /// Rank of the answer, from 1.
    Rank,
}
