//! Lines of prompts and extraction configs: everything read stays within the limit, and a config reads back to the
//! same.
#![no_main]

use easyroutine::extraction::ExtractionConfig;
use easyroutine::prompts::{ReadOptions, from_jsonl, from_table, from_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (limit, bytes) = input;
    let limit = usize::from(limit);
    for skip_empty in [false, true] {
        let options = ReadOptions { limit: Some(limit), skip_empty, ..ReadOptions::default() };
        let tables = [b',', b'\t'].map(|between| from_table(bytes, between, &options));
        let lines = [from_text(bytes, &options), from_jsonl(bytes, &options)];
        for found in lines.into_iter().chain(tables).flatten() {
            assert!(found.prompts.len() <= limit && found.rows.len() == found.prompts.len());
            assert!(found.rows.is_sorted() && (skip_empty || found.skipped == 0));
        }
    }
    let Ok(fields) = serde_json::from_slice(bytes) else { return };
    let Ok(config) = ExtractionConfig::from_json(&fields) else { return };
    assert_eq!(ExtractionConfig::from_json(&config.to_json()).expect("a written config"), config);
});
