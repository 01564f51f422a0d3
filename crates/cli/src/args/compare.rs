//! Arguments of `compare`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use super::{Cutting, Loading, Reading};

/// `compare`
#[derive(Debug, ClapArgs)]
pub(crate) struct Compare {
    /// The first checkpoint, A: a folder with config.json, a .gguf file, `org/name[@revision]` on the hub, or `smollm2`.
    #[arg(value_name = "A")]
    pub(crate) a: String,
    /// The second checkpoint, B, of the same architecture. `--adapter` is applied to B alone.
    #[arg(value_name = "B")]
    pub(crate) b: String,
    /// One prompt; `-` reads standard input.
    #[arg(value_name = "PROMPT", required_unless_present = "file", conflicts_with = "file")]
    pub(crate) prompt: Option<String>,
    /// Many prompts: .jsonl, .csv, .tsv and .parquet with --field, else text with one prompt per line.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reading: Reading,
    #[command(flatten)]
    pub(crate) cutting: Cutting,
    #[command(flatten)]
    pub(crate) loading: Loading,
    /// Put one tensor at a time from one checkpoint into the other and run again: which tensors cause the difference.
    #[arg(long, value_enum, default_value_t = PatchArg::Removes, value_name = "DIRECTION")]
    pub(crate) patch: PatchArg,
    /// Patch only these tensors: a name of A, in which `*` matches anything. May repeat.
    #[arg(long, value_name = "NAME")]
    pub(crate) tensor: Vec<String>,
    /// Patch over the first prompts with this many tokens in all.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) patch_tokens: u32,
    /// The table to print. By default, TSV and CSV have `layers`; a terminal and Markdown show the first rows of several.
    #[arg(long, value_enum, value_name = "TABLE")]
    pub(crate) table: Option<TableArg>,
    /// Number of positions and tokens listed, those with the largest differences.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) worst: u32,
    /// Maximum tokens per batch. Results are identical to the bit for any number.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) batch_tokens: u32,
}

/// `--patch`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PatchArg {
    /// A's tensor into B: the part of the difference that it removes.
    Removes,
    /// B's tensor into A: the part that it adds.
    Adds,
    /// Both, at twice the time.
    Both,
    /// No patching.
    None,
}

/// `--table`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableArg {
    /// The residual stream by layer.
    Layers,
    /// Every head's mixed values.
    Heads,
    /// The last layer by position.
    Positions,
    /// The last layer by token.
    Tokens,
    /// The positions with the largest differences.
    Worst,
    /// The tensors, the largest causes first.
    Tensors,
}
