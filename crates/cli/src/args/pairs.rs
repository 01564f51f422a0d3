//! A prompt, or many pairs of prompts.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{Chatting, Cutting, PromptArgs};

/// The prompt of one run, or a file of pairs for many.
///
/// What `requires` an argument also conflicts with those that exclude it: where one of these is given, clap waives the
/// requirement, and the flag would be ignored silently.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct PromptOrPairs {
    /// The prompt; `-` reads standard input.
    #[arg(
        value_name = "PROMPT",
        required_unless_present_any = ["file", "pairs"],
        conflicts_with_all = ["file", "pairs"]
    )]
    pub(crate) prompt: Option<String>,
    /// Read the prompt from a file (one newline at its end is removed).
    #[arg(long, value_name = "FILE", conflicts_with = "pairs")]
    pub(crate) file: Option<PathBuf>,
    /// Many pairs from a file of JSON lines: `{"clean": …, "corrupt": …, "answer": …, "against": …}`, texts or ids.
    /// Results are means over them. By default, a pair's answer is what its clean prompt predicts, and the token
    /// against it what its corrupted prompt predicts.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["answer", "against", "chat", "system", "chat_var", "chat_tools", "chat_template", "chat_now"])]
    pub(crate) pairs: Option<PathBuf>,
    /// Read only the first pairs of the file.
    #[arg(long, value_name = "N", requires = "pairs", conflicts_with_all = ["prompt", "file"], value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    #[command(flatten)]
    pub(crate) cutting: Cutting,
    #[command(flatten)]
    pub(crate) chat: Chatting,
}

impl PromptOrPairs {
    /// The single prompt.
    pub(crate) fn one(&self) -> PromptArgs {
        let Self { prompt, file, cutting, chat, .. } = self.clone();
        PromptArgs { prompt, file, cutting, chat }
    }
}
