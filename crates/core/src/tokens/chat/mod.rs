//! Chat templates: a conversation as the text that a model was trained on.
//!
//! A template is a Jinja program from outside. It is rendered as transformers renders it (`render_jinja_template` in
//! `utils/chat_template_utils.py`), by minijinja with what differs from Python put right: [`rewrite`] before it is
//! compiled, [`environment`] while it runs. What it may use is bounded: see [`render`].

mod arguments;
mod arithmetic;
mod braces;
mod day;
mod environment;
mod escapes;
mod filters;
mod letters;
mod macros;
mod methods;
mod percent;
mod python;
mod render;
mod rewrite;
mod templates;
mod values;
mod wrap;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use super::Tokenizer;
use crate::error::{Error, ErrorKind, Result};

pub use day::LocalTime;
pub use templates::ChatTemplates;

/// Names under which a message's reasoning is passed; the first is the one that templates read today.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// What marks the place where the last message ends, as in transformers. A model's text does not hold it.
const END_OF_MESSAGE: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// One message of a conversation: a JSON object with `role`, most often `content`, and whatever else the template reads
/// (`tool_calls`, `reasoning_content`).
#[derive(Debug, Clone, PartialEq)]
pub struct Message(Map<String, Value>);

impl Message {
    /// What somebody said: `role` is `user`, `assistant`, `system` or what else the template knows.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let fields = [("role", role.into()), ("content", content.into())];
        Message(fields.into_iter().map(|(key, text)| (key.to_owned(), Value::String(text))).collect())
    }

    /// The message as a template sees it: without fields that are null, and with its reasoning under every name.
    fn prepared(&self) -> Map<String, Value> {
        let mut message: Map<String, Value> = self
            .0
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        if let Some(reasoning) = REASONING.iter().find_map(|name| message.get(*name)).cloned() {
            let first = ("thinking".to_owned(), reasoning.clone());
            let rest = std::mem::take(&mut message);
            message = std::iter::once(first).chain(rest).collect();
            message.insert(REASONING[0].to_owned(), reasoning);
        }
        message
    }
}

impl From<Map<String, Value>> for Message {
    fn from(fields: Map<String, Value>) -> Self {
        Message(fields)
    }
}

/// How the text of a conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Answer {
    /// With what precedes an answer.
    Awaited,
    /// With the last message.
    #[default]
    None,
    /// Within the last message, which the model is to go on with.
    Continued,
}

/// What a template is given beside the conversation.
#[derive(Debug, Clone, Default)]
pub struct ChatOptions {
    /// How the text ends.
    pub answer: Answer,
    /// JSON schemas of the tools that the model may call; `None` differs from an empty list for some templates.
    pub tools: Option<Vec<Value>>,
    /// Documents to answer from.
    pub documents: Option<Vec<Value>>,
    /// Further variables of the template, such as `enable_thinking` or `date_string`. They go before the special tokens
    /// of the same name.
    pub variables: Map<String, Value>,
    /// The name of one of the model's templates, or a template itself; else the model's own choice.
    pub template: Option<String>,
    /// The time that `strftime_now` tells; else that of the machine's clock.
    pub now: Option<LocalTime>,
}

impl ChatOptions {
    /// Sets a variable by its name in the template; `tools` and `documents` too.
    ///
    /// # Errors
    /// The name is no variable, or is one that is set otherwise; `tools` or `documents` is no list of objects.
    pub fn set(&mut self, name: &str, value: Value) -> Result<()> {
        let objects = |value: Value| match value {
            Value::Null => Ok(None),
            Value::Array(list) if list.iter().all(Value::is_object) => Ok(Some(list)),
            _ => Err(Error::input(format!("the template's variable `{name}` is a list of JSON objects"))),
        };
        let is_name = |name: &str| {
            name.chars().all(|c| c == '_' || c.is_alphanumeric())
                && !name.starts_with(|c: char| c.is_numeric())
        };
        match name {
            "tools" => self.tools = objects(value)?,
            "documents" => self.documents = objects(value)?,
            "messages" | "add_generation_prompt" => {
                return Err(Error::input(format!(
                    "`{name}` is not a variable to be set: it is the conversation's own"
                )));
            }
            _ if name.is_empty() || !is_name(name) => {
                return Err(Error::input(format!("`{name}` cannot be the name of a template's variable")));
            }
            _ => {
                self.variables.insert(name.to_owned(), value);
            }
        }
        Ok(())
    }
}

