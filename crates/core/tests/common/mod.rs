//! Fixtures and reference tensors, shared by the tests of this crate.

pub(crate) mod draft;
pub(crate) mod folder;
pub(crate) mod lora;
pub(crate) mod taps;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyroutine::cache::ActivationCache;
use easyroutine::load::{LoadOptions, load};
use easyroutine::positions::{Context, Row};
use easyroutine::request::Request;
use easyroutine::source::{FilesKind, ModelFiles};
use easyroutine::{Batch, Model};
use easyroutine_files::ShardedSafeTensors;
use proptest::collection::vec;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The folder of fixtures.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// Names of all cases in `fixtures/KIND`, sorted; a case is a folder with a config.
pub(crate) fn cases(kind: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(fixtures().join(kind))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("config.json").exists())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no fixtures in {kind}");
    names
}

/// The name of a model's unembedding, if it has its own.
pub(crate) fn unembedding_of(case: &str) -> &'static str {
    match case {
        "biogpt" => "output_projection.weight",
        "gpt_neox" => "embed_out.weight",
        _ => "lm_head.weight",
    }
}

/// A folder as model files.
pub(crate) fn folder(path: impl Into<PathBuf>) -> ModelFiles {
    let path = path.into();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    ModelFiles { kind: FilesKind::Folder(path), name, commit: None, adapter: None }
}

/// A tiny model on two threads.
pub(crate) fn tiny(case: &str) -> Model {
    tiny_with(case, &LoadOptions { threads: Some(2), ..LoadOptions::default() })
}

/// A tiny model with other options.
pub(crate) fn tiny_with(case: &str, options: &LoadOptions) -> Model {
    let files = folder(fixtures().join("tiny").join(case));
    load(&files, options).unwrap_or_else(|e| panic!("{case}: {e}"))
}

/// Runs rows and keeps the named activations.
pub(crate) fn extract(
    model: &Model,
    rows: &[Vec<u32>],
    activations: &str,
    positions: &str,
) -> ActivationCache {
    let batch = Batch::new(rows).unwrap();
    let request = Request::parse(activations, positions).unwrap();
    let rows: Vec<Row<'_>> = rows.iter().enumerate().map(|(number, ids)| Row::of(number, ids)).collect();
    request.run(model, &batch, &rows, Context::default()).unwrap_or_else(|e| panic!("{activations}: {e}"))
}

/// Whether a model has an activation.
pub(crate) fn has(model: &Model, key: &str) -> bool {
    model.arch().lacks(key.parse().unwrap()).is_none()
}

/// The patterns among these that match an activation of the model.
pub(crate) fn those_of(model: &Model, patterns: &str) -> String {
    let names = |pattern: &&str| {
        let request = Request::parse(pattern, "all").unwrap();
        request.points(model.arch()).is_ok()
    };
    patterns.split(',').filter(names).collect::<Vec<_>>().join(",")
}

/// Fails if two lists of numbers differ in a bit, naming the first place.
#[track_caller]
pub(crate) fn assert_same_bits(place: impl std::fmt::Display, ours: &[f32], other: &[f32]) {
    assert_eq!(ours.len(), other.len(), "{place}: number of values");
    let differing = ours.iter().zip(other).position(|(a, b)| a.to_bits() != b.to_bits());
    if let Some(at) = differing {
        panic!("{place}: value {at} of {} is {} here and {} there", ours.len(), ours[at], other[at]);
    }
}

/// Fails unless `property` holds for `cases` values, showing the smallest failing one. The values are the same in every
/// run.
#[track_caller]
pub(crate) fn holds<S: Strategy>(name: &str, cases: u32, values: S, property: impl Fn(S::Value)) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let result = runner.run(&values, |value| {
        property(value);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{name}: {error}");
    }
}

/// One to four rows of ids that a model can run, longer than any block of its arithmetic.
pub(crate) fn some_rows(model: &Model) -> impl Strategy<Value = Vec<Vec<u32>>> + use<> {
    let (longest, vocabulary) = (model.arch().context.min(40), model.arch().vocabulary as u32);
    vec(vec(0..vocabulary, 1..=longest), 1..=4)
}

/// A reference tensor.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

impl Reference {
    /// Rows of integers, for ids and masks.
    pub(crate) fn integers(&self) -> Vec<Vec<u32>> {
        self.values.chunks(self.shape[1]).map(|row| row.iter().map(|x| *x as u32).collect()).collect()
    }
}

/// All reference tensors of a case.
pub(crate) fn references(case: &str) -> BTreeMap<String, Reference> {
    tensors_of(&fixtures().join("tiny").join(case).join("reference.safetensors"))
}

/// All tensors of a file.
pub(crate) fn tensors_of(path: &Path) -> BTreeMap<String, Reference> {
    let file = ShardedSafeTensors::open(path).unwrap();
    file.names()
        .map(|name| {
            let tensor = file.tensor(name).unwrap();
            let values = match tensor.encoding() {
                easyroutine_files::Encoding::I64 => tensor
                    .bytes()
                    .chunks_exact(8)
                    .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32)
                    .collect(),
                easyroutine_files::Encoding::Bool => tensor.bytes().iter().map(|b| f32::from(*b)).collect(),
                _ => tensor.read_all().unwrap(),
            };
            (name.to_owned(), Reference { shape: tensor.shape().to_vec(), values })
        })
        .collect()
}

/// Largest difference relative to the largest value.
pub(crate) fn relative_error(ours: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(ours.len(), reference.len(), "number of values");
    let largest = reference.iter().fold(0f64, |m, x| m.max(f64::from(x.abs())));
    let difference = |(a, b): (&f32, &f32)| {
        if a.is_nan() != b.is_nan() { f64::INFINITY } else { f64::from((a - b).abs()) }
    };
    ours.iter().zip(reference).map(difference).fold(0.0, f64::max) / largest.max(f64::MIN_POSITIVE)
}
