//! All problems of a dictionary, reported together.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use easyroutine::{Error, ErrorKind, Result};

/// A list shared by all readers of one dictionary.
#[derive(Debug, Clone, Default)]
pub(crate) struct Problems(Rc<RefCell<Vec<String>>>);

/// Limit on reported problems: an unrelated file has thousands.
const TOLD: usize = 20;

impl Problems {
    /// Adds a problem.
    pub(crate) fn add(&self, what: impl Into<String>) {
        self.0.borrow_mut().push(what.into());
    }

    /// Whether there are none so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// One error for all of them.
    pub(crate) fn finish(&self, path: &Path) -> Result<()> {
        let found = self.0.borrow();
        if found.is_empty() {
            return Ok(());
        }
        let mut text = found.iter().take(TOLD).map(String::as_str).collect::<Vec<_>>().join("; ");
        if found.len() > TOLD {
            text.push_str(&format!("; and {} more", found.len() - TOLD));
        }
        Err(Error::new(ErrorKind::Format, format!("{}: {text}", path.display())))
    }
}

/// A name from a file, safe to print.
pub(crate) fn shown(name: &str) -> String {
    let short: String = name.chars().take(200).flat_map(char::escape_debug).collect();
    format!("`{short}`")
}
