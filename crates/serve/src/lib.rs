//! A local server for one user's browser.
//!
//! It listens only on loopback. Every path begins with a random token, so only a client that knows the address gets an
//! answer. A foreign `Host` or `Origin` is refused, which keeps out pages that rebind a DNS name to this machine.
//! Requests are bounded in size and time. Pages are fixed files. A question is one JSON object, posted to `ask`. Its
//! answer is a stream of JSON objects, one per line, and ends early if the browser goes away.
//!
//! This crate does not interpret questions: one thread of the caller answers them in order.
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
