//! A safetensors file: opened or refused; every tensor of one that opens is read or refused.
#![no_main]

use std::sync::LazyLock;

use easyroutine_files::Container;
use libfuzzer_sys::{Corpus, fuzz_target};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a temporary folder"));

fuzz_target!(|data: &[u8]| -> Corpus {
    let path = FOLDER.path().join("model.safetensors");
    std::fs::write(&path, data).expect("a file in a temporary folder");
    let Ok(container) = Container::open(&path) else { return Corpus::Keep };
    for name in container.names() {
        let tensor = container.tensor(name).expect("a tensor that the file names");
        assert!(tensor.bytes().len() <= data.len());
        if let Ok(values) = tensor.read_all() {
            assert_eq!(values.len(), tensor.shape().iter().product::<usize>());
        }
    }
    Corpus::Keep
});
