//! Arguments of `edges`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use super::{Cutting, ModelFlag, RuleArg, SmoothArg};

/// `edges`
#[derive(Debug, ClapArgs)]
pub(crate) struct Edges {
    /// The clean prompt.
    #[arg(
        value_name = "PROMPT",
        required_unless_present = "pairs",
        conflicts_with = "pairs",
        requires = "base"
    )]
    pub(crate) prompt: Option<String>,
    /// The corrupted prompt, with as many tokens.
    #[arg(long, value_name = "TEXT", conflicts_with = "pairs")]
    pub(crate) base: Option<String>,
    /// Many pairs from a file of JSON lines: `{"clean": …, "corrupt": …, "answer": …, "against": …}`, texts or ids.
    /// Scores are means over them. By default, a pair's answer is what its clean prompt predicts, and the token against
    /// it what its corrupted prompt predicts.
    #[arg(long, value_name = "FILE")]
    pub(crate) pairs: Option<PathBuf>,
    /// Read only the first pairs of the file.
    #[arg(long, value_name = "N", requires = "pairs", conflicts_with_all = ["prompt", "base"], value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// Keep the sums over a file of pairs here, and continue from them: .safetensors.
    #[arg(long, value_name = "FILE", requires = "pairs", conflicts_with_all = ["circuit", "prompt", "base"])]
    pub(crate) state: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) cutting: Cutting,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    /// The runs at which gradients are taken.
    #[arg(long, value_enum, default_value_t = EdgeArg::EapIg, value_name = "METHOD", conflicts_with = "circuit")]
    pub(crate) method: EdgeArg,
    /// Points of `eap-ig` between the two runs; 5 by default.
    #[arg(long, value_name = "N", conflicts_with = "circuit")]
    pub(crate) steps: Option<usize>,
    /// The metric carried by edges, read at the last token; `kl` goes from the clean run to the other.
    #[arg(long, value_enum, default_value_t = SmoothArg::LogitDiff, value_name = "METRIC")]
    pub(crate) metric: SmoothArg,
    /// The token measured by the metric: its exact text (` Mary`), or `id:7042`. Default: what the clean prompt
    /// predicts.
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true, conflicts_with = "pairs")]
    pub(crate) answer: Option<String>,
    /// The token that it is compared with. Default: what the corrupted prompt predicts.
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true, conflicts_with = "pairs")]
    pub(crate) against: Option<String>,
    /// What replaces the derivatives.
    #[arg(long, value_enum, default_value_t = RuleArg::Gradient, value_name = "RULE", conflicts_with = "circuit")]
    pub(crate) rule: RuleArg,
    /// Number of edges in the circuit, those with the largest scores; edges that lead nowhere are then removed.
    #[arg(long, value_name = "N", default_value_t = 200, conflicts_with = "circuit")]
    pub(crate) top: usize,
    /// Run a given circuit instead, in the JSON of EAP-IG.
    #[arg(long, value_name = "FILE")]
    pub(crate) circuit: Option<PathBuf>,
    /// Also run circuits of 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50 and 100 % of all edges: the faithfulness curve, with CPR
    /// and CMD.
    #[arg(long)]
    pub(crate) curve: bool,
    /// Number of edges in a table, largest first.
    #[arg(short, default_value_t = 20, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) k: u32,
}

/// `--method` of `edges`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EdgeArg {
    /// On the clean run.
    Eap,
    /// The mean along the path from the corrupted embeddings to the clean ones.
    EapIg,
    /// The mean of the clean and the corrupted run.
    CleanCorrupted,
}
