//! Arguments of `jacobian` and `tune`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::extract::Share;
use super::{Cutting, ModelFlag, Reading};

/// Commands about Jacobian lenses.
#[derive(Debug, Subcommand)]
pub(crate) enum JacobianCommand {
    /// The mean over prompts of how the last stream moves with what left each layer.
    Fit(Box<Fit>),
    /// Parts of a fit into one: the same bits as one run over all their prompts.
    Merge(Merge),
}

/// `jacobian fit`
#[derive(Debug, ClapArgs)]
pub(crate) struct Fit {
    /// Prompts: .jsonl, .csv, .tsv and .parquet by --field, else text with one a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) reading: Reading,
    #[command(flatten)]
    pub(crate) cutting: Cutting,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    /// Only the first so many tokens of each prompt.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) tokens: Option<u32>,
    /// Positions at the beginning of each prompt that do not count; published lenses leave out 16.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) skip_first: usize,
    /// Only every so many prompts, counted from 1: `2/4` takes the second of each four. `jacobian merge` joins the parts.
    #[arg(long, value_name = "PART", value_parser = super::extract::part)]
    pub(crate) part: Option<Share>,
    /// Go on with what the file of -o has summed, or begin it where there is none.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Go on from the checkpoint of another program (`{jacobian_sum, n_done, next_idx, …}`), of whose prompts this file has the
    /// same.
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
    /// Prompts: .jsonl, .csv, .tsv and .parquet by --field, else text with one a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) reading: Reading,
    #[command(flatten)]
    pub(crate) cutting: Cutting,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    /// Only the first so many tokens of each prompt.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) tokens: Option<u32>,
    /// How translators are moved.
    #[arg(long, value_enum, default_value_t = OptimiserArg::Sgd, value_name = "NAME")]
    pub(crate) optimiser: OptimiserArg,
    /// The rate; 1 for sgd, 0.001 for adam unless given, as tuned-lens has it.
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    pub(crate) rate: Option<f64>,
    /// Steps.
    #[arg(long, value_name = "N", default_value_t = 250)]
    pub(crate) steps: usize,
    /// Prompts of a step, drawn anew for each pass over the file.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rows: u32,
    /// Seed of the order of prompts.
    #[arg(long, default_value_t = 0, env = "EASYROUTINE_SEED", value_name = "N")]
    pub(crate) seed: u64,
    /// Go on with a training that was stopped, whose state lies in the folder of -o.
    #[arg(long)]
    pub(crate) resume: bool,
}

/// `--optimiser`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OptimiserArg {
    /// Nesterov momentum 0.9, the rate falling to 0.
    Sgd,
    /// AMSGrad, with a warm-up.
    Adam,
}
