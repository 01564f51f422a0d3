//! Chat templates: a conversation as the text that a model was trained on.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind as Jinja, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::json;

use super::Tokenizer;
use crate::error::{Error, ErrorKind, Result};

/// Steps that a template may take: a hundred times what the longest known ones need.
const FUEL: u64 = 10_000_000;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `user`, `assistant` or `system`, as the template has it.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// Whether the text ends where the model is to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It ends with what precedes an answer.
    Awaited,
    /// It ends with the last message.
    None,
}

impl Tokenizer {
    /// A conversation through the model's chat template, as `apply_chat_template` of transformers writes it. The text
    /// holds the special tokens already: encode it with [`Bos::No`](super::Bos::No).
    ///
    /// # Errors
    /// The tokenizer has no template, or the template is wrong or refuses the conversation.
    pub fn chat(&self, messages: &[Message], answer: Answer) -> Result<String> {
        let Some(template) = self.chat_template() else {
            return Err(Error::new(ErrorKind::Tokenizer, "this model has no chat template")
                .hint("it was not trained on conversations: give a plain prompt"));
        };
        let messages: Vec<_> =
            messages.iter().map(|m| json!({"role": m.role, "content": m.content})).collect();
        let token = |role: &str| self.named.get(role).unwrap_or_default().to_owned();
        let context = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => answer == Answer::Awaited,
            bos_token => token("bos_token"),
            eos_token => token("eos_token"),
            unk_token => token("unk_token"),
            pad_token => token("pad_token"),
        };
        let rendered = environment()?.render_str(template, context);
        rendered.map_err(|e| {
            let detail = e.detail().map(str::to_owned).unwrap_or_else(|| e.to_string());
            let place = e.line().map(|line| format!(", line {line}")).unwrap_or_default();
            Error::new(ErrorKind::Tokenizer, format!("the chat template{place}: {detail}")).because(e)
        })
    }
}

/// The settings of `_compile_jinja_template` of transformers (`utils/chat_template_utils.py`).
fn environment() -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|e| Error::new(ErrorKind::Tokenizer, e.to_string()))?);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(Jinja::InvalidOperation, message))
    });
    Ok(environment)
}
