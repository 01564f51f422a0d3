//! Arguments of chat templates.

use std::path::PathBuf;

use clap::Args as ClapArgs;

/// How a prompt becomes a conversation.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Chat templates")]
pub(crate) struct Chatting {
    /// Put the prompt into the model's chat template, as what the user says; conversations of a file as they are.
    #[arg(long)]
    pub(crate) chat: bool,
    /// What the system says first.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,
    /// A variable of the template, as JSON or text: enable_thinking=false, date_string='26 Jul 2024'. May repeat.
    #[arg(long, value_name = "NAME=VALUE", requires = "chat")]
    pub(crate) chat_var: Vec<String>,
    /// A JSON file with a list of the tools that the model may call.
    #[arg(long, value_name = "FILE", requires = "chat")]
    pub(crate) chat_tools: Option<PathBuf>,
    /// One of the model's templates by its name, or a .jinja file.
    #[arg(long, value_name = "TEMPLATE", requires = "chat")]
    pub(crate) chat_template: Option<String>,
    /// The time that a template is told where it asks for the day: 2024-07-26, or with T15:30:00; the present otherwise.
    #[arg(long, value_name = "TIME", requires = "chat")]
    pub(crate) chat_now: Option<String>,
}
