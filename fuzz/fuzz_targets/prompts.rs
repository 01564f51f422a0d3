//! Lines of prompts and extraction configs: whatever is read is within the limit, and a config reads back to the same.
#![no_main]

use easyroutine::extraction::ExtractionConfig;
use easyroutine::prompts::{from_jsonl, from_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (limit, bytes) = input;
    let limit = usize::from(limit);
    for prompts in [from_text(bytes, limit), from_jsonl(bytes, "text", limit)].into_iter().flatten() {
        assert!(prompts.len() <= limit);
    }
    let Ok(fields) = serde_json::from_slice(bytes) else { return };
    let Ok(config) = ExtractionConfig::from_json(&fields) else { return };
    assert_eq!(ExtractionConfig::from_json(&config.to_json()).expect("a written config"), config);
});
