//! Published config.json files, checked against the known parameter counts of their models.

use std::fs;

use easyroutine::expected::{Expected, ExpectedTensor, expected};
use easyroutine::load::LoadOptions;
use easyroutine_files::ShardedSafeTensors;

use crate::common::{cases, fixtures};

/// Model, parameters of its decoder, and stored bytes if the config names the stored type.
const MODELS: &[(&str, u128, Option<u128>)] = &[
    ("DeepSeek-V2-Lite", 15_706_484_224, Some(31_412_968_448)),
    ("DeepSeek-V3-bf16", 671_026_419_200, Some(1_342_052_838_400)),
    ("OLMoE-1B-7B-0924", 6_919_161_856, Some(13_838_323_712)),
    ("mamba-130m-hf", 129_135_360, Some(516_541_440)),
    ("falcon-7b", 6_921_720_704, Some(13_843_441_408)),
    ("gpt-oss-20b", 20_914_757_184, None),
    ("SmolLM3-3B", 3_075_098_624, Some(6_150_197_248)),
    ("LFM2-1.2B", 1_170_340_608, Some(2_340_681_216)),
    ("recurrentgemma-2b", 2_682_862_080, Some(10_731_448_320)),
    ("Phi-3.5-MoE-instruct", 41_873_153_344, Some(83_746_306_688)),
    ("Qwen1.5-MoE-A2.7B", 14_315_784_192, Some(28_631_568_384)),
    ("Qwen3-Next-80B-A3B-Instruct", 79_674_391_296, Some(159_348_782_592)),
    ("TinyStories-33M", 68_514_048, Some(274_056_192)),
    ("starcoderbase-1b", 1_137_207_296, Some(4_548_829_184)),
];

/// A published config.
fn published(name: &str) -> Expected {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixtures().join(format!("published/{name}.json")), folder.path().join("config.json")).unwrap();
    expected(folder.path(), &LoadOptions::default()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn published_configs_ask_for_the_parameters_that_their_models_have() {
    let found: Vec<_> = MODELS
        .iter()
        .map(|(name, ..)| {
            let expected = published(name);
            (*name, expected.parameters(), expected.bytes())
        })
        .collect();
    assert_eq!(found, MODELS);
    let stored = fs::read_dir(fixtures().join("published")).unwrap().count();
    assert_eq!(stored, MODELS.len(), "a published config is not listed");
}

#[test]
fn a_config_alone_asks_for_the_tensors_that_the_file_has() {
    for case in cases("tiny") {
        let path = fixtures().join("tiny").join(&case);
        let asked =
            expected(&path, &LoadOptions::default()).unwrap_or_else(|error| panic!("{case}: {error}"));
        let weights = ShardedSafeTensors::open_folder(&path).unwrap();
        for ExpectedTensor { name, shape, .. } in &asked.tensors {
            let stored = weights.tensor(name).unwrap_or_else(|| panic!("{case}: no `{name}`"));
            assert_eq!(stored.shape(), shape, "{case}, {name}");
        }
    }
}

#[test]
fn more_tensors_than_any_model_has_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(fixtures().join("published/OLMoE-1B-7B-0924.json")).unwrap();
    let many = text.replace("\"num_experts\": 64", "\"num_experts\": 1000000");
    assert_ne!(text, many);
    fs::write(folder.path().join("config.json"), many).unwrap();
    let error = expected(folder.path(), &LoadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("more than 1048576 tensors"), "{error}");
}
