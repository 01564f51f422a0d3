//! Prompts as conversations: `--chat` and related flags.

use std::path::Path;

use easyroutine::tokens::{Answer, ChatOptions, LocalTime, Message, Tokenizer};
use serde_json::{Map, Value, json};

use crate::args::{BosArg, Chatting, Cutting};
use crate::commands::runs::pair;
use crate::failure::Failure;
use crate::output;
use crate::session::read_file;

/// How prompts of this command become conversations.
#[derive(Debug)]
pub(crate) struct Chat {
    system: Option<Message>,
    options: ChatOptions,
}

/// A rendered prompt.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    /// Whether the template asked for the time.
    pub(crate) told_time: bool,
    /// Whether the prompt contains a beginning-of-sequence token in addition to the template's.
    pub(crate) has_bos: bool,
    /// Variables given to the template that it did not read.
    pub(crate) unread: Vec<String>,
}

impl Chatting {
    /// Reads the template's inputs; `None` without `--chat`. All prompts of a command get the same time.
    ///
    /// # Errors
    /// If a variable, a time or a file cannot be read; or for `--bos`, which has no effect with a template.
    pub(crate) fn read(&self, cutting: &Cutting) -> Result<Option<Chat>, Failure> {
        if !self.chat {
            return Ok(None);
        }
        if cutting.bos != BosArg::Auto {
            return Err(Failure::usage(
                "--bos changes nothing with --chat: the template writes the special tokens",
            )
            .hint("leave --bos out"));
        }
        let now = match &self.chat_now {
            Some(time) => time.parse::<LocalTime>()?,
            None => LocalTime::now(),
        };
        let mut options = ChatOptions { answer: Answer::Awaited, now: Some(now), ..ChatOptions::default() };
        for text in &self.chat_var {
            let (name, value) = pair("--chat-var enable_thinking=false", text)?;
            if options.variables.contains_key(&name) {
                return Err(Failure::usage(format!("--chat-var: two values for `{name}`")));
            }
            options.set(&name, value)?;
        }
        if let Some(file) = &self.chat_tools {
            if options.tools.is_some() {
                return Err(Failure::usage("--chat-tools and --chat-var tools=… name tools twice"));
            }
            options.set("tools", tools(file)?)?;
        }
        options.template = match &self.chat_template {
            Some(name) if name.ends_with(".jinja") => Some(read_file(Path::new(name))?),
            name => name.clone(),
        };
        let system = self.system.as_ref().map(|text| Message::new("system", text));
        Ok(Some(Chat { system, options }))
    }

    /// The entry in the record of a run from which, with the prompt, the text can be made again.
    pub(crate) fn record(&self, chat: &Chat, told_time: bool) -> Value {
        let mut record = Map::new();
        if let Some(system) = &self.system {
            record.insert("system".to_owned(), json!(system));
        }
        if !chat.options.variables.is_empty() {
            record.insert("variables".to_owned(), json!(chat.options.variables));
        }
        if let Some(tools) = &chat.options.tools {
            record.insert("tools".to_owned(), json!(tools));
        }
        if let Some(documents) = &chat.options.documents {
            record.insert("documents".to_owned(), json!(documents));
        }
        if let Some(template) = &self.chat_template {
            record.insert("template".to_owned(), json!(template));
        }
        if let Some(now) = chat.options.now.as_ref().filter(|_| told_time) {
            record.insert("now".to_owned(), json!(now.to_string()));
        }
        Value::Object(record)
    }

    /// Prints the time given to the template, if no flag chose it.
    pub(crate) fn tell_time(&self, record: &Value) {
        if let (Some(now), None) = (record.get("now").and_then(Value::as_str), &self.chat_now) {
            let text = format!("the chat template was told the time; --chat-now {now} tells it again");
            output::note("note", &text);
        }
    }
}

/// Warns of variables that no prompt's template read.
pub(crate) fn tell_unread(unread: &[String]) {
    if !unread.is_empty() {
        let names: Vec<String> = unread.iter().map(|name| format!("`{name}`")).collect();
        let names = names.join(", ");
        output::note(
            "warning",
            &format!("the chat template does not read {names}: setting that changes nothing"),
        );
    }
}

impl Chat {
    /// Renders a prompt as a user message.
    ///
    /// # Errors
    /// As [`Tokenizer::chat`].
    pub(crate) fn say(&self, prompt: &str, tokenizer: &Tokenizer) -> Result<Rendered, Failure> {
        let messages: Vec<Message> =
            self.system.iter().cloned().chain([Message::new("user", prompt)]).collect();
        rendered(&messages, &self.options, tokenizer)
    }

    /// Renders a conversation from a file. The text ends with the start of an answer, or, if the last message is the
    /// assistant's, within that message, as in transformers' pipelines.
    ///
    /// # Errors
    /// As [`Tokenizer::chat`], and if there is a system message in addition to `--system`.
    pub(crate) fn say_all(
        &self,
        conversation: Vec<Map<String, Value>>,
        tokenizer: &Tokenizer,
    ) -> Result<Rendered, Failure> {
        let role = |message: Option<&Map<String, Value>>| {
            message.and_then(|m| m.get("role")?.as_str().map(str::to_owned))
        };
        if self.system.is_some() && role(conversation.first()).as_deref() == Some("system") {
            return Err(Failure::usage("--system: the conversation begins with a system message of its own"));
        }
        let answer = match role(conversation.last()).as_deref() {
            Some("assistant") => Answer::Continued,
            _ => Answer::Awaited,
        };
        let messages = self.system.iter().cloned().chain(conversation.into_iter().map(Message::from));
        rendered(&messages.collect::<Vec<_>>(), &ChatOptions { answer, ..self.options.clone() }, tokenizer)
    }
}

fn rendered(messages: &[Message], options: &ChatOptions, tokenizer: &Tokenizer) -> Result<Rendered, Failure> {
    let chat = tokenizer.chat(messages, options)?;
    Ok(Rendered {
        text: chat.text,
        told_time: chat.now.is_some(),
        has_bos: chat.repeats_bos,
        unread: chat.unread,
    })
}

fn tools(file: &Path) -> Result<Value, Failure> {
    serde_json::from_str(&read_file(file)?).map_err(|e| {
        Failure::usage(format!("--chat-tools {}: not JSON: {e}", file.display()))
            .hint("a list of JSON schemas: [{\"type\": \"function\", \"function\": {\"name\": …}}]")
    })
}
