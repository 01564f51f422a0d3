//! Pictures and tables in every format. One program for all tests of this crate, since each links the whole crate.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attention;
mod features;
mod bars;
mod circuit;
mod grid;
mod pictures;
