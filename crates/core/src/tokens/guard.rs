//! The crate `tokenizers` has hundreds of places that panic on a tokenizer.json nobody would write on purpose.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, ErrorKind, Result};

/// Runs `action`; a panic in it is an error like any other.
///
/// What `action` had begun to change must not be used after an error.
pub(super) fn guarded<T>(
    what: &str,
    action: impl FnOnce() -> std::result::Result<T, tokenizers::Error>,
) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(action)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Error::new(ErrorKind::Tokenizer, format!("cannot {what}: {error}"))),
        Err(_) => Err(Error::new(
            ErrorKind::Tokenizer,
            format!("cannot {what}: the tokenizer contradicts itself, and its library gave up"),
        )
        .hint("check tokenizer.json: does `AutoTokenizer.from_pretrained` of transformers read it?")),
    }
}
