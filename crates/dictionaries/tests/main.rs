//! Dictionaries as their own libraries wrote them, beside what those libraries and a second reader make of them.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on fails")]

mod bad_input;
mod common;
mod directions;
mod edits;
mod golden;
mod laws;
mod measure;
mod statistics;
