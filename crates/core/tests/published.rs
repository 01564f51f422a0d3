//! Published config.json files, checked against the known parameter counts of their models.

use std::fs;

use easyroutine::expected::{Expected, ExpectedTensor, expected};
use easyroutine::families::{FAMILIES, WRAPPERS};
use easyroutine::load::LoadOptions;
use easyroutine_files::ShardedSafeTensors;

use crate::common::{cases, fixtures};

/// Model, parameters of its decoder as transformers counts them, and stored bytes if the config names the stored type.
///
/// `mamba2-130m-hf`, `chameleon-7b` and `paligemma-3b-pt-224` are what transformers' scripts make of the published
/// parameters, `MiniMax-M2-bf16` is MiniMax-M2's without `quantization_config`.
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
    ("AFM-4.5B-Base", 4_619_184_640, Some(9_238_369_280)),
    // With the two constants per layer that its files hold and transformers does not count.
    ("Apertus-8B-2509", 8_053_338_240, Some(16_106_676_480)),
    ("ERNIE-4.5-0.3B-PT", 360_748_032, Some(721_496_064)),
    ("ERNIE-4.5-21B-A3B-PT", 21_825_437_888, Some(43_650_875_776)),
    ("EXAONE-4.0-1.2B", 1_279_391_488, Some(2_558_782_976)),
    ("Falcon-H1-0.5B-Base", 521_411_104, Some(1_042_822_208)),
    ("GLM-4-9B-0414", 9_400_279_040, Some(18_800_558_080)),
    ("GLM-4.5-Air", 106_852_251_264, Some(213_704_502_528)),
    ("Hunyuan-4B-Instruct", 4_221_757_440, Some(8_443_514_880)),
    ("MiniMax-M2-bf16", 228_689_764_864, None),
    ("Ministral-3-3B-Base-2512", 3_429_006_336, Some(6_858_012_672)),
    ("Ministral-8B-Instruct-2410", 8_019_808_256, Some(16_039_616_512)),
    ("Mistral-Small-3.1-24B-Base-2503", 22_901_314_560, Some(45_802_629_120)),
    ("NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16", 549_308_993_536, Some(1_098_617_987_072)),
    ("Nemotron-Mini-4B-Instruct", 4_190_509_056, Some(8_381_018_112)),
    ("Olmo-3-7B-Instruct", 7_298_011_136, Some(14_596_022_272)),
    ("Qwen2-VL-2B-Instruct", 1_543_714_304, Some(3_087_428_608)),
    ("Qwen2.5-VL-3B-Instruct", 3_085_938_688, Some(6_171_877_376)),
    ("Qwen3-VL-30B-A3B-Instruct", 30_532_122_624, Some(61_064_245_248)),
    ("Qwen3-VL-4B-Thinking", 4_022_468_096, Some(8_044_936_192)),
    ("Seed-OSS-36B-Instruct", 36_151_104_512, Some(72_302_209_024)),
    ("SmolVLM2-256M-Video-Instruct", 162_974_016, Some(651_896_064)),
    ("biogpt", 346_763_264, None),
    ("c4ai-command-a-03-2025", 111_057_580_032, Some(222_115_160_064)),
    ("c4ai-command-r-v01", 34_980_831_232, Some(69_961_662_464)),
    ("llava-v1.6-mistral-7b-hf", 7_242_256_384, Some(14_484_512_768)),
    ("paligemma-3b-pt-224", 2_508_662_784, Some(10_034_651_136)),
    ("chameleon-7b", 7_013_666_816, None),
    ("codegen-350M-mono", 356_712_448, Some(713_424_896)),
    ("gemma-3-4b-it", 3_880_263_168, Some(7_760_526_336)),
    ("glm-4-9b-chat-hf", 9_399_951_360, Some(18_799_902_720)),
    ("granite-3.0-1b-a400m-base", 1_334_625_280, None),
    ("granite-4.0-h-1b", 1_461_538_368, Some(2_923_076_736)),
    ("granite-4.0-h-small", 32_207_337_984, Some(64_414_675_968)),
    ("helium-1-preview-2b", 2_172_643_840, Some(4_345_287_680)),
    ("llava-1.5-7b-hf", 6_738_939_904, Some(13_477_879_808)),
    ("llava-onevision-qwen2-0.5b-ov-hf", 494_090_112, Some(988_180_224)),
    ("mamba2-130m-hf", 128_989_632, None),
    ("mpt-7b", 6_649_286_656, Some(13_298_573_312)),
    ("nanochat-d20", 560_988_160, Some(1_121_976_320)),
    ("persimmon-8b-base", 9_397_175_296, Some(18_794_350_592)),
    ("vaultgemma-1b", 1_038_741_120, Some(2_077_482_240)),
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

/// Families without a published config, and wrappers whose config is not known in full.
const WITHOUT: &[&str] = &[
    // Its only public checkpoint is a test of IBM's, whose config is not known.
    "granitemoeshared",
    "idefics3",
];

#[test]
fn every_family_and_every_wrapper_has_a_published_config() {
    let found: Vec<_> = MODELS.iter().map(|(name, ..)| published(name).reading).collect();
    let lacking: Vec<&str> = FAMILIES
        .iter()
        .map(|family| family.model_type)
        .filter(|family| !found.iter().any(|reading| reading.family.model_type == *family))
        .chain(
            WRAPPERS
                .iter()
                .map(|wrapper| wrapper.model_type)
                .filter(|wrapper| !found.iter().any(|reading| reading.wrapper == Some(*wrapper))),
        )
        .collect();
    assert_eq!(lacking, WITHOUT);
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
