//! The contents of a run: rejected, or within the run's own files, with lengths that fit.
#![no_main]

use easyroutine_store::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(manifest) = Manifest::parse(data) else { return };
    let _ = (manifest.digest(), manifest.n_bytes());
    for shard in &manifest.shards {
        assert!(shard.file.starts_with("data/") && !shard.file.contains(".."));
        assert!(shard.tensors.iter().all(|part| part.offset + part.len <= shard.bytes));
    }
    for entry in &manifest.tensors {
        let shape = manifest.shape(entry);
        assert!(shape.is_empty() || shape[1..] == entry.row_shape[..]);
    }
});