/// A conversation as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chat {
    /// The text. It holds the special tokens already: encode it with [`Bos::No`](super::Bos::No).
    pub text: String,
    /// The time that the template asked for, if it did: given again in [`ChatOptions::now`], it makes the same text.
    pub now: Option<LocalTime>,
    /// Whether a message holds a beginning-of-sequence token and the template writes another.
    pub repeats_bos: bool,
}

impl Tokenizer {
    /// A conversation through the model's chat template, equal to `apply_chat_template` of transformers.
    ///
    /// # Errors
    /// The conversation is empty; the tokenizer has no template, or none of that name; the template is wrong, refuses
    /// the conversation, or takes more memory or time than any template needs.
    pub fn chat(&self, messages: &[Message], options: &ChatOptions) -> Result<Chat> {
        if messages.is_empty() {
            return Err(
                Error::input("the conversation is empty").hint("a template needs one message at least")
            );
        }
        let template = self.templates.choose(options.template.as_deref(), options.tools.is_some())?;
        let mut prepared: Vec<_> = messages.iter().map(Message::prepared).collect();
        let continued = match (options.answer, prepared.last_mut()) {
            (Answer::Continued, Some(message)) => Some(mark_end(message)?),
            _ => None,
        };
        let mut context: Map<String, Value> =
            self.named.iter().map(|(role, token)| (role.to_owned(), json!(token))).collect();
        context.extend(options.variables.clone());
        context.insert("messages".to_owned(), json!(prepared));
        context.insert("tools".to_owned(), json!(options.tools));
        context.insert("documents".to_owned(), json!(options.documents));
        context.insert("add_generation_prompt".to_owned(), json!(options.answer == Answer::Awaited));
        let now = options.now.clone().unwrap_or_else(LocalTime::now);
        let rendered = render::render(template, context, now.clone())?;
        let mut text = rendered.text;
        if let Some(said) = continued {
            cut_after_message(&mut text, &said)?;
        }
        let repeats_bos = self.bos_text().is_some_and(|bos| {
            let holds_bos = |message: &Message| {
                message.0.get("content").and_then(Value::as_str).unwrap_or_default().contains(bos)
            };
            messages.iter().any(holds_bos) && text.matches(bos).count() > 1
        });
        Ok(Chat { text, now: rendered.asked_for_time.then_some(now), repeats_bos })
    }

    /// Whether two beginning-of-sequence tokens stand at the beginning: the text brought one along, and the tokenizer
    /// or a template added another. No model was trained on that.
    pub fn begins_twice(&self, ids: &[u32]) -> bool {
        matches!((self.bos_id(), ids), (Some(bos), [first, second, ..]) if *first == bos && *second == bos)
    }

    /// The beginning-of-sequence token as text.
    pub fn bos_text(&self) -> Option<&str> {
        self.named.get("bos_token")
    }
}

/// Marks where a message ends: behind its content, or behind the last text where the content is a list of parts, as in
/// transformers. Returns the text that is marked.
fn mark_end(message: &mut Map<String, Value>) -> Result<String> {
    let content = match message.get_mut("content") {
        Some(Value::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        content => content,
    };
    let Some(Value::String(text)) = content else {
        return Err(Error::input("the last message has no text that could be continued"));
    };
    let said = text.clone();
    text.push_str(END_OF_MESSAGE);
    Ok(said)
}

/// Cuts the text where the last message, which is `said`, ends, as transformers does.
fn cut_after_message(text: &mut String, said: &str) -> Result<()> {
    let said = said.trim();
    match text.rfind(END_OF_MESSAGE.trim_end()) {
        Some(at) if text[..at].contains(said) => {
            // A template that trims what is said drops the blank that ends the mark, and blanks before it.
            let keeps_blanks = text[at..].starts_with(END_OF_MESSAGE);
            text.truncate(at);
            if !keeps_blanks {
                text.truncate(text.trim_end().len());
            }
            Ok(())
        }
        _ => Err(Error::new(
            ErrorKind::Tokenizer,
            "the chat template does not write the last message as it is, so it cannot be continued",
        )),
    }
}
