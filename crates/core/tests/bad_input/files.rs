//! Files that are missing, truncated, or not what they claim to be.

use std::path::Path;

use easyroutine::load::{LoadOptions, load, open};
use easyroutine::source::{FilesKind, ModelFiles, ResolveOptions, resolve};
use easyroutine::{Error, ErrorKind, Model};

use super::refused;
use crate::common::draft::Draft;
use crate::common::{fixtures, folder};

fn load_folder(path: &Path) -> Result<Model, Error> {
    load(&folder(path), &LoadOptions { threads: Some(1), ..LoadOptions::default() })
}

#[test]
fn a_folder_without_weights_or_config_names_what_it_lacks() {
    let written = Draft::of("llama").write();
    let weights = written.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::remove_file(&weights).unwrap();
    refused(load_folder(written.path()), ErrorKind::NotFound, &["model.safetensors"]);
    std::fs::write(&weights, bytes).unwrap();
    std::fs::remove_file(written.path().join("config.json")).unwrap();
    refused(load_folder(written.path()), ErrorKind::Io, &["config.json"]);
}

#[test]
fn pickle_weights_are_refused_and_never_read() {
    for name in ["pytorch_model.bin", "model.pt", "consolidated.00.pth"] {
        let written = Draft::of("llama").write();
        std::fs::remove_file(written.path().join("model.safetensors")).unwrap();
        std::fs::write(written.path().join(name), "no pickle, but nobody looks").unwrap();
        let reference = written.path().display().to_string();
        let resolved = resolve(&reference, &ResolveOptions { offline: true, ..ResolveOptions::default() });
        refused(resolved, ErrorKind::Unsupported, &[name, "pickle", "never read", "save_pretrained"]);
    }
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    let written = Draft::of("llama").write();
    let path = written.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let lengths = (0..200).chain((200..whole.len()).step_by(whole.len() / 100)).chain([whole.len() - 1]);
    for length in lengths {
        std::fs::write(&path, &whole[..length]).unwrap();
        refused(load_folder(written.path()), ErrorKind::Format, &["model.safetensors"]);
    }
    std::fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    refused(load_folder(written.path()), ErrorKind::Format, &["model.safetensors"]);
}

#[test]
fn headers_that_promise_more_than_there_is_are_refused() {
    let written = Draft::of("llama").write();
    let path = written.path().join("model.safetensors");
    let one = |shape: &str, offsets: &str| {
        format!(r#"{{"model.norm.weight": {{"dtype": "F32", "shape": {shape}, "data_offsets": {offsets}}}}}"#)
    };
    let file = |length: u64, header: &str, data: usize| {
        [&length.to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
    };
    let fitting = |header: String, data| file(header.len() as u64, &header, data);
    let many =
        format!("{{{}}}", [r#""a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}"#; 9].join(","));
    for bytes in [
        file(u64::MAX, "{}", 0),
        file(1 << 62, "{}", 0),
        file(u64::MAX - 7, "{}", 0),
        file(99_999_999, "{}", 0),
        file(2, "{}", 5),
        fitting("[".repeat(100_000), 0),
        fitting(r#"{"a": {"#.repeat(50_000), 0),
        fitting(one("[48]", "[0, 18446744073709551615]"), 192),
        fitting(one("[48]", "[192, 0]"), 192),
        fitting(one("[48]", "[1, 193]"), 193),
        fitting(one("[4294967296, 4294967296]", "[0, 0]"), 0),
        fitting(one("[9223372036854775807, 3]", "[0, 192]"), 192),
        fitting(one("[-1]", "[0, 192]"), 192),
        fitting(one("[1e9]", "[0, 192]"), 192),
        fitting(many, 0),
        fitting("\u{0}\u{1}".to_owned(), 0),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let error = load_folder(written.path()).expect_err("a bad header");
        assert!([ErrorKind::Format, ErrorKind::Weights].contains(&error.kind()), "{error}");
    }
}

#[test]
fn an_index_that_leaves_the_folder_or_names_what_is_not_there_is_refused() {
    let written = Draft::of("llama").write();
    let weights = written.path().join("model.safetensors");
    std::fs::rename(&weights, written.path().join("part.safetensors")).unwrap();
    let index = written.path().join("model.safetensors.index.json");
    for (shard, name) in [
        ("../part.safetensors", "../part.safetensors"),
        ("/etc/passwd", "/etc/passwd"),
        ("gone.safetensors", "gone.safetensors"),
        ("part.safetensors", "no.such.tensor"),
    ] {
        std::fs::write(&index, format!(r#"{{"weight_map": {{"no.such.tensor": "{shard}"}}}}"#)).unwrap();
        let error = load_folder(written.path()).expect_err(shard);
        assert!(error.to_string().contains(name), "{error}");
    }
    for text in ["", "{}", "[]", r#"{"weight_map": 3}"#, r#"{"weight_map": {"a": 3}}"#] {
        std::fs::write(&index, text).unwrap();
        let error = load_folder(written.path()).expect_err(text);
        assert!(error.to_string().contains("index.json"), "{text}: {error}");
    }
}

fn open_gguf(path: &Path) -> Result<easyroutine::load::Opened, Error> {
    open(
        &ModelFiles {
            kind: FilesKind::Gguf(path.to_owned()),
            name: "x".to_owned(),
            commit: None,
            adapter: None,
        },
        &LoadOptions::default(),
    )
}

#[test]
fn a_gguf_file_that_is_cut_or_damaged_is_refused() {
    let source = fixtures().join("tokenizers/bytes.gguf");
    refused(open_gguf(&source), ErrorKind::Weights, &["bytes.gguf", "token_embd.weight"]);
    let whole = std::fs::read(source).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.gguf");
    for length in (0..whole.len()).step_by(97) {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = open_gguf(&path).expect_err("a cut file");
        assert!(error.to_string().contains("damaged.gguf"), "{length}: {error}");
    }
    for (at, bytes) in [
        (0, &b"GGML"[..]),
        (4, &99u32.to_le_bytes()),
        (8, &u64::MAX.to_le_bytes()),
        (16, &u64::MAX.to_le_bytes()),
        (24, &u64::MAX.to_le_bytes()),
        (8, &[0, 0, 0, 0, 1, 0, 0, 0]),
    ] {
        let mut damaged = whole.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&path, damaged).unwrap();
        let error = open_gguf(&path).expect_err("a damaged file");
        assert!(error.to_string().contains("damaged.gguf"), "{error}");
    }
    let missing = folder.path().join("none.gguf");
    assert!(open_gguf(&missing).expect_err("no file").to_string().contains("none.gguf"));
}
