//! `runs` as typed.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::ModelFlag;

/// `runs`
#[derive(Debug, ClapArgs)]
pub(crate) struct Runs {
    /// The store's folder, or s3://BUCKET/PREFIX, gs://…, az://…; by default ACTIVATION_BASE_DIR from the environment
    /// or a .env file.
    #[arg(short, long, global = true, value_name = "BASE", env = "ACTIVATION_BASE_DIR")]
    pub(crate) base: Option<PathBuf>,
    /// Only this experiment.
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) experiment: Option<String>,
    #[command(subcommand)]
    pub(crate) command: RunsCommand,
}

/// Commands about saved runs.
#[derive(Debug, Subcommand)]
pub(crate) enum RunsCommand {
    /// List all runs, most recent last, and unfinished ones.
    Ls,
    /// Find runs by criteria.
    Query(Query),
    /// Show one run's metadata and tensors.
    Show(RunArg),
    /// Print the numbers of a tensor or the values of a row field, or list what there is.
    Load(Load),
    /// The lens of a run: what saved vectors of the residual stream, or of a part of it, would predict.
    Lens(Box<RunLens>),
    /// Add and remove tags and user keys.
    Tag(Tag),
    /// Remove runs. Asks first on a terminal.
    Rm(Rm),
    /// Move a run to another experiment.
    Mv {
        #[command(flatten)]
        run: RunArg,
        /// The other experiment.
        #[arg(value_name = "EXPERIMENT")]
        to: String,
    },
    /// Rename an experiment.
    Rename {
        /// Its name.
        #[arg(value_name = "OLD")]
        from: String,
        /// Its new name.
        #[arg(value_name = "NEW")]
        to: String,
    },
    /// Read every byte and compare checksums; exit status 1 if anything is damaged.
    Verify {
        /// Runs; all by default.
        #[arg(value_name = "RUN", allow_negative_numbers = true)]
        runs: Vec<String>,
    },
    /// Clear away what crashed or abandoned writers left; committed runs are never touched.
    Gc(Gc),
    /// Make a run that was written in parts visible, once all parts are there.
    Commit {
        /// The name under which it was begun.
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Import runs of the original easyroutine, which stay unchanged.
    Import {
        /// The folder with these runs.
        #[arg(value_name = "FOLDER")]
        from: PathBuf,
    },
    /// Export tensors of a run to a safetensors file (-o FILE.safetensors), a table (-o FILE.parquet), or one tensor to
    /// -o FILE.npy.
    Export(Export),
}

/// Which run.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct RunArg {
    /// The name under which it was begun (`--run`), a path below the store, a time, a run id, or a prefix of one of
    /// these three; -1 is the most recent.
    #[arg(value_name = "RUN", allow_negative_numbers = true)]
    pub(crate) run: String,
}

/// `runs rm`
#[derive(Debug, ClapArgs)]
pub(crate) struct Rm {
    /// Runs to remove.
    #[arg(value_name = "RUN", required = true, allow_negative_numbers = true)]
    pub(crate) runs: Vec<String>,
    /// List them without removing them.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// `runs query`
#[derive(Debug, ClapArgs)]
pub(crate) struct Query {
    /// `extraction_config.extract_resid_out = true and seed >= 3`
    #[arg(value_name = "CONDITION")]
    pub(crate) condition: Option<String>,
    /// The model's full name.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// A tag that they have. May repeat.
    #[arg(long, value_name = "TAG")]
    pub(crate) tag: Vec<String>,
    /// Positions in order: `last`, `-1`, `4:9`. May repeat.
    #[arg(long, value_name = "POSITIONS", allow_hyphen_values = true)]
    pub(crate) positions: Vec<String>,
    /// When it was saved: `2026-11-23 06:50:00`.
    #[arg(long, value_name = "TIME")]
    pub(crate) save_time: Option<String>,
    /// A user key and its value, JSON or text. May repeat.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) meta: Vec<String>,
    /// What was extracted, as JSON: `{"extract_attn_pattern": true}`.
    #[arg(long, value_name = "JSON")]
    pub(crate) config: Option<String>,
    /// How to compare --config.
    #[arg(long, value_enum, default_value_t = MatchArg::Subset, value_name = "HOW", requires = "config")]
    pub(crate) matching: MatchArg,
}

/// `--matching`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MatchArg {
    /// What is set must be set.
    Subset,
    /// Everything must be equal.
    Exact,
}

/// `runs load`
#[derive(Debug, ClapArgs)]
pub(crate) struct Load {
    #[command(flatten)]
    pub(crate) run: RunArg,
    /// The tensor, or a field kept for each row, such as a label.
    #[arg(value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Range of examples: `5`, `0:10`.
    #[arg(long, value_name = "ROWS", requires = "key")]
    pub(crate) rows: Option<String>,
    /// Read damaged numbers unchanged, without comparing checksums.
    #[arg(long)]
    pub(crate) no_verify: bool,
}

/// `runs lens`
#[derive(Debug, ClapArgs)]
pub(crate) struct RunLens {
    #[command(flatten)]
    pub(crate) run: RunArg,
    /// The saved activation: resid_out_5, mlp_out_3, head_out_L1H2.
    #[arg(value_name = "KEY")]
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    /// Range of examples: `5`, `0:10`.
    #[arg(long, value_name = "ROWS")]
    pub(crate) rows: Option<String>,
    /// Number of tokens listed per vector.
    #[arg(short, default_value_t = 5, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) k: u32,
}

/// `runs tag`
#[derive(Debug, ClapArgs)]
pub(crate) struct Tag {
    #[command(flatten)]
    pub(crate) run: RunArg,
    /// Tags to add.
    #[arg(value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// A tag to remove. May repeat.
    #[arg(long, value_name = "TAG")]
    pub(crate) remove: Vec<String>,
    /// A user key and its value, JSON or text. May repeat.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) meta: Vec<String>,
    /// A user key to remove. May repeat.
    #[arg(long, value_name = "KEY")]
    pub(crate) drop: Vec<String>,
    /// Accept changes made to metadata.json by hand: the record gets a new checksum.
    #[arg(long)]
    pub(crate) accept: bool,
    /// Refuse unless the run is at this revision.
    #[arg(long, value_name = "N")]
    pub(crate) revision: Option<u64>,
}

/// `runs gc`
#[derive(Debug, ClapArgs)]
pub(crate) struct Gc {
    /// Hours without activity after which a writer counts as gone.
    #[arg(long, value_name = "HOURS", default_value_t = 168)]
    pub(crate) idle: u32,
    /// List it without deleting it.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `runs export`
#[derive(Debug, ClapArgs)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) run: RunArg,
    /// Tensors; all by default.
    #[arg(value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// Export damaged numbers unchanged, without comparing checksums.
    #[arg(long)]
    pub(crate) no_verify: bool,
}
