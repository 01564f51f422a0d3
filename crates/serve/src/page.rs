//! Files that a browser loads.

/// A fixed file.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Its path after the token: `""` is the page itself, `app.js` a file of it.
    pub path: &'static str,
    /// Its media type, with the character set.
    pub media_type: &'static str,
    /// What is in it.
    pub content: &'static str,
}
