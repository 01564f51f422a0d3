//! Gradients: references computed with autograd in f64, laws that hold for every model, and what is refused.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;

mod dla;
mod golden;
mod laws;
mod wrong;
