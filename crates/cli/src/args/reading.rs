//! How a file of prompts is read.

use clap::Args as ClapArgs;

/// For `--file` of `extract` and `--over` of `ablate`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Reading {
    /// The field or column with the prompts, `text` by default: texts, lists of token ids, or, in JSON lines with
    /// --chat, conversations.
    #[arg(long, value_name = "NAME")]
    pub(crate) field: Option<String>,
    /// Skip empty or null rows of the file instead of refusing them; the others keep their numbers.
    #[arg(long)]
    pub(crate) skip_empty: bool,
    /// Maximum size of a row of the file: 100000, 64M; 16 MiB by default.
    #[arg(long, value_name = "SIZE", value_parser = crate::memory::size)]
    pub(crate) longest_row: Option<u64>,
    /// Read only the first prompts of the file.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
}
