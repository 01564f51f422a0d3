//! Arguments of `dla`.

use clap::{Args as ClapArgs, ValueEnum};

use super::{Changes, ModelFlag, NormArg, PromptOrPairs};

/// `dla`
#[derive(Debug, ClapArgs)]
pub(crate) struct Dla {
    #[command(flatten)]
    pub(crate) prompt: PromptOrPairs,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    #[command(flatten)]
    pub(crate) changes: Changes,
    /// The token whose logit is attributed: its exact text (` Mary`), or `id:7042`. Default: the model's prediction.
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub(crate) answer: Option<String>,
    /// The token that it is compared with; by default the logit alone is attributed.
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub(crate) against: Option<String>,
    /// How the logits are decomposed.
    #[arg(long, value_enum, default_value_t = CutArg::Part, value_name = "WHAT")]
    pub(crate) by: CutArg,
    /// For `stream`: final norm with each stream's own statistics, as in a lens, or with those of the last.
    #[arg(long, value_enum, value_name = "NORM")]
    pub(crate) norm: Option<NormArg>,
    /// Positions at which the logits are read. May repeat.
    #[arg(long, value_name = "POSITIONS", default_value = "last", allow_hyphen_values = true)]
    pub(crate) positions: Vec<String>,
    /// Number of heads or neurons listed, largest contributions first.
    #[arg(short, long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) k: u32,
}

/// `--by` of `dla`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CutArg {
    /// The embedding, and attention and MLP of each layer, with their running sum.
    Part,
    /// Heads, and the bias of each attention.
    Head,
    /// Neurons, and the bias of each MLP.
    Neuron,
    /// The stream after each part: the sum of everything written so far.
    Stream,
}
