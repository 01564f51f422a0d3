//! What every page of one file shares: a policy that forbids any request, and data that cannot end its element.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use crate::text::field;

/// The Content-Security-Policy of a page: this script and this style by their hash, and nothing else.
pub(crate) fn policy(script: &str, style: &str) -> String {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; img-src data:; base-uri 'none'; form-action 'none'",
        hash(script),
        hash(style)
    )
}

/// JSON for a script element: nothing in it can end the element or hide.
pub(crate) fn embed(data: &Json) -> String {
    let mut out = String::new();
    for c in data.to_string().chars() {
        let plain = c == ' ' || c.is_ascii_graphic() && !matches!(c, '<' | '>' | '&');
        if plain || !c.is_ascii() && field(c.encode_utf8(&mut [0; 4])).starts_with(c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// Source without indentation and lines of comment; neither language gives them a meaning here.
pub(crate) fn lean(source: &str) -> String {
    let lines =
        source.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text.as_bytes())))
}
