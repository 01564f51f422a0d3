//! A condition on metadata: rejected, or printed as it parses and evaluated.
#![no_main]

use std::sync::LazyLock;

use easyroutine_store::{Condition, Metadata};
use libfuzzer_sys::fuzz_target;

const RECORD: &str = r#"{"tag": "t", "save_time": "2026-11-23 06:50:00", "experiment_name": "e", "model_name": "m", "seed": 3,
    "deep": {"a": [1, 2.5, "x", null, true]}, "_store": {"schema": "easyroutine.run", "version": 1, "min_reader": 1,
    "run_id": "r", "state": "committed", "created_at": "now", "revision": 1}}"#;

static METADATA: LazyLock<Metadata> = LazyLock::new(|| Metadata::parse(RECORD.as_bytes()).expect("a record"));

fuzz_target!(|text: &str| {
    let Ok(condition) = text.parse::<Condition>() else { return };
    let again: Condition = condition.to_string().parse().expect("a printed condition");
    assert_eq!(again, condition);
    assert_eq!(again.holds(&METADATA), condition.holds(&METADATA));
});
