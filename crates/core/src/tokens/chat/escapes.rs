//! Escapes in a template's strings: read as in Python (`unicode-escape`), rewritten for minijinja.

use std::borrow::Cow;

use super::rewrite::{Change, Word};

/// Rewrites what the two read differently: `\a`, `\v`, `\U0001F600`, a backslash at the end of a line, and `\/`, which
/// is not an escape in Python.
pub(super) fn rewrite(words: &[Word<'_>], changes: &mut Vec<Change>) {
    for word in words.iter().filter(|word| word.text.starts_with(['"', '\''])) {
        let mut rest = word.text;
        while let Some(at) = rest.find('\\') {
            let start = word.start + word.text.len() - rest.len() + at;
            let Some(escaped) = rest[at + 1..].chars().next() else { break };
            let mut length = 1 + escaped.len_utf8();
            let text: Option<Cow<'static, str>> = match escaped {
                'a' => Some(r"\x07".into()),
                'v' => Some(r"\x0b".into()),
                '/' => Some(r"\\/".into()),
                '\n' => Some("".into()),
                'U' => rest.get(at + 2..at + 10).and_then(character).map(|c| {
                    length = 10;
                    let needs_escape = matches!(c, '"' | '\'' | '\\');
                    Cow::Owned(if needs_escape { format!("\\{c}") } else { c.to_string() })
                }),
                _ => None,
            };
            if let Some(text) = text {
                changes.push(Change { start, end: start + length, text });
            }
            rest = &rest[at + length..];
        }
    }
}

/// The character with eight hexadecimal digits.
fn character(digits: &str) -> Option<char> {
    let is_hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hexadecimal.then(|| u32::from_str_radix(digits, 16).ok()).flatten().and_then(char::from_u32)
}
