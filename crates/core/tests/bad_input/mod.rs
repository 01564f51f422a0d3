//! Errors name what is wrong, and no input from outside makes the library panic.

mod config;
mod files;
mod prompts;
mod weights;

use easyroutine::{Error, ErrorKind};

/// The error of something that must fail, whose message must name what is wrong.
#[track_caller]
fn refused<T>(result: Result<T, Error>, kind: ErrorKind, words: &[&str]) -> Error {
    let error = result.err().unwrap_or_else(|| panic!("no error that says {words:?}"));
    let text = format!("{error} {}", error.hint_text().unwrap_or_default());
    assert_eq!(error.kind(), kind, "{text}");
    for word in words {
        assert!(text.contains(word), "{text:?} does not say {word:?}");
    }
    error
}
