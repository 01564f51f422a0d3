//! Interventions in text form: what parses prints, and parses back to the same.
#![no_main]

use easyroutine::edit::{Intervention, Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(read) = text.parse::<Intervention<Reference>>() else { return };
    let printed = read.to_string();
    let again: Intervention<Reference> = printed.parse().expect("what was printed");
    assert_eq!(again, read, "{printed}");
});
