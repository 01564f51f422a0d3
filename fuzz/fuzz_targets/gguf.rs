//! A GGUF file: opened or rejected; then its config and tensor names read as a model, and its tokenizer encodes and
//! decodes a text.
#![no_main]

use std::sync::LazyLock;

use easyroutine::load::LoadOptions;
use easyroutine::source::{FilesKind, ModelFiles};
use easyroutine::tokens::{Bos, Tokenizer};
use easyroutine_files::{Gguf, GgufFile};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    // The library turns panics of the crate `tokenizers` into errors. The fuzzing engine's hook would end the run
    // before that; an uncaught panic still ends it.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    TempDir::new().expect("a temporary folder")
});

fuzz_target!(|data: &[u8]| {
    if Gguf::parse(data).is_err() {
        return;
    }
    let path = FOLDER.path().join("model.gguf");
    std::fs::write(&path, data).expect("a file in a temporary folder");
    // One part of several is refused: the others are not there.
    let Ok(file) = GgufFile::open(&path) else {
        assert!(Gguf::parse(data).is_ok_and(|gguf| gguf.metadata.contains_key("split.count")));
        return;
    };
    for name in file.names() {
        let tensor = file.tensor(name).expect("a tensor that the file names");
        if let Ok(values) = tensor.read_all() {
            assert_eq!(values.len(), tensor.shape().iter().product::<usize>());
        }
    }
    let files =
        ModelFiles { name: "fuzzed".into(), kind: FilesKind::Gguf(path), commit: None, adapter: None };
    let _ = easyroutine::load::open(&files, &LoadOptions::default());
    let Ok(tokenizer) = Tokenizer::from_gguf(file.gguf()) else { return };
    if let Ok(encoded) = tokenizer.encode("a b ab café\n\n 42<s>", Bos::Auto) {
        assert_eq!(encoded.ids.len(), encoded.offsets.len());
        let _ = tokenizer.decode(&encoded.ids, true);
    }
});
