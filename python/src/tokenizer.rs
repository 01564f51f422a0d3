//! A model's tokenizer, behind the Python class `Tokenizer`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use easyroutine::Error;
use easyroutine::load;
use easyroutine::source::AdapterChoice;
use easyroutine::tokens::{Answer, Bos, ChatOptions, Message, Tokenizer as Engine};
use pyo3::prelude::*;
use serde_json::Value;

use crate::errors::Failure;
use crate::interrupt::waiting;
use crate::source;

/// Converts text to ids and back.
#[pyclass(frozen, module = "easyroutine._core")]
pub(crate) struct Tokenizer {
    pub(crate) tokenizer: Arc<Engine>,
}

/// Ids, the bytes that each covers, and whether they cover the whole text.
type Encoding = (Vec<u32>, Vec<(usize, usize)>, bool);

#[pymethods]
impl Tokenizer {
    /// A model's tokenizer, without the weights; returns its name too.
    #[staticmethod]
    #[pyo3(signature = (reference, *, revision=None, offline=false, pre=None, progress=None))]
    fn open(
        py: Python<'_>,
        reference: &str,
        revision: Option<String>,
        offline: bool,
        pre: Option<String>,
        progress: Option<Py<PyAny>>,
    ) -> Result<(Tokenizer, String), Failure> {
        let folder = Path::new(reference);
        if folder.is_dir() && pre.is_none() {
            // Saved by itself, without a model.
            let tokenizer = py.detach(|| Engine::from_folder(folder))?;
            let name =
                folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            return Ok((Tokenizer { tokenizer: Arc::new(tokenizer) }, name));
        }
        let files = source::find(py, reference, revision, offline, AdapterChoice::Beside, progress)?;
        let name = files.name.clone();
        let tokenizer = waiting(py, move || load::tokenizer(&files, pre.as_deref()))?;
        Ok((Tokenizer { tokenizer: Arc::new(tokenizer) }, name))
    }

    /// Ids and, for each token, the bytes of the text (as UTF-8) that it covers. With `limit`, possibly only those of a
    /// long text's beginning: `limit` tokens or a few more.
    #[pyo3(signature = (text, add_special_tokens, limit=None))]
    fn encode(
        &self,
        py: Python<'_>,
        text: &str,
        add_special_tokens: bool,
        limit: Option<usize>,
    ) -> Result<Encoding, Failure> {
        let bos = if add_special_tokens { Bos::Auto } else { Bos::No };
        let limit = limit.unwrap_or(usize::MAX);
        let (encoded, is_whole) = py.detach(|| self.tokenizer.encode_up_to(text, bos, limit))?;
        Ok((encoded.ids, encoded.offsets, is_whole))
    }

    /// The text that ids stand for.
    fn decode(&self, py: Python<'_>, ids: Vec<u32>, skip_special_tokens: bool) -> Result<String, Failure> {
        Ok(py.detach(|| self.tokenizer.decode(&ids, skip_special_tokens))?)
    }

    /// Contradictions among the files it was read from, and which of them was followed.
    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.tokenizer.warnings().to_vec()
    }

    /// Warnings about a text itself.
    fn warnings_for(&self, text: &str) -> Vec<String> {
        self.tokenizer.warning_for(text).into_iter().collect()
    }

    /// The sides on which rows are padded and truncated: left or right.
    #[getter]
    fn sides(&self) -> (&'static str, &'static str) {
        (self.tokenizer.padding_side().name(), self.tokenizer.truncation_side().name())
    }

    /// The longest row in tokens, if the settings name a limit.
    #[getter]
    fn max_length(&self) -> Option<usize> {
        self.tokenizer.max_length()
    }

    /// The text of one token, fit to show.
    fn shown(&self, id: u32) -> String {
        self.tokenizer.token_text(id).to_string()
    }

    /// The token whose text this is.
    fn single_token(&self, text: &str) -> Option<u32> {
        self.tokenizer.single_token(text)
    }

    fn id_of_token(&self, token: &str) -> Option<u32> {
        self.tokenizer.id_of_token(token)
    }

    fn token_of_id(&self, id: u32) -> Option<String> {
        self.tokenizer.token_of_id(id)
    }

    fn vocabulary(&self) -> HashMap<String, u32> {
        self.tokenizer.vocabulary()
    }

    fn added_tokens(&self) -> Vec<(String, u32)> {
        self.tokenizer.added_tokens()
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    #[getter]
    fn special_ids(&self) -> Vec<u32> {
        self.tokenizer.special_ids().to_vec()
    }

    /// Tokens with a role, such as `bos_token`.
    #[getter]
    fn roles(&self) -> HashMap<&'static str, String> {
        self.tokenizer.roles().map(|(role, token)| (role, token.to_owned())).collect()
    }

    /// tokenizer_config.json.
    #[getter]
    fn settings(&self) -> String {
        Value::Object(self.tokenizer.settings().clone()).to_string()
    }

    #[getter]
    fn chat_template(&self) -> Option<&str> {
        self.tokenizer.chat_template()
    }

    /// Applies a template to a conversation, a JSON list of messages; also returns the time, if the template asked for
    /// it, whether a message repeats the template's beginning-of-sequence token, and the variables that the template did
    /// not read. `variables` is a JSON object.
    #[pyo3(signature = (messages, variables, answer, template, now))]
    fn chat(
        &self,
        py: Python<'_>,
        messages: &str,
        variables: &str,
        answer: &str,
        template: Option<String>,
        now: Option<&str>,
    ) -> Result<(String, Option<String>, bool, Vec<String>), Failure> {
        let read = |text: &str| serde_json::from_str::<Value>(text).map_err(|e| Error::input(e.to_string()));
        let mut options = ChatOptions { template, ..ChatOptions::default() };
        options.answer = match answer {
            "awaited" => Answer::Awaited,
            "continued" => Answer::Continued,
            _ => Answer::None,
        };
        options.now = now.map(str::parse).transpose()?;
        for (name, value) in read(variables)?.as_object().into_iter().flatten() {
            options.set(name, value.clone())?;
        }
        let messages = read(messages)?;
        let objects = messages.as_array().into_iter().flatten().filter_map(Value::as_object);
        let messages: Vec<Message> = objects.cloned().map(Message::from).collect();
        let chat = py.detach(|| self.tokenizer.chat(&messages, &options))?;
        Ok((chat.text, chat.now.map(|now| now.to_string()), chat.repeats_bos, chat.unread))
    }

    /// Whether two beginning-of-sequence tokens stand at the front.
    fn begins_twice(&self, ids: Vec<u32>) -> bool {
        self.tokenizer.begins_twice(&ids)
    }

    /// Writes it as files that transformers reads.
    fn save(&self, folder: &str) -> Result<(), Failure> {
        Ok(self.tokenizer.save(folder)?)
    }
}
