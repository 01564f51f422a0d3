//! Running the program on fixtures, and models with a single fault.
#![allow(dead_code, reason = "some of it is used with a feature alone")]

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// The program, isolated from the user's settings.
pub(crate) fn easyroutine(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("easyroutine").unwrap();
    for (name, _) in std::env::vars() {
        if name.starts_with("HF_") || (name.starts_with("EASYROUTINE_") && name != "EASYROUTINE_SIMD") {
            command.env_remove(name);
        }
    }
    // The test's own index, not the user's.
    command.env("EASYROUTINE_CACHE", std::env::temp_dir().join("easyroutine-tests"));
    command.env("HF_HOME", "/nonexistent").env_remove("COLUMNS").env_remove("NO_COLOR").args(args);
    command
}

/// Runs it and returns standard output; fails unless it succeeds.
#[track_caller]
pub(crate) fn succeeds(args: &[&str]) -> String {
    let output = easyroutine(args).assert().success().get_output().stdout.clone();
    String::from_utf8(output).unwrap()
}

/// Runs it, expecting a failure, and returns standard error.
#[track_caller]
pub(crate) fn fails(code: i32, args: &[&str]) -> String {
    let output = easyroutine(args).assert().code(code).get_output().stderr.clone();
    String::from_utf8(output).unwrap()
}

/// Standard output as JSON.
#[track_caller]
pub(crate) fn json(args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(args)).unwrap()
}

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// The folder of a tiny model.
pub(crate) fn tiny(case: &str) -> String {
    fixtures().join("tiny").join(case).to_str().unwrap().to_owned()
}

/// A copy of a tiny model that may be changed.
pub(crate) fn copy(case: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(Path::new(&tiny(case)).join(name), folder.path().join(name)).unwrap();
    }
    folder
}

/// A copy with a changed config.
pub(crate) fn with_config(case: &str, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> TempDir {
    let folder = copy(case);
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(config.as_object_mut().unwrap());
    std::fs::write(&path, config.to_string()).unwrap();
    folder
}

/// A tensor: name, type, shape, bytes.
pub(crate) type Stored = (String, safetensors::Dtype, Vec<usize>, Vec<u8>);

/// A copy with changed tensors, which come in the order of their names.
pub(crate) fn with_tensors(case: &str, change: impl FnOnce(&mut Vec<Stored>)) -> TempDir {
    let folder = copy(case);
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let mut tensors: Vec<Stored> = safetensors::SafeTensors::deserialize(&bytes)
        .unwrap()
        .iter()
        .map(|(name, t)| (name.to_owned(), t.dtype(), t.shape().to_vec(), t.data().to_vec()))
        .collect();
    // The reader's own order differs from run to run.
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    change(&mut tensors);
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    folder
}

pub(crate) fn path(folder: &TempDir) -> &str {
    folder.path().to_str().unwrap()
}
