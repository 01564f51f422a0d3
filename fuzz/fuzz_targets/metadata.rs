//! The commit record of a run: refused, or whole.
#![no_main]

use easyroutine_store::Metadata;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(metadata) = Metadata::parse(data) else { return };
    assert!(metadata.store().is_some());
    let _ = (
        metadata.run_id(),
        metadata.revision(),
        metadata.tags(),
        metadata.digest(),
        metadata.count("n_bytes"),
    );
    assert!(metadata.user().all(|(key, _)| key != "_store"));
});
