//! Container formats, well formed and not. One program for all tests of this crate, since each links the whole crate.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod blocks;
mod cut_short;
mod gguf;
mod safetensors;
mod torch;
