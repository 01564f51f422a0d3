//! What an extraction config keeps, compared with the same numbers computed from all activations.

mod config;
mod continued;
mod examples;
mod means;
mod patterns;

use easyroutine::cache::ActivationCache;
use easyroutine::extraction::ExtractionConfig;
use easyroutine::positions::{Context, Row, Specifier};
use easyroutine::{Batch, Model, Result};
use serde_json::Value;

/// Rows of different length, none shorter than 6.
pub(crate) fn rows() -> Vec<Vec<u32>> {
    vec![vec![5, 6, 7, 8, 9, 10, 11], vec![21, 22, 23, 24, 25, 26], vec![3, 30, 31, 32, 33, 34, 35, 36, 37]]
}

pub(crate) fn config(json: Value) -> ExtractionConfig {
    ExtractionConfig::from_json(json.as_object().unwrap()).unwrap()
}

pub(crate) fn specifiers(text: &str) -> Vec<Specifier> {
    Specifier::parse_list(text).unwrap()
}

/// Runs a configuration on rows.
pub(crate) fn run(model: &Model, rows: &[Vec<u32>], json: Value, positions: &str) -> Result<ActivationCache> {
    let request = config(json).request(&specifiers(positions))?;
    let described: Vec<Row<'_>> = rows.iter().enumerate().map(|(number, ids)| Row::of(number, ids)).collect();
    let context = Context { special: &[3], pivots: &[4, 2], seed: 1 };
    request.run(model, &Batch::new(rows)?, &described, context)
}

/// The message of a run that must fail.
#[track_caller]
pub(crate) fn refusal(json: Value, positions: &str) -> String {
    run(&crate::common::tiny("llama"), &rows(), json, positions).unwrap_err().to_string()
}

/// Nearly equal numbers: sums of a few f32 in another order.
#[track_caller]
pub(crate) fn assert_close(place: &str, ours: &[f32], theirs: &[f64]) {
    assert_eq!(ours.len(), theirs.len(), "{place}: number of values");
    for (i, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let is_same = (f64::from(*ours) - theirs).abs() <= 1e-6 * theirs.abs().max(1.0)
            || ours.is_nan() && theirs.is_nan();
        assert!(is_same, "{place}: value {i} is {ours}, not {theirs}");
    }
}
