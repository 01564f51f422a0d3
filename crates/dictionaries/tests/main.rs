//! Dictionaries written by their own libraries, compared with the results of those libraries and of a second reader.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on fails")]

mod bad_input;
mod common;
mod directions;
mod edits;
mod golden;
mod gradients;
#[cfg(feature = "hub")]
mod hub;
mod laws;
mod measure;
mod sieve;
mod statistics;
mod sweeps;
