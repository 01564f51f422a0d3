//! Arguments of `attribute`.

use clap::{Args as ClapArgs, ValueEnum};

use super::{Measure, ModelFlag, PromptOrPairs, RuleArg};

/// `attribute`
#[derive(Debug, ClapArgs)]
pub(crate) struct Attribute {
    #[command(flatten)]
    pub(crate) prompt: PromptOrPairs,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    /// The other prompt, of as many tokens. Of `patching` its activations are put into the run of PROMPT: a corrupted PROMPT
    /// with a clean base is denoising, the reverse noising. Of `integrated` it is the baseline; without it, zeros are.
    #[arg(long, value_name = "TEXT", conflicts_with = "pairs")]
    pub(crate) base: Option<String>,
    /// `patching`: (base - PROMPT) times the gradient at PROMPT, for any activation. `integrated`: integrated gradients from
    /// the base's embeddings to those of PROMPT.
    #[arg(long, value_enum, default_value_t = MethodArg::Patching, value_name = "METHOD")]
    pub(crate) method: MethodArg,
    /// Of `patching`: the activations, `z_L*` (heads) unless given: `resid_in_*,mlp_hidden_*,pattern_L0:4H*`. May repeat.
    #[arg(short, long, value_name = "KEYS")]
    pub(crate) activations: Vec<String>,
    /// Of `patching`: positions that are scored. May repeat.
    #[arg(long, value_name = "POSITIONS", default_value = "all", allow_hyphen_values = true)]
    pub(crate) positions: Vec<String>,
    /// Seed of random positions.
    #[arg(long, default_value_t = 0, env = "EASYROUTINE_SEED", value_name = "N")]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) measure: Measure,
    /// Of `patching`: what stands for the derivatives; `gradient` unless given.
    #[arg(long, value_enum, value_name = "RULE")]
    pub(crate) rule: Option<RuleArg>,
    /// Of `patching`: also run the N largest cells, and say how well the estimates agree.
    #[arg(long, value_name = "N", conflicts_with = "pairs")]
    pub(crate) check: Option<usize>,
    /// Of `integrated`: the points of the sum; `gausslegendre` unless given.
    #[arg(long, value_enum, value_name = "RULE")]
    pub(crate) points: Option<PointsArg>,
    /// Of `integrated`: how many points; 50 unless given.
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<usize>,
    /// How many cells are listed, the largest first.
    #[arg(short, default_value_t = 20, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) k: u32,
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
