//! How a file of prompts is read.

use clap::Args as ClapArgs;

/// What `--file` of `extract` and `--over` of `ablate` read.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Reading {
    /// The field or column that holds the prompts of the file, `text` unless named: texts, lists of token ids, or, in
    /// JSON lines with --chat, conversations.
    #[arg(long, value_name = "NAME")]
    pub(crate) field: Option<String>,
    /// Pass over rows of the file that are empty or null, instead of refusing them; the others keep their numbers.
    #[arg(long)]
    pub(crate) skip_empty: bool,
    /// Bytes that a row of the file may have, 16 MiB unless given.
    #[arg(long, value_name = "BYTES")]
    pub(crate) longest_row: Option<usize>,
    /// Read only the first prompts of the file.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
}
