//! config.yaml: refused, or a value of JSON.
#![no_main]

use easyroutine_dictionaries::read_yaml;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(value) = read_yaml(text) {
        assert!(!value.to_string().is_empty());
    }
});
