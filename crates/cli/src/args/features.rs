//! Arguments of `features`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::extract::{Share, part};
use super::{Cutting, DictFlags, ModelFlag, Reading};

/// `features`
#[derive(Debug, ClapArgs)]
pub(crate) struct Features {
    /// The data set: .jsonl, .csv, .tsv and .parquet by --field, else text with one prompt a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) reading: Reading,
    #[command(flatten)]
    pub(crate) cutting: Cutting,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    #[command(flatten)]
    pub(crate) dictionaries: DictFlags,
    /// Which features: `features_NAME`, of a set `features_NAME_3` or `features_NAME_*`; all of every dictionary if none
    /// are named. May repeat.
    #[arg(short, long, value_name = "KEYS")]
    pub(crate) activations: Vec<String>,
    /// Positions of each prompt that count: `all`, or `all-text` without special tokens. May repeat.
    #[arg(long, value_name = "POSITIONS", default_value = "all", allow_hyphen_values = true)]
    pub(crate) positions: Vec<String>,
    /// Strongest tokens that are kept of each feature.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) top: u32,
    /// Tokens that are drawn of all on which a feature is active.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) drawn: u32,
    /// Tokens before each of these that are kept with it.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) before: u32,
    /// Tokens behind each.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) after: u32,
    /// Logits of each feature that are listed from the top and from the bottom.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) logits: u32,
    /// Tokens that run together at most. Results are the same to the byte for any number.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) batch_tokens: u32,
    /// Collect one of several parts of the data set, `3/8`; the last to finish writes the result.
    #[arg(long, value_name = "PART", value_parser = part)]
    pub(crate) part: Option<Share>,
}
