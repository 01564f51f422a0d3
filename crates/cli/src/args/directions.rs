//! Arguments of `direction` and `probe`.

use std::path::PathBuf;

use clap::{ArgGroup, Args as ClapArgs, Subcommand, ValueEnum};

use super::{Cutting, Loading, Reading};

/// Activations of two sides: from prompts to run, or from a saved run.
#[derive(Debug, ClapArgs)]
#[command(group = ArgGroup::new("source").required(true).args(["file", "positive", "run"]))]
pub(crate) struct Sides {
    /// Prompts of both sides: a .jsonl, .csv, .tsv or .parquet file, with --label or --pair.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Prompts of the positive side, in a separate file.
    #[arg(long, value_name = "FILE", requires = "negative")]
    pub(crate) positive: Option<PathBuf>,
    /// Prompts of the negative side.
    #[arg(long, value_name = "FILE", requires = "positive")]
    pub(crate) negative: Option<PathBuf>,
    /// A saved run instead of prompts: a name, a path, a time or a run id; -1 is the most recent. With --label, a field
    /// kept by `extract --keep-fields`.
    #[arg(
        long,
        value_name = "RUN",
        allow_negative_numbers = true,
        conflicts_with_all = ["position", "field", "skip_empty", "longest_row", "limit", "bos", "truncate"]
    )]
    pub(crate) run: Option<String>,
    /// The folder or bucket of the store that holds --run.
    #[arg(short, long, value_name = "BASE", env = "ACTIVATION_BASE_DIR")]
    pub(crate) base: Option<PathBuf>,
    /// The field of the labels, which has two values; the larger one is the positive side.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["positive", "pair"])]
    pub(crate) label: Option<String>,
    /// The fields of the pair of prompts in each row, positive first.
    #[arg(long, value_name = "POSITIVE,NEGATIVE", conflicts_with_all = ["positive", "run", "field"])]
    pub(crate) pair: Option<String>,
    #[command(flatten)]
    pub(crate) reading: Reading,
    #[command(flatten)]
    pub(crate) cutting: Cutting,
    /// The model to run the prompts: a folder with config.json, a .gguf file, `org/name[@revision]` on the hub, or
    /// `smollm2` (the demo model).
    #[arg(short, long, env = "EASYROUTINE_MODEL", value_name = "REF", required_unless_present = "run")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) loading: Loading,
    /// The position to read, one per prompt: `last` by default, or for `probe apply` the one at which the probe was
    /// fitted.
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    pub(crate) position: Option<String>,
}

/// `direction`
#[derive(Debug, ClapArgs)]
pub(crate) struct Direction {
    #[command(flatten)]
    pub(crate) sides: Sides,
    /// Activations to compute vectors for, of one site.
    #[arg(short, long, value_name = "KEYS", default_value = "resid_out_*")]
    pub(crate) activations: String,
    /// How a vector is computed from the pairs.
    #[arg(long, value_enum, default_value_t = SteeringArg::Caa, value_name = "METHOD")]
    pub(crate) method: SteeringArg,
}

/// `--method` of `direction`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SteeringArg {
    /// The mean of the differences: contrastive activation addition.
    Caa,
    /// The first principal component of the differences.
    PcaDiff,
    /// The first principal component of both sides, each minus its pair's midpoint.
    PcaCenter,
}

/// Commands about probes.
#[derive(Debug, Subcommand)]
pub(crate) enum ProbeCommand {
    /// Fit one probe per layer, and report its accuracy on held-out examples.
    Fit(Box<ProbeFit>),
    /// Score examples with the probes in a file; positive is above 0.
    Apply(Box<ProbeApply>),
}

/// `probe fit`
#[derive(Debug, ClapArgs)]
pub(crate) struct ProbeFit {
    #[command(flatten)]
    pub(crate) sides: Sides,
    /// A field with the value `test` for held-out rows; by default every fourth row of each class is held out.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["positive", "pair"])]
    pub(crate) split: Option<String>,
    /// Activations to fit probes on, of one site.
    #[arg(short, long, value_name = "KEYS", default_value = "resid_out_*")]
    pub(crate) activations: String,
    /// The fitting method of a probe.
    #[arg(long, value_enum, default_value_t = ProbeArg::Logistic, value_name = "METHOD")]
    pub(crate) method: ProbeArg,
    /// The weight of the data against the penalty on the weights' norm, scikit-learn's C; 1 by default.
    #[arg(long, value_name = "C", allow_negative_numbers = true)]
    pub(crate) c: Option<f64>,
    /// First standardise each coordinate to mean 0 and deviation 1. The written probe reads unstandardised vectors.
    #[arg(long)]
    pub(crate) standardise: bool,
}

/// `--method` of `probe fit`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProbeArg {
    /// Logistic regression.
    Logistic,
    /// The difference of the means, with the threshold halfway between them.
    MeanDifference,
}

/// `probe apply`
#[derive(Debug, ClapArgs)]
pub(crate) struct ProbeApply {
    /// The file from `probe fit`.
    #[arg(value_name = "PROBE")]
    pub(crate) probe: PathBuf,
    #[command(flatten)]
    pub(crate) sides: Sides,
    /// Activations to score; by default all in the file.
    #[arg(short, long, value_name = "KEYS")]
    pub(crate) activations: Option<String>,
}
