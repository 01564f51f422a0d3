//! Arguments of `jacobian` and `tune`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::extract::Share;
use super::{Cutting, ModelFlag, Reading};

/// Commands about Jacobian lenses.
#[derive(Debug, Subcommand)]
pub(crate) enum JacobianCommand {
    /// Fit a lens: the mean over prompts of the last stream's derivative with respect to each layer's output.
    Fit(Box<Fit>),
    /// Merge the parts of a fit: the same bits as one run over all their prompts.
    Merge(Merge),
}

/// `jacobian fit`
#[derive(Debug, ClapArgs)]
pub(crate) struct Fit {
    /// Prompts: .jsonl, .csv, .tsv and .parquet with --field, else text with one prompt per line.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) reading: Reading,
    #[command(flatten)]
    pub(crate) cutting: Cutting,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    /// Use only this many first tokens of each prompt.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) tokens: Option<u32>,
    /// Positions at the start of each prompt to ignore; published lenses ignore 16.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) skip_first: usize,
    /// Use only a part of the prompts, counted from 1: `2/4` takes the second of every four. `jacobian merge` joins the
    /// parts.
    #[arg(long, value_name = "PART", value_parser = super::extract::part)]
    pub(crate) part: Option<Share>,
    /// Continue from the sums in the file of -o, or begin if it does not exist.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Continue from another program's checkpoint (`{jacobian_sum, n_done, next_idx, …}`) over the same file of
    /// prompts.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["resume", "part"])]
    pub(crate) from: Option<PathBuf>,
}

/// `jacobian merge`
#[derive(Debug, ClapArgs)]
pub(crate) struct Merge {
    /// Files of `jacobian fit` over different prompts.
    #[arg(value_name = "FILE", required = true, num_args = 2..)]
    pub(crate) parts: Vec<PathBuf>,
}

/// `tune`
#[derive(Debug, ClapArgs)]
pub(crate) struct Tune {
    /// Prompts: .jsonl, .csv, .tsv and .parquet with --field, else text with one prompt per line.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) reading: Reading,
    #[command(flatten)]
    pub(crate) cutting: Cutting,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    /// Use only this many first tokens of each prompt.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) tokens: Option<u32>,
    /// The optimiser of the translators.
    #[arg(long, value_enum, default_value_t = OptimiserArg::Sgd, value_name = "NAME")]
    pub(crate) optimiser: OptimiserArg,
    /// The learning rate; by default 1 for sgd and 0.001 for adam, as in tuned-lens.
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    pub(crate) rate: Option<f64>,
    /// Steps.
    #[arg(long, value_name = "N", default_value_t = 250)]
    pub(crate) steps: usize,
    /// Prompts per step, reshuffled for each pass over the file.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rows: u32,
    /// Seed of the order of prompts.
    #[arg(long, default_value_t = 0, env = "EASYROUTINE_SEED", value_name = "N")]
    pub(crate) seed: u64,
    /// Continue a training that was stopped, from its state in the folder of -o.
    #[arg(long)]
    pub(crate) resume: bool,
}

/// `--optimiser`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OptimiserArg {
    /// Nesterov momentum 0.9, with the rate falling to 0.
    Sgd,
    /// AMSGrad, with a warm-up.
    Adam,
}
