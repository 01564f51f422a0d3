//! Runs on disk, through the public API. One program for all tests of this crate, since each links the whole crate.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod checked;
mod cloud;
mod common;
mod crash;
mod damage;
mod gc;
mod golden;
mod import;
mod index;
mod kills;
mod links;
mod places;
mod queries;
mod reading;
mod stream;
mod table;
mod upstream;
