//! Families against the checkpoints and configs of `fixtures/`.

mod defaults;
mod expected;
mod gguf;
mod refused;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::*;
use expected::expected;

/// Reads a config from its text.
fn read_text(text: &str) -> Result<Reading> {
    read(&Config::parse(text.as_bytes())?, &[])
}

/// Reads a config from JSON.
fn read_json(value: &Value) -> Result<Reading> {
    read_text(&value.to_string())
}

fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(kind)
}

/// Model folders under `fixtures/KIND`; finding none is an error.
fn cases(kind: &str) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(folder(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").exists())
        .collect();
    all.sort();
    assert!(all.len() > 20, "fixtures/{kind} holds {} models", all.len());
    all
}

fn config_of(folder: &Path) -> String {
    fs::read_to_string(folder.join("config.json")).unwrap()
}

/// Names and shapes in the header of a safetensors file.
fn header(file: &Path) -> BTreeMap<String, Vec<usize>> {
    let bytes = fs::read(file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let map: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let shape = |v: &Value| serde_json::from_value(v["shape"].clone()).unwrap();
    map.iter().filter(|(name, _)| *name != "__metadata__").map(|(name, v)| (name.clone(), shape(v))).collect()
}

#[test]
fn both_spellings_of_every_model_say_the_same() {
    let tiny = folder("tiny");
    for case in cases("classic") {
        let name = case.file_name().unwrap();
        let classic = read_text(&config_of(&case)).unwrap_or_else(|e| panic!("classic {name:?}: {e}"));
        let modern = read_text(&config_of(&tiny.join(name))).unwrap_or_else(|e| panic!("{name:?}: {e}"));
        assert_eq!(classic.arch, modern.arch, "{name:?}");
        assert_eq!(classic.names, modern.names, "{name:?}");
    }
}

#[test]
fn names_and_shapes_are_those_of_every_checkpoint() {
    for kind in ["tiny", "classic"] {
        for case in cases(kind) {
            let file = case.join("model.safetensors");
            if kind == "classic" && !file.exists() {
                continue;
            }
            let reading = read_text(&config_of(&case)).unwrap_or_else(|e| panic!("{case:?}: {e}"));
            let names = &reading.names;
            let is_buffer = |name: &str| {
                let ends = |end: &&str| name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
                names.ignored.iter().any(ends)
            };
            // A checkpoint may omit the base model's prefix.
            let bare = |name: &str| name.strip_prefix(names.prefix).unwrap_or(name).to_owned();
            let stored: BTreeMap<String, Vec<usize>> = header(&file)
                .into_iter()
                .filter(|(name, _)| !is_buffer(name))
                .map(|(name, shape)| (bare(&name), shape))
                .collect();
            let expected: BTreeMap<String, Vec<usize>> = expected(&reading.arch, names)
                .into_iter()
                .map(|(name, shape)| (bare(&name), shape))
                .collect();
            assert_eq!(expected, stored, "{case:?}");
        }
    }
}

#[test]
fn every_family_has_a_fixture() {
    let wrapped: Vec<PathBuf> = fs::read_dir(folder("wrappers"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").exists())
        .collect();
    let readings: Vec<Reading> = cases("tiny")
        .iter()
        .chain(&wrapped)
        .map(|case| read_text(&config_of(case)).unwrap_or_else(|e| panic!("{case:?}: {e}")))
        .collect();
    for wrapper in WRAPPERS {
        let is_its = |reading: &Reading| reading.wrapper == Some(wrapper.model_type);
        assert!(readings.iter().any(is_its), "{} has no fixture", wrapper.model_type);
    }
    let read: Vec<&str> = readings.iter().map(|reading| reading.family.model_type).collect();
    for family in FAMILIES {
        assert!(read.contains(&family.model_type), "{} has no fixture", family.model_type);
    }
}
