//! Pairs of prompts: both prompts of each pair are non-empty, and no more are read than requested.
#![no_main]

use easyroutine::prompts::{Prompt, ReadOptions, pairs_from_jsonl};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (limit, bytes) = input;
    let options = ReadOptions { limit: Some(usize::from(limit)), ..ReadOptions::default() };
    let mut pairs = Vec::new();
    let read = pairs_from_jsonl(bytes, &options, |pair| {
        pairs.push(pair);
        Ok(true)
    });
    if read.is_err() {
        return;
    }
    assert!(pairs.len() <= usize::from(limit) && pairs.is_sorted_by_key(|pair| pair.line));
    for prompt in pairs.iter().flat_map(|pair| [&pair.clean, &pair.corrupt]) {
        assert!(match prompt {
            Prompt::Text(text) => !text.is_empty(),
            Prompt::Ids(ids) => !ids.is_empty(),
            Prompt::Messages(_) => false,
        });
    }
});
