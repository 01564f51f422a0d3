use std::path::Path;

use serde_json::Value;

use super::Tokenizer;
use super::guard::guarded;
use crate::error::{Error, ErrorKind, Result};

impl Tokenizer {
    /// Writes `tokenizer.json` and `tokenizer_config.json`, from which transformers' `AutoTokenizer` gives the same
    /// ids, and the chat templates: `chat_template.jinja`, and others in `additional_chat_templates/`. Existing files
    /// are replaced.
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
        for (name, template) in self.templates.iter() {
            if name == "default" {
                write(&folder.join("chat_template.jinja"), template)?;
            } else if is_file_name(name) {
                let folder = folder.join("additional_chat_templates");
                std::fs::create_dir_all(&folder)
                    .map_err(|e| Error::new(ErrorKind::Io, e.to_string()).at(folder.display()))?;
                write(&folder.join(format!("{name}.jinja")), template)?;
            } else {
                return Err(Error::new(
                    ErrorKind::Tokenizer,
                    format!("the chat template `{name}` has a name that no file can have"),
                ));
            }
        }
        Ok(())
    }
}

/// Whether a name from outside stays in its folder.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text)
        .map_err(|e| Error::new(ErrorKind::Io, format!("cannot be written: {e}")).at(path.display()))
}
