//! Arguments of `direction` and `probe`.

use std::path::PathBuf;

use clap::{ArgGroup, Args as ClapArgs, Subcommand, ValueEnum};

use super::{Cutting, Loading, Reading};

/// Activations of two sides: of prompts that are run, or of a saved run.
#[derive(Debug, ClapArgs)]
#[command(group = ArgGroup::new("source").required(true).args(["file", "positive", "run"]))]
pub(crate) struct Sides {
    /// Prompts of both sides: a .jsonl, .csv, .tsv or .parquet file, with --label or --pair.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Prompts of the positive side, in a file of their own.
    #[arg(long, value_name = "FILE", requires = "negative")]
    pub(crate) positive: Option<PathBuf>,
    /// Prompts of the negative side.
    #[arg(long, value_name = "FILE", requires = "positive")]
    pub(crate) negative: Option<PathBuf>,
    /// A saved run instead of prompts: a name, a path, a time or a run id; -1 is the most recent. With --label, a field
    /// that `extract --keep-fields` kept.
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
    /// The fields of a pair of prompts in each row, the positive one first.
    #[arg(long, value_name = "POSITIVE,NEGATIVE", conflicts_with_all = ["positive", "run", "field"])]
    pub(crate) pair: Option<String>,
    #[command(flatten)]
    pub(crate) reading: Reading,
    #[command(flatten)]
    pub(crate) cutting: Cutting,
    /// The model that runs the prompts: a folder with config.json, a .gguf file, `org/name[@revision]` on the hub, or
    /// `smollm2` (the demo model).
    #[arg(short, long, env = "EASYROUTINE_MODEL", value_name = "REF", required_unless_present = "run")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) loading: Loading,
    /// The position that is read, one of each prompt: unless given, `last`, and of `probe apply` the one that the probe was
    /// fitted at.
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    pub(crate) position: Option<String>,
}

/// `direction`
#[derive(Debug, ClapArgs)]
pub(crate) struct Direction {
    #[command(flatten)]
    pub(crate) sides: Sides,
    /// Activations that get a vector, of one site.
    #[arg(short, long, value_name = "KEYS", default_value = "resid_out_*")]
    pub(crate) activations: String,
    /// How a vector is made of the pairs.
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
    /// The first principal component of both sides less their middle.
    PcaCenter,
}

/// Commands about probes.
#[derive(Debug, Subcommand)]
pub(crate) enum ProbeCommand {
    /// Fits a probe a layer, and tells how well each does on examples that it was not fitted on.
    Fit(Box<ProbeFit>),
    /// Scores of examples by the probes of a file; positive is above 0.
    Apply(Box<ProbeApply>),
}

/// `probe fit`
#[derive(Debug, ClapArgs)]
pub(crate) struct ProbeFit {
    #[command(flatten)]
    pub(crate) sides: Sides,
    /// A field that says `test` where a row is held out; else every fourth row of each class is.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["positive", "pair"])]
    pub(crate) split: Option<String>,
    /// Activations that get a probe, of one site.
    #[arg(short, long, value_name = "KEYS", default_value = "resid_out_*")]
    pub(crate) activations: String,
    /// How a probe is fitted.
    #[arg(long, value_enum, default_value_t = ProbeArg::Logistic, value_name = "METHOD")]
    pub(crate) method: ProbeArg,
    /// How much the data count against short weights, scikit-learn's C; 1 unless given.
    #[arg(long, value_name = "C", allow_negative_numbers = true)]
    pub(crate) c: Option<f64>,
    /// Bring each coordinate to mean 0 and deviation 1 first. The probe that is written reads vectors as they are.
    #[arg(long)]
    pub(crate) standardise: bool,
}

/// `--method` of `probe fit`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProbeArg {
    /// Logistic regression.
    Logistic,
    /// The difference of the means, cut at the middle between them.
    MeanDifference,
}

/// `probe apply`
#[derive(Debug, ClapArgs)]
pub(crate) struct ProbeApply {
    /// The file that `probe fit` wrote.
    #[arg(value_name = "PROBE")]
    pub(crate) probe: PathBuf,
    #[command(flatten)]
    pub(crate) sides: Sides,
    /// Activations whose probes are applied; all of the file if none are named.
    #[arg(short, long, value_name = "KEYS")]
    pub(crate) activations: Option<String>,
}
