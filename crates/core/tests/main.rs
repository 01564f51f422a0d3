//! The library through its public API. One program for all tests of this crate, since each links the whole crate.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bad_input;
mod checkpoints;
mod classic;
mod common;
mod compare;
mod compare_models;
mod edits;
mod exact;
mod export;
mod extract;
mod extraction;
mod generate;
mod gguf;
mod golden;
mod gradients;
mod hub;
mod laws;
mod layers;
mod lens;
mod models;
mod patching;
mod patching_experts;
mod positions;
mod prompts;
mod published;
mod real;
mod source;
mod stored;
mod wrappers;
