//! Commands that `serve` runs for its page: the commands of the command line, with a model that is already loaded,
//! whose output and messages go to the page. Each thread knows only its own call.

use std::cell::RefCell;
use std::rc::Rc;

use easyroutine::tokens::Tokenizer;
use easyroutine::{Error, ErrorKind, Stop};

use crate::session::Session;

/// Messages of a command before its result.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event<'s> {
    /// A warning, a note, a sum: normally printed to standard error.
    Note { kind: &'s str, text: &'s str },
    /// Progress.
    Progress { done: usize, of: usize, what: &'s str },
    /// The next piece of generated text.
    Piece(&'s str),
}

/// A command being run for a page.
pub(crate) struct Call {
    /// The loaded model, with its tokenizer.
    pub(crate) model: Option<(Rc<Session>, Rc<Tokenizer>)>,
    /// Whether the result is for a list on a page, which wants no more than it shows.
    pub(crate) is_page: bool,
    /// Receives the command's messages.
    pub(crate) hear: Box<dyn Fn(Event<'_>)>,
    /// Whether the result is no longer awaited.
    pub(crate) is_abandoned: Box<dyn Fn() -> bool>,
}

struct Current {
    call: Call,
    written: Vec<u8>,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// Removes the call from the thread, even if its command panics.
struct Leaving;

impl Drop for Leaving {
    fn drop(&mut self) {
        CURRENT.take();
    }
}

/// Runs a command as a call, and returns what it wrote to standard output.
pub(crate) fn run<T>(call: Call, command: impl FnOnce() -> T) -> (T, Vec<u8>) {
    CURRENT.set(Some(Current { call, written: Vec::new() }));
    let _leaving = Leaving;
    let result = command();
    let written = CURRENT.take().map(|current| current.written).unwrap_or_default();
    (result, written)
}

fn with<T>(use_it: impl FnOnce(&mut Current) -> T) -> Option<T> {
    CURRENT.with_borrow_mut(|current| current.as_mut().map(use_it))
}

/// Whether this thread is running a command for a page.
pub(crate) fn is_hosted() -> bool {
    with(|_| ()).is_some()
}

/// Whether what the command writes is drawn by a page at once.
pub(crate) fn is_page() -> bool {
    with(|current| current.call.is_page).unwrap_or(false)
}

/// The call's loaded model; `None` if there is no call.
pub(crate) fn model() -> Option<Option<(Rc<Session>, Rc<Tokenizer>)>> {
    with(|current| current.call.model.clone())
}

/// Takes output meant for standard output. Returns false if there is no call.
pub(crate) fn write(content: &[u8]) -> bool {
    with(|current| current.written.extend_from_slice(content)).is_some()
}

/// Sends a message to the page. Returns false if there is no call.
pub(crate) fn say(event: Event<'_>) -> bool {
    with(|current| (current.call.hear)(event)).is_some()
}

/// Whether the call is abandoned.
pub(crate) fn is_abandoned() -> bool {
    with(|current| (current.call.is_abandoned)()).unwrap_or(false)
}

/// Ends a run whose call is abandoned.
pub(crate) fn stop() -> Stop<'static> {
    Stop::When(&is_abandoned)
}

/// # Errors
/// If the call is abandoned.
pub(crate) fn check() -> Result<(), Error> {
    match is_abandoned() {
        true => Err(Error::new(ErrorKind::Interrupted, "the page went away")),
        false => Ok(()),
    }
}
