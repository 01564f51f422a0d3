//! Arguments of `attribute`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use super::{DictFlags, Measure, ModelFlag, PromptOrPairs, RuleArg};

/// `attribute`
#[derive(Debug, ClapArgs)]
pub(crate) struct Attribute {
    #[command(flatten)]
    pub(crate) prompt: PromptOrPairs,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    /// The other prompt, with as many tokens. For `patching`, its activations are put into the run of PROMPT: a
    /// corrupted PROMPT with a clean base is denoising, the reverse noising. For `integrated` it is the baseline; the
    /// default baseline is zeros.
    #[arg(long, value_name = "TEXT", conflicts_with = "pairs")]
    pub(crate) base: Option<String>,
    /// `patching`: (base - PROMPT) times the gradient at PROMPT, for any activation. `integrated`: integrated gradients from
    /// the base's embeddings to those of PROMPT.
    #[arg(long, value_enum, default_value_t = MethodArg::Patching, value_name = "METHOD")]
    pub(crate) method: MethodArg,
    #[command(flatten)]
    pub(crate) dictionaries: DictFlags,
    /// For `patching`: the activations, by default `z_L*` (heads): `resid_in_*,mlp_hidden_*,pattern_L0:4H*`. Or the
    /// features of a dictionary, `features_NAME`: without a base, what each contributes; with one, what replacing it by
    /// the base's value would do. May repeat.
    #[arg(short, long, value_name = "KEYS")]
    pub(crate) activations: Vec<String>,
    /// For `patching`: positions to score. May repeat.
    #[arg(long, value_name = "POSITIONS", default_value = "all", allow_hyphen_values = true)]
    pub(crate) positions: Vec<String>,
    /// Seed of random positions.
    #[arg(long, default_value_t = 0, env = "EASYROUTINE_SEED", value_name = "N")]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) measure: Measure,
    /// For `patching`: what replaces the derivatives; `gradient` by default.
    #[arg(long, value_enum, value_name = "RULE")]
    pub(crate) rule: Option<RuleArg>,
    /// For `patching`: also run the N largest cells, and report how well the estimates agree.
    #[arg(long, value_name = "N", conflicts_with = "pairs")]
    pub(crate) check: Option<usize>,
    /// For `--pairs`: keep the sums here while pairs are read, and resume from them if the file exists (.safetensors).
    #[arg(long, value_name = "FILE", requires = "pairs", conflicts_with_all = ["prompt", "file"])]
    pub(crate) state: Option<PathBuf>,
    /// For `integrated`: the points of the sum; `gausslegendre` by default.
    #[arg(long, value_enum, value_name = "RULE")]
    pub(crate) points: Option<PointsArg>,
    /// For `integrated`: the number of points; 50 by default.
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<usize>,
    /// For `patching`: number of cells listed, largest first; 20 by default.
    #[arg(short, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) k: Option<u32>,
}

impl Attribute {
    /// `-k`
    pub(crate) fn most(&self) -> usize {
        self.k.unwrap_or(20) as usize
    }
}

/// `--method`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MethodArg {
    Patching,
    Integrated,
}

/// `--points`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PointsArg {
    Left,
    Right,
    Midpoint,
    Gausslegendre,
}
