//! Fixtures, models and graphs.

use std::path::{Path, PathBuf};

use easyroutine::load::{LoadOptions, load};
use easyroutine::source::{FilesKind, ModelFiles};
use easyroutine::{Model, Stop};
use easyroutine_dictionaries::{Dictionary, Options as DictionaryOptions};
use easyroutine_files::ShardedSafeTensors;
use easyroutine_graphs::{Graph, Options};
use serde_json::Value;

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// One graph with its references.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) expect: Value,
    pub(crate) written: Value,
    pub(crate) reference: ShardedSafeTensors,
}

/// Every folder of `fixtures/graphs`.
pub(crate) fn cases() -> Vec<Case> {
    let root = fixtures().join("graphs");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    assert!(folders.len() >= 3, "{} cases", folders.len());
    folders.into_iter().map(Case::open).collect()
}

impl Case {
    fn open(folder: PathBuf) -> Case {
        let json = |file: &str| serde_json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap();
        let reference = ShardedSafeTensors::open(folder.join("graph.safetensors")).unwrap();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        Case { name, expect: json("graph.json"), written: json("circuit_tracer.json"), reference }
    }

    pub(crate) fn model(&self) -> Model {
        tiny(self.expect["model"].as_str().unwrap())
    }

    pub(crate) fn dictionary(&self) -> Dictionary {
        dictionary(self.expect["set"].as_str().unwrap())
    }

    pub(crate) fn ids(&self) -> Vec<u32> {
        self.expect["input_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    }

    /// The settings of the whole graph.
    pub(crate) fn options(&self) -> Options {
        let expect = &self.expect;
        Options {
            max_logits: expect["max_n_logits"].as_u64().unwrap() as usize,
            probability: expect["desired_logit_prob"].as_f64().unwrap(),
            ..Options::default()
        }
    }

    pub(crate) fn graph(&self, options: &Options) -> Graph {
        graph(&self.model(), &self.dictionary(), &self.ids(), options)
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let tensor = self.reference.tensor(name).unwrap_or_else(|| panic!("{}: no {name}", self.name));
        tensor.read_all().unwrap()
    }

    /// Whole numbers of one or eight bytes.
    pub(crate) fn integers(&self, name: &str) -> Vec<i64> {
        let tensor = self.reference.tensor(name).unwrap_or_else(|| panic!("{}: no {name}", self.name));
        let bytes = tensor.bytes();
        let n: usize = tensor.shape().iter().product();
        bytes.chunks_exact(bytes.len() / n.max(1)).map(little_endian).collect()
    }
}

fn little_endian(bytes: &[u8]) -> i64 {
    let mut eight = [0; 8];
    eight[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(eight)
}

pub(crate) fn dictionary(name: &str) -> Dictionary {
    let folder = fixtures().join("dictionaries").join(name);
    Dictionary::open(folder, &DictionaryOptions::default()).unwrap()
}

pub(crate) fn graph(model: &Model, dictionary: &Dictionary, ids: &[u32], options: &Options) -> Graph {
    Graph::new(model, dictionary, ids, options, Stop::Never, &mut |_, _| {}).unwrap()
}

/// A tiny model of the fixtures.
pub(crate) fn tiny(name: &str) -> Model {
    tiny_with(name, 2)
}

pub(crate) fn tiny_with(name: &str, threads: usize) -> Model {
    let folder = FilesKind::Folder(fixtures().join("tiny").join(name));
    let files = ModelFiles { kind: folder, name: name.to_owned(), commit: None, adapter: None };
    load(&files, &LoadOptions { threads: Some(threads), ..LoadOptions::default() }).unwrap()
}

/// Fails if the largest difference exceeds a share of the largest value.
#[track_caller]
pub(crate) fn assert_near(what: &str, found: &[f64], expected: &[f32], share: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: numbers");
    let largest = expected.iter().fold(0f64, |most, x| most.max(f64::from(x.abs())));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - f64::from(*expected)).abs();
        assert!(
            difference <= share * largest,
            "{what}: {found} and {expected} at {at}, {:.1e} of the largest, {largest}",
            difference / largest
        );
    }
}
