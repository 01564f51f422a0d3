//! Fixtures, models and comparisons.

use std::path::{Path, PathBuf};

use easyroutine::load::{LoadOptions, load};
use easyroutine::source::{FilesKind, ModelFiles};
use easyroutine::{Cpu, Model, Simd};
use easyroutine_dictionaries::{Dictionary, Options};
use easyroutine_files::ShardedSafeTensors;
use serde_json::Value;

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// One dictionary with its references.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) expect: Value,
    pub(crate) reference: ShardedSafeTensors,
}

/// Every folder of `fixtures/dictionaries`.
pub(crate) fn cases() -> Vec<Case> {
    let root = fixtures().join("dictionaries");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    assert!(folders.len() >= 31, "{} cases", folders.len());
    folders.into_iter().map(Case::open).collect()
}

impl Case {
    fn open(folder: PathBuf) -> Case {
        let expect = serde_json::from_slice(&std::fs::read(folder.join("expect.json")).unwrap()).unwrap();
        let reference = ShardedSafeTensors::open(folder.join("reference.safetensors")).unwrap();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        Case { name, folder, expect, reference }
    }

    /// The case with a name.
    pub(crate) fn named(name: &str) -> Case {
        Case::open(fixtures().join("dictionaries").join(name))
    }

    /// What its own files do not say.
    pub(crate) fn options(&self) -> Options {
        let needs = self.text("format") == "saelens";
        let norm_factor = self.expect["norm_factor"].as_f64().filter(|_| needs);
        Options { norm_factor, ..Options::default() }
    }

    pub(crate) fn dictionary(&self) -> Dictionary {
        Dictionary::open(&self.folder, &self.options()).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    pub(crate) fn text(&self, key: &str) -> &str {
        self.expect[key].as_str().unwrap_or_else(|| panic!("{}: no {key}", self.name))
    }

    pub(crate) fn size(&self, key: &str) -> usize {
        self.expect[key].as_u64().unwrap_or_else(|| panic!("{}: no {key}", self.name)) as usize
    }

    /// A reference tensor.
    pub(crate) fn tensor(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensor = self.reference.tensor(name).unwrap_or_else(|| panic!("{}: no {name}", self.name));
        (tensor.shape().to_vec(), tensor.read_all().unwrap())
    }

    /// The rows of ids used for references of whole runs.
    pub(crate) fn rows(&self) -> Vec<Vec<u32>> {
        let tensor = self.reference.tensor("input_ids").unwrap();
        let ids = tensor.bytes().as_chunks::<8>().0.iter().map(|id| i64::from_le_bytes(*id) as u32);
        ids.collect::<Vec<u32>>().chunks(tensor.shape()[1]).map(<[u32]>::to_vec).collect()
    }

    pub(crate) fn model(&self) -> Model {
        tiny(self.text("model"))
    }
}

/// A tiny model of the fixtures.
pub(crate) fn tiny(name: &str) -> Model {
    let folder = FilesKind::Folder(fixtures().join("tiny").join(name));
    let files = ModelFiles { kind: folder, name: name.to_owned(), commit: None, adapter: None };
    load(&files, &LoadOptions { threads: Some(2), ..LoadOptions::default() }).unwrap()
}

pub(crate) fn cpu() -> Cpu {
    Cpu::new(Simd::best(), 2)
}

/// Fails if the largest difference exceeds a share of the largest value.
#[track_caller]
pub(crate) fn assert_near(what: &str, found: &[f32], expected: &[f32], share: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: numbers");
    let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    let (at, difference) = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .enumerate()
        .fold((0, 0f32), |most, (i, d)| if d > most.1 || d.is_nan() { (i, d) } else { most });
    assert!(
        difference <= share * largest,
        "{what}: {} and {} at {at}, {:.1e} of the largest, {largest}",
        found[at],
        expected[at],
        difference / largest
    );
}
