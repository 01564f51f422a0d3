//! Regular expressions of a tokenizer.json on a text: pieces lie in the text, in order, and nothing is lost.
#![no_main]

use std::fs;

use easyroutine::tokens::{Bos, Tokenizer};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|input: &str| {
    let Some((pattern, text)) = input.split_once('\0') else { return };
    if text.len() > 200 {
        return;
    }
    // Every byte is a token, so that only the cuts matter.
    let vocabulary: serde_json::Map<_, _> =
        (0..256u32).map(|id| (char::from_u32(0x100 + id).unwrap_or(' ').to_string(), json!(id))).collect();
    let split =
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let file = json!({
        "version": "1.0",
        "normalizer": {"type": "Replace", "pattern": {"Regex": pattern}, "content": "\u{101}"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes]},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("tokenizer.json"), file.to_string()).expect("a temporary file");
    let Ok(tokenizer) = Tokenizer::from_folder(folder.path()) else { return };
    let Ok(encoded) = tokenizer.encode(text, Bos::No) else { return };
    assert_eq!(encoded.ids.len(), encoded.offsets.len());
    assert!(encoded.offsets.iter().all(|&(start, end)| text.get(start..end).is_some()));
    assert!(encoded.offsets.is_sorted_by_key(|&(start, _)| start));
    assert_eq!(tokenizer.encode(text, Bos::No).expect("the same again"), encoded);
});
