//! A local server for one user's browser.
//!
//! It listens on loopback alone. Every path begins with a random token, so only who was told the address gets an answer;
//! a foreign `Host` or `Origin` gets none, which keeps out pages that rebind a name of theirs to this machine. Requests are
//! bounded in size and time. Pages are fixed files. A question is one JSON object, posted to `ask`; its answer is a stream
//! of JSON objects, one a line, and ends early when the browser goes away.
//!
//! Nothing here knows what is asked: one thread of the caller's answers one question after another.
#![forbid(unsafe_code)]

mod connection;
mod guard;
mod page;
mod queue;
mod server;

pub use guard::{Token, TokenError};
pub use page::Page;
pub use queue::{Doing, Reply};
pub use server::{BindError, Options, Server};
