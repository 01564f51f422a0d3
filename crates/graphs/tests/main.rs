//! Graphs against their references, and the laws that they obey.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bad_input;
mod common;
mod golden;
mod laws;
