use std::path::Path;

use serde_json::Value;

use super::Tokenizer;
use super::guard::guarded;
use crate::error::{Error, ErrorKind, Result};

impl Tokenizer {
    /// Writes `tokenizer.json` and `tokenizer_config.json`, which transformers' `AutoTokenizer` reads to the same ids,
    /// and `chat_template.jinja` if there is one. Files that are there are replaced.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        let tokenizer = guarded("write it as JSON", || self.backend.to_string(true))?;
        write(&folder.join("tokenizer.json"), &tokenizer)?;
        let mut settings = self.settings.clone();
        settings.remove("chat_template");
        let settings = format!("{:#}\n", Value::Object(settings));
        write(&folder.join("tokenizer_config.json"), &settings)?;
        match &self.chat_template {
            Some(template) => write(&folder.join("chat_template.jinja"), template),
            None => Ok(()),
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text)
        .map_err(|e| Error::new(ErrorKind::Io, format!("cannot be written: {e}")).at(path.display()))
}
