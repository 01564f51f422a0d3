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
    ("gpt2", 124_439_808, None),
    ("pythia-70m", 70_426_624, Some(140_853_248)),
    ("gpt-j-6b", 6_050_882_784, None),
    ("opt-125m", 125_239_296, Some(250_478_592)),
    ("bloom-560m", 559_214_592, None),
    ("Llama-3.2-1B", 1_235_814_400, Some(2_471_628_800)),
    ("Mistral-7B-v0.1", 7_241_732_096, Some(14_483_464_192)),
    ("Mixtral-8x7B-v0.1", 46_702_792_704, Some(93_405_585_408)),
    ("Qwen2.5-0.5B", 494_032_768, Some(988_065_536)),
    ("Qwen3-0.6B", 596_049_920, Some(1_192_099_840)),
    ("Qwen3-30B-A3B", 30_532_122_624, Some(61_064_245_248)),
    ("gemma-2b", 2_506_172_416, Some(5_012_344_832)),
    ("gemma-2-2b", 2_614_341_888, Some(10_457_367_552)),
    ("gemma-3-270m", 268_098_176, Some(536_196_352)),
    ("phi-2", 2_779_683_840, Some(5_559_367_680)),
    ("Phi-3-mini-4k-instruct", 3_821_079_552, Some(7_642_159_104)),
    ("OLMo-1B-hf", 1_176_764_416, Some(4_707_057_664)),
    ("OLMo-2-0425-1B", 1_484_916_736, Some(5_939_666_944)),
    ("stablelm-2-1_6b", 1_644_515_328, Some(3_289_030_656)),
    ("starcoder2-3b", 3_030_371_328, None),
    ("granite-3.0-2b-instruct", 2_533_531_648, Some(5_067_063_296)),
    ("falcon-mamba-7b", 7_272_665_088, Some(14_545_330_176)),
    ("Qwen3.5-0.8B", 752_393_024, Some(1_504_786_048)),
    ("Qwen3.5-35B-A3B", 34_660_610_688, Some(69_321_221_376)),
    ("NVIDIA-Nemotron-3-Nano-30B-A3B", 31_577_940_288, Some(63_155_880_576)),
    ("GLM-4.7-Flash", 29_943_393_920, Some(59_886_787_840)),
    ("gemma-4-E2B", 4_628_569_379, Some(9_257_138_758)),
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
