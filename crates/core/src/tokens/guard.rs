//! Catches panics: the crate `tokenizers` has hundreds of places that panic on a deliberately malformed tokenizer.json.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::error::{Error, ErrorKind, Result};

/// Runs `action` and turns a panic in it into an error.
///
/// Anything that `action` was changing must not be used after an error.
pub(super) fn guarded<T>(
    what: &str,
    action: impl FnOnce() -> std::result::Result<T, tokenizers::Error>,
) -> Result<T> {
    easyroutine_files::limit_regular_expressions();
    match catch_unwind(AssertUnwindSafe(|| quietly(action))) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Error::new(ErrorKind::Tokenizer, format!("cannot {what}: {error}"))),
        Err(panic) => Err(gave_up(what, panic.as_ref())),
    }
}

/// The error for a panic.
fn gave_up(what: &str, panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    // As named by Oniguruma; Python's `tokenizers` also gives up at the first.
    let limits = [
        ("retry-limit-in-match over", "10 million steps back in one match"),
        ("retry-limit-in-search over", "500 million steps back in one search"),
        ("match-stack limit over", "8 million places to come back to"),
    ];
    if let Some((_, limit)) = limits.iter().find(|(name, _)| said.contains(name)) {
        let message = format!("cannot {what}: a regular expression of the tokenizer takes more than {limit}");
        return Error::new(ErrorKind::Tokenizer, message)
            .hint("a long run of one kind of character does that; or the expression is made to");
    }
    Error::new(
        ErrorKind::Tokenizer,
        format!("cannot {what}: the tokenizer contradicts itself, and its library gave up"),
    )
    .hint("check tokenizer.json: does `AutoTokenizer.from_pretrained` of transformers read it?")
}

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `action` without printing a panic of this thread, since it becomes an error that says more.
fn quietly<T>(action: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                others(panic);
            }
        }));
    });
    struct Until;
    impl Drop for Until {
        fn drop(&mut self) {
            IS_GUARDED.set(false);
        }
    }
    IS_GUARDED.set(true);
    let _until = Until;
    action()
}
