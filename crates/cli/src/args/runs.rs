//! `runs` as typed.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::ModelFlag;

/// `runs`
#[derive(Debug, ClapArgs)]
pub(crate) struct Runs {
    /// The folder of the store, or s3://BUCKET/PREFIX, gs://…, az://…; else what ACTIVATION_BASE_DIR says in a .env file.
    #[arg(short, long, global = true, value_name = "BASE", env = "ACTIVATION_BASE_DIR")]
    pub(crate) base: Option<PathBuf>,
    /// Look in one experiment only.
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) experiment: Option<String>,
    #[command(subcommand)]
    pub(crate) command: RunsCommand,
}

/// Commands about saved runs.
#[derive(Debug, Subcommand)]
pub(crate) enum RunsCommand {
    /// All runs, the most recent last; unfinished ones are named beside them.
    Ls,
    /// Runs that have what is asked for.
    Query(Query),
    /// One run's metadata and tensors.
    Show(RunArg),
    /// Numbers of one tensor, values of a field that was kept of each row, or what there is.
    Load(Load),
    /// What saved vectors of the residual stream, or of a part of it, would predict: the lens of a run.
    Lens(Box<RunLens>),
    /// Adds and removes tags and keys.
    Tag(Tag),
    /// Removes runs. On a terminal it asks first.
    Rm(Rm),
    /// Moves a run to another experiment.
    Mv {
        #[command(flatten)]
        run: RunArg,
        /// The other experiment.
        #[arg(value_name = "EXPERIMENT")]
        to: String,
    },
    /// Renames an experiment.
    Rename {
        /// Its name.
        #[arg(value_name = "OLD")]
        from: String,
        /// Its new name.
        #[arg(value_name = "NEW")]
        to: String,
    },
    /// Reads every byte and compares checksums; exit status 1 where something is damaged.
    Verify {
        /// Runs; all if none is named.
        #[arg(value_name = "RUN", allow_negative_numbers = true)]
        runs: Vec<String>,
    },
    /// Clears away what crashed or abandoned writers left; committed runs are never touched.
    Gc(Gc),
    /// Makes a run visible that was written in parts, once all are there.
    Commit {
        /// The name it was begun under.
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Takes over runs of the original easyroutine, which stay as they are.
    Import {
        /// The folder that holds them.
        #[arg(value_name = "FOLDER")]
        from: PathBuf,
    },
    /// Tensors of a run to a safetensors file (-o FILE.safetensors), a table (-o FILE.parquet), or one to -o FILE.npy.
    Export(Export),
}

/// Which run.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct RunArg {
    /// The name it was begun under (`--run`), a path below the store, a time, a run id, or a beginning of one of these
    /// three; -1 is the most recent.
    #[arg(value_name = "RUN", allow_negative_numbers = true)]
    pub(crate) run: String,
}

/// `runs rm`
#[derive(Debug, ClapArgs)]
pub(crate) struct Rm {
    /// Runs to remove.
    #[arg(value_name = "RUN", required = true, allow_negative_numbers = true)]
    pub(crate) runs: Vec<String>,
    /// List them and leave them.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Ask nothing.
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// `runs query`
#[derive(Debug, ClapArgs)]
pub(crate) struct Query {
    /// `extraction_config.extract_resid_out = true and seed >= 3`
    #[arg(value_name = "CONDITION")]
    pub(crate) condition: Option<String>,
    /// The model's true name.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// A tag.
    #[arg(long, value_name = "TAG")]
    pub(crate) tag: Option<String>,
    /// Positions in their order: `last`, `-1`, `4:9`. May repeat.
    #[arg(long, value_name = "POSITIONS", allow_hyphen_values = true)]
    pub(crate) positions: Vec<String>,
    /// When it was saved: `2026-11-23 06:50:00`.
    #[arg(long, value_name = "TIME")]
    pub(crate) save_time: Option<String>,
    /// A key of yours and its value, JSON or text. May repeat.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) meta: Vec<String>,
    /// What was extracted, as JSON: `{"extract_attn_pattern": true}`.
    #[arg(long, value_name = "JSON")]
    pub(crate) config: Option<String>,
    /// How --config is compared.
    #[arg(long, value_enum, default_value_t = MatchArg::Subset, value_name = "HOW", requires = "config")]
    pub(crate) matching: MatchArg,
}

/// `--matching`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MatchArg {
    /// What is turned on must be on.
    Subset,
    /// Everything must be equal.
    Exact,
}

/// `runs load`
#[derive(Debug, ClapArgs)]
pub(crate) struct Load {
    #[command(flatten)]
    pub(crate) run: RunArg,
    /// The tensor, or a field that was kept of each row, such as a label.
    #[arg(value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Examples of it: `5`, `0:10`.
    #[arg(long, value_name = "ROWS", requires = "key")]
    pub(crate) rows: Option<String>,
    /// Read damaged numbers as they are, without comparing checksums.
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
    /// Examples of it: `5`, `0:10`.
    #[arg(long, value_name = "ROWS")]
    pub(crate) rows: Option<String>,
    /// How many tokens are listed of each vector.
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
    /// A tag to take away. May repeat.
    #[arg(long, value_name = "TAG")]
    pub(crate) remove: Vec<String>,
    /// A key of yours and its value, JSON or text. May repeat.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) meta: Vec<String>,
    /// A key of yours to drop. May repeat.
    #[arg(long, value_name = "KEY")]
    pub(crate) drop: Vec<String>,
    /// Take over what was changed in metadata.json by hand: the record gets a checksum again.
    #[arg(long)]
    pub(crate) accept: bool,
    /// Refuse unless the run is at this revision.
    #[arg(long, value_name = "N")]
    pub(crate) revision: Option<u64>,
}

/// `runs gc`
#[derive(Debug, ClapArgs)]
pub(crate) struct Gc {
    /// Hours without a sign of life after which a writer counts as gone.
    #[arg(long, value_name = "HOURS", default_value_t = 168)]
    pub(crate) idle: u32,
    /// List it and leave it.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `runs export`
#[derive(Debug, ClapArgs)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) run: RunArg,
    /// Tensors; all if none is named.
    #[arg(value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// Export damaged numbers as they are, without comparing checksums.
    #[arg(long)]
    pub(crate) no_verify: bool,
}
