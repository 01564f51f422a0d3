//! Choosing a template: a model may have several.

use std::path::Path;

use easyroutine_files::Gguf;
use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};

/// A model's chat templates by name. `default` is the only one, or the one used if no name is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatTemplates {
    by_name: IndexMap<String, String>,
}

/// Limit on a folder's additional templates.
const MOST: usize = 64;

impl ChatTemplates {
    /// The template with that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.by_name.get(name).map(String::as_str)
    }

    /// The names, in the order found.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// One template, or none.
    pub(in crate::tokens) fn of(template: Option<String>) -> Self {
        ChatTemplates { by_name: template.map(|text| ("default".to_owned(), text)).into_iter().collect() }
    }

    pub(in crate::tokens) fn insert(&mut self, name: &str, template: String) {
        self.by_name.insert(name.to_owned(), template);
    }

    pub(in crate::tokens) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.by_name.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// The templates in a folder, found as by `from_pretrained` of transformers: `chat_template.jinja` with those in
    /// `additional_chat_templates/`, else those in tokenizer_config.json.
    ///
    /// # Errors
    /// As `read_text`, for an existing file.
    pub(in crate::tokens) fn read(
        folder: &Path,
        config: &Map<String, Value>,
        read_text: impl Fn(&Path) -> Result<String>,
    ) -> Result<Self> {
        let mut found = ChatTemplates::default();
        let own = folder.join("chat_template.jinja");
        if own.exists() {
            found.insert("default", read_text(&own)?);
        }
        for path in additional(folder)? {
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            found.insert(&name, read_text(&path)?);
        }
        if found.by_name.is_empty() {
            found = config.get("chat_template").map(ChatTemplates::configured).unwrap_or_default();
        }
        Ok(found)
    }

    /// The templates of a GGUF file: a default, and named ones.
    ///
    /// # Errors
    /// If an entry does not have its usual type.
    pub(in crate::tokens) fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let mut found = ChatTemplates::of(gguf.str("tokenizer.chat_template")?.map(str::to_owned));
        for name in gguf.strings("tokenizer.chat_templates")?.unwrap_or_default().iter().take(MOST) {
            if let Some(text) = gguf.str(&format!("tokenizer.chat_template.{name}"))? {
                found.insert(name, text.to_owned());
            }
        }
        Ok(found)
    }

    /// The templates in tokenizer_config.json: one, a list of named ones, or an object of these.
    fn configured(value: &Value) -> Self {
        let mut found = ChatTemplates::of(value.as_str().map(str::to_owned));
        for entry in value.as_array().map(Vec::as_slice).unwrap_or_default() {
            if let (Some(name), Some(text)) = (entry["name"].as_str(), entry["template"].as_str()) {
                found.insert(name, text.to_owned());
            }
        }
        for (name, text) in value.as_object().into_iter().flatten() {
            if let Some(text) = text.as_str() {
                found.insert(name, text.to_owned());
            }
        }
        found
    }

    /// The template that transformers uses: the one named or given; with tools, the one for tools if there is one; else
    /// the default.
    pub(super) fn choose<'a>(&'a self, asked: Option<&'a str>, has_tools: bool) -> Result<&'a str> {
        let names = || self.names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        match asked {
            Some(name) if self.get(name).is_some() => Ok(self.get(name).unwrap_or_default()),
            // A text without tags is a missing name rather than a template that always says the same.
            Some(text) if text.contains("{{") || text.contains("{%") => Ok(text),
            Some(name) => {
                let error = Error::input(format!("the model has no chat template `{name}`"));
                Err(match self.by_name.is_empty() {
                    true => error,
                    false => error.hint(format!("it has {}", names())),
                })
            }
            None if self.by_name.is_empty() => {
                Err(Error::new(ErrorKind::Tokenizer, "this model has no chat template")
                    .hint("it was not trained on conversations: give a plain prompt"))
            }
            None => {
                let for_tools = self.get("tool_use").filter(|_| has_tools);
                for_tools.or_else(|| self.get("default")).ok_or_else(|| {
                    Error::input("the model has several chat templates, and none is the default")
                        .hint(format!("name one of {}", names()))
                })
            }
        }
    }
}

/// The files in `additional_chat_templates`, by name.
fn additional(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let folder = folder.join("additional_chat_templates");
    let failed = |e: std::io::Error| Error::new(ErrorKind::Io, e.to_string()).at(folder.display());
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|ending| ending == "jinja") {
            files.push(path);
        }
        if files.len() > MOST {
            return Err(Error::new(ErrorKind::Format, format!("holds more than {MOST} templates"))
                .at(folder.display()));
        }
    }
    files.sort();
    Ok(files)
}
