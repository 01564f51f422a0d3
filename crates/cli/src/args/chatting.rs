//! Arguments of chat templates.

use std::path::PathBuf;

use clap::Args as ClapArgs;

/// How a prompt becomes a conversation.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Chat templates")]
pub(crate) struct Chatting {
    /// Render the prompt with the model's chat template, as a user message; conversations in a file are rendered as
    /// they are.
    #[arg(long)]
    pub(crate) chat: bool,
    /// The system message.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,
    /// A variable of the template, as JSON or text: enable_thinking=false, date_string='26 Jul 2024'. May repeat.
    #[arg(long, value_name = "NAME=VALUE", requires = "chat")]
    pub(crate) chat_var: Vec<String>,
    /// A JSON file with a list of the tools available to the model.
    #[arg(long, value_name = "FILE", requires = "chat")]
    pub(crate) chat_tools: Option<PathBuf>,
    /// The name of one of the model's templates, or a .jinja file.
    #[arg(long, value_name = "TEMPLATE", requires = "chat")]
    pub(crate) chat_template: Option<String>,
    /// The time for templates that ask for it: 2024-07-26, or with T15:30:00; the present by default.
    #[arg(long, value_name = "TIME", requires = "chat")]
    pub(crate) chat_now: Option<String>,
}
