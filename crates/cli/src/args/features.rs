//! Arguments of `features`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::extract::{Share, part};
use super::{Cutting, DictFlags, ModelFlag, Reading};

/// `features`
#[derive(Debug, ClapArgs)]
pub(crate) struct Features {
    /// The data set: .jsonl, .csv, .tsv and .parquet with --field, else text with one prompt per line.
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
    /// The features: `features_NAME`, or `features_NAME_3` or `features_NAME_*` for a set; by default all of every
    /// dictionary. May repeat.
    #[arg(short, long, value_name = "KEYS")]
    pub(crate) activations: Vec<String>,
    /// Positions of each prompt to count: `all`, or `all-text` without special tokens. May repeat.
    #[arg(long, value_name = "POSITIONS", default_value = "all", allow_hyphen_values = true)]
    pub(crate) positions: Vec<String>,
    /// Number of strongest tokens kept per feature.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) top: u32,
    /// Number of tokens drawn at random from all on which a feature is active.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) drawn: u32,
    /// Context tokens kept before each of these.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) before: u32,
    /// Context tokens kept after each.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) after: u32,
    /// Number of highest and lowest logits listed per feature.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) logits: u32,
    /// Maximum tokens per batch. Results are identical to the byte for any number.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) batch_tokens: u32,
    /// Collect one of several parts of the data set, `3/8`; the last one to finish writes the result.
    #[arg(long, value_name = "PART", value_parser = part)]
    pub(crate) part: Option<Share>,
}
