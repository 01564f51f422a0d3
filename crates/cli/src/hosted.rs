//! Commands that `serve` runs for its page: they are the commands of the command line, with a model that is loaded already,
//! and what they write and say goes to the page. Which call a thread is at is known to that thread alone.

use std::cell::RefCell;
use std::rc::Rc;

use easyroutine::tokens::Tokenizer;
use easyroutine::{Error, ErrorKind, Stop};

use crate::session::Session;

/// What a command says before its result.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Said<'s> {
    /// A warning, a note, a sum: what goes to standard error otherwise.
    Note { kind: &'s str, text: &'s str },
    /// How much of it is done.
    Progress { done: usize, of: usize, what: &'s str },
    /// The next piece of a text that is generated.
    Piece(&'s str),
}

/// One command that is run for a page.
pub(crate) struct Call {
    /// The model that is loaded, with its tokenizer.
    pub(crate) model: Option<(Rc<Session>, Rc<Tokenizer>)>,
    /// Hears what the command says.
    pub(crate) hear: Box<dyn Fn(Said<'_>)>,
    /// Whether nobody waits for the result any more.
    pub(crate) is_abandoned: Box<dyn Fn() -> bool>,
}

struct Current {
    call: Call,
    written: Vec<u8>,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// Takes the call off the thread, also where its command panics.
struct Leaving;

impl Drop for Leaving {
    fn drop(&mut self) {
        CURRENT.take();
    }
}

/// Runs a command as a call, and gives what it wrote to standard output.
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

/// Whether this thread runs a command for a page.
pub(crate) fn is_hosted() -> bool {
    with(|_| ()).is_some()
}

/// The loaded model of the call; `None` where the program itself runs the command.
pub(crate) fn model() -> Option<Option<(Rc<Session>, Rc<Tokenizer>)>> {
    with(|current| current.call.model.clone())
}

/// Takes what would go to standard output. False where there is no call.
pub(crate) fn write(content: &[u8]) -> bool {
    with(|current| current.written.extend_from_slice(content)).is_some()
}

/// Says something to the page. False where there is no call.
pub(crate) fn say(said: Said<'_>) -> bool {
    with(|current| (current.call.hear)(said)).is_some()
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
/// The call is abandoned.
pub(crate) fn check() -> Result<(), Error> {
    match is_abandoned() {
        true => Err(Error::new(ErrorKind::Interrupted, "the page went away")),
        false => Ok(()),
    }
}
