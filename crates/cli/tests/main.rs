//! The program as users run it. One program for all tests of this crate, since each links the whole crate.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod activations;
mod attn;
mod attribution;
mod buckets;
mod commands;
mod common;
mod compare;
mod compare_models;
mod dataset;
mod dictionaries;
mod directions;
mod errors;
mod examples;
mod extract;
mod features;
mod full_disk;
mod generate;
mod graph;
mod housekeeping;
mod interventions;
mod proof;
mod refusals;
mod run_lens;
mod runs;
mod serve;
mod snapshots;
mod surfaces;
mod surroundings;
mod sweeps;
mod tokens;
mod tuned;
