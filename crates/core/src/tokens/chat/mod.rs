//! Chat templates: turn a conversation into the text that a model was trained on.
//!
//! A template is an untrusted Jinja program. It is rendered as in transformers (`render_jinja_template` in
//! `utils/chat_template_utils.py`), by minijinja, with corrections where that differs from Python: [`rewrite`] before
//! compilation, [`environment`] at run time. Its resources are bounded: see [`render`].

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

/// Names for a message's reasoning; the first is the one that templates read today.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// Marks the end of the last message, as in transformers. It does not occur in a model's text.
const END_OF_MESSAGE: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// One message of a conversation: a JSON object with `role`, usually `content`, and anything else that the template
/// reads (`tool_calls`, `reasoning_content`).
#[derive(Debug, Clone, PartialEq)]
pub struct Message(Map<String, Value>);

impl Message {
    /// A message; `role` is `user`, `assistant`, `system` or another that the template knows.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let fields = [("role", role.into()), ("content", content.into())];
        Message(fields.into_iter().map(|(key, text)| (key.to_owned(), Value::String(text))).collect())
    }

    /// The message for a template: without null fields, and with its reasoning under every name.
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

/// How the rendered text ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Answer {
    /// With the prefix of an answer.
    Awaited,
    /// With the last message.
    #[default]
    None,
    /// Within the last message, for the model to continue.
    Continued,
}

/// Inputs to a template besides the conversation.
#[derive(Debug, Clone, Default)]
pub struct ChatOptions {
    /// How the text ends.
    pub answer: Answer,
    /// JSON schemas of the available tools; for some templates `None` differs from an empty list.
    pub tools: Option<Vec<Value>>,
    /// Documents to answer from.
    pub documents: Option<Vec<Value>>,
    /// Further variables of the template, such as `enable_thinking` or `date_string`. They override special tokens of
    /// the same name.
    pub variables: Map<String, Value>,
    /// The name of one of the model's templates, or a template itself; `None` means the model's default.
    pub template: Option<String>,
    /// The time for `strftime_now`; `None` means the machine's clock.
    pub now: Option<LocalTime>,
}

impl ChatOptions {
    /// The names of the variables that are set.
    fn given(&self) -> impl Iterator<Item = &str> {
        let lists = [("tools", self.tools.is_some()), ("documents", self.documents.is_some())];
        let lists = lists.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name);
        self.variables.keys().map(String::as_str).chain(lists)
    }

    /// Sets a variable by its name in the template; `tools` and `documents` too.
    ///
    /// # Errors
    /// If the name is not a variable, or is one set in another way, or `tools` or `documents` is not a list of objects.
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
    /// The text. It already contains the special tokens: encode it with [`Bos::No`](super::Bos::No).
    pub text: String,
    /// The time that the template asked for, if any: passing it as [`ChatOptions::now`] gives the same text again.
    pub now: Option<LocalTime>,
    /// Whether a message contains a beginning-of-sequence token and the template writes another.
    pub repeats_bos: bool,
    /// Variables of [`ChatOptions`], `tools` and `documents` among them, that the template did not look up: they changed
    /// nothing.
    pub unread: Vec<String>,
}

impl Tokenizer {
    /// Renders a conversation with the model's chat template, like `apply_chat_template` of transformers.
    ///
    /// # Errors
    /// If the conversation is empty, the tokenizer has no template or none of that name, or the template is invalid,
    /// refuses the conversation, or takes more memory or time than any template needs.
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
        let unread =
            options.given().filter(|name| !rendered.read.contains(*name)).map(str::to_owned).collect();
        Ok(Chat { text, now: rendered.asked_for_time.then_some(now), repeats_bos, unread })
    }

    /// Whether the ids begin with two beginning-of-sequence tokens: the text contained one, and the tokenizer or a
    /// template added another. No model was trained on that.
    pub fn begins_twice(&self, ids: &[u32]) -> bool {
        matches!((self.bos_id(), ids), (Some(bos), [first, second, ..]) if *first == bos && *second == bos)
    }

    /// The beginning-of-sequence token as text.
    pub fn bos_text(&self) -> Option<&str> {
        self.named.get("bos_token")
    }
}

/// Marks the end of a message: after its content, or after the last text if the content is a list of parts, as in
/// transformers. Returns the marked text.
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

/// Cuts the text at the end of the last message, `said`, as in transformers.
fn cut_after_message(text: &mut String, said: &str) -> Result<()> {
    let said = said.trim();
    match text.rfind(END_OF_MESSAGE.trim_end()) {
        Some(at) if text[..at].contains(said) => {
            // A template that trims messages also drops the space at the end of the mark, and spaces before it.
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
