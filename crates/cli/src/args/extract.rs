//! Arguments of `extract`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use super::{Changes, Chatting, Cutting, ModelFlag, Reading};

/// `extract`
#[derive(Debug, ClapArgs)]
pub(crate) struct Extract {
    /// The prompt; `-` reads standard input.
    #[arg(value_name = "PROMPT", required_unless_present_any = ["file", "token_ids"], conflicts_with_all = ["file", "token_ids"])]
    pub(crate) prompt: Option<String>,
    /// Read prompts from a file: .jsonl, .csv, .tsv and .parquet with --field, else text with one prompt per line.
    /// Blank lines are skipped.
    #[arg(long, value_name = "FILE", conflicts_with = "token_ids")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reading: Reading,
    /// Maximum tokens per batch. Results are identical to the bit for any number.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) batch_tokens: u32,
    /// Rows of token ids as JSON: `[[1,2],[3,4]]`.
    #[arg(long, value_name = "JSON")]
    pub(crate) token_ids: Option<String>,
    /// Rows of 0 and 1 as JSON, in the shape of the token ids.
    #[arg(long, value_name = "JSON", requires = "token_ids", conflicts_with_all = ["prompt", "file"])]
    pub(crate) attention_mask: Option<String>,
    #[command(flatten)]
    pub(crate) cutting: Cutting,
    #[command(flatten)]
    pub(crate) chat: Chatting,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    #[command(flatten)]
    pub(crate) changes: Changes,
    /// First continue each prompt by up to N of its most likely tokens: `--positions all` includes these, every other
    /// position refers to the prompt.
    #[arg(long, value_name = "N", conflicts_with = "part", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) generate: Option<u32>,
    /// Continue past the model's end-of-sequence tokens.
    #[arg(long, requires = "generate", conflicts_with_all = ["part", "plan"])]
    pub(crate) ignore_end: bool,
    /// Activations by key: `resid_out_*,pattern_L0:4H*,logits` (layers 0 to 3). May repeat.
    #[arg(short, long, value_name = "KEYS", required = true)]
    pub(crate) activations: Vec<String>,
    /// Positions of each row: all, first, last, last-2, 5, -1, 4:9 (4 to 8), special, all-text, random-text-3,
    /// text:Paris. May repeat.
    #[arg(long, value_name = "POSITIONS", default_value = "all", allow_hyphen_values = true)]
    pub(crate) positions: Vec<String>,
    /// Keep the mean over the positions of each specifier.
    #[arg(long)]
    pub(crate) avg: bool,
    /// What to keep of a block of a pattern, rows of one specifier by columns of another; the ratio is to evenly spread
    /// attention.
    #[arg(long, value_enum, default_value_t = PatternArg::None, value_name = "HOW")]
    pub(crate) pattern_avg: PatternArg,
    /// Rows of patterns, if different from --positions. May repeat.
    #[arg(long, value_name = "POSITIONS", allow_hyphen_values = true)]
    pub(crate) pattern_rows: Vec<String>,
    /// Keep patterns only as their mean over all prompts, as `avg_pattern_L0H0`.
    #[arg(long)]
    pub(crate) avg_over_examples: bool,
    /// Positions at which a new group begins, for `inputs-partition-N`. May repeat.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) pivot: Vec<i64>,
    /// Print the cost of this extraction (rows, tokens, bytes, units, time on this machine) without writing anything.
    #[arg(long, conflicts_with_all = ["generate", "resume", "part"])]
    pub(crate) plan: bool,
    #[command(flatten)]
    pub(crate) saving: Saving,
}

/// How a run is saved if -o names a folder.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Runs in a store (-o FOLDER/)")]
pub(crate) struct Saving {
    /// The experiment of the run; `default` if not given.
    #[arg(long, value_name = "NAME")]
    pub(crate) experiment: Option<String>,
    /// A tag to find it by. May repeat.
    #[arg(long, value_name = "TAG")]
    pub(crate) tag: Vec<String>,
    /// A user key and its value, JSON or text. May repeat.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) meta: Vec<String>,
    /// Fields of the file to keep with each row, such as labels: `label,source`. Runs are found by them: `fields.label
    /// = 'good'`. Prompts themselves are kept only if named here. May repeat.
    #[arg(long, value_name = "NAMES", requires = "file", conflicts_with_all = ["prompt", "token_ids"], value_delimiter = ',')]
    pub(crate) keep_fields: Vec<String>,
    /// A name under which the run can be resumed and shared.
    #[arg(long, value_name = "NAME")]
    pub(crate) run: Option<String>,
    /// Resume the run with that name, or begin it if there is none.
    #[arg(long, requires = "run")]
    pub(crate) resume: bool,
    /// Write one of several parts, `3/8`; the last one to finish makes the run visible.
    #[arg(long, value_name = "PART", requires = "run", conflicts_with = "resume", value_parser = part)]
    pub(crate) part: Option<Share>,
    /// Rows per unit, which is written as one shard. By default 256 or a 64th of all rows, whichever is more, but no
    /// more than fit into 256 MiB.
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) unit: Option<u64>,
}

impl Saving {
    /// A flag that was given, if any.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--experiment", self.experiment.is_some()),
            ("--tag", !self.tag.is_empty()),
            ("--meta", !self.meta.is_empty()),
            ("--keep-fields", !self.keep_fields.is_empty()),
            ("--run", self.run.is_some()),
            ("--unit", self.unit.is_some()),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }
}

/// One of several parts, counted from 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub(crate) number: usize,
    pub(crate) of: usize,
}

/// `3/8`
pub(super) fn part(text: &str) -> Result<Share, String> {
    let numbers = text.split_once('/').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match numbers {
        Some((number, of)) if (1..=of).contains(&number) => Ok(Share { number, of }),
        _ => Err("a part is 1/8 to 8/8".to_owned()),
    }
}

/// `--pattern-avg`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PatternArg {
    None,
    Mean,
    Sum,
    BaselineRatio,
}
