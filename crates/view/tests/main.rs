//! Pictures and tables in every format. One program for all tests of this crate, since each links the whole crate.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attention;
mod bars;
mod circuit;
mod features;
mod grid;
mod pictures;
