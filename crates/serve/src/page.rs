//! Files that a browser loads.

/// A fixed file.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Its path after the token: `""` is the page itself, `app.js` one of its files.
    pub path: &'static str,
    /// Its media type, with the character set.
    pub media_type: &'static str,
    /// Its content.
    pub content: &'static str,
}
