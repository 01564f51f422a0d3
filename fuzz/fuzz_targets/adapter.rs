//! An adapter's folder, config and tensors with a zero byte between them: opened or refused.
#![no_main]

use std::sync::LazyLock;

use easyroutine::adapter::{Adapter, base_of};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a temporary folder"));

fuzz_target!(|data: &[u8]| {
    let middle = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (config, tensors) = data.split_at(middle);
    let folder = FOLDER.path();
    std::fs::write(folder.join("adapter_config.json"), config).expect("a file in a temporary folder");
    let tensors = tensors.get(1..).unwrap_or_default();
    std::fs::write(folder.join("adapter_model.safetensors"), tensors).expect("a file in a temporary folder");
    let _ = base_of(folder);
    let Ok(adapter) = Adapter::open(folder, &[]) else { return };
    assert!(adapter.ranks().iter().all(|rank| *rank > 0));
    let _ = (adapter.changes(), adapter.parameters(), adapter.task());
});
