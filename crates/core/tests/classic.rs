//! Configs in the spelling of most checkpoints, and weights under their older names, give the same models.

use std::path::PathBuf;

use easyroutine::load::{LoadOptions, load};
use easyroutine::{Dtype, Model};
use safetensors::tensor::Dtype as Stored;

use crate::common::draft::Draft;
use crate::common::{assert_same_bits, cases, extract, fixtures, folder, references, tiny_with};

/// Loads a classic case, with the tiny weights if it has none of its own.
fn classic(case: &str, options: &LoadOptions) -> Model {
    let own = fixtures().join("classic").join(case);
    let tiny = fixtures().join("tiny").join(case);
    let weights =
        [&own, &tiny].map(|folder| folder.join("model.safetensors")).into_iter().find(|path| path.exists());
    let both = tempfile::tempdir().unwrap();
    let copy = |from: PathBuf, name: &str| std::fs::copy(from, both.path().join(name)).unwrap();
    copy(own.join("config.json"), "config.json");
    copy(weights.unwrap(), "model.safetensors");
    load(&folder(both.path()), options).unwrap_or_else(|e| panic!("{case}: {e}"))
}

#[test]
fn a_model_in_the_older_spelling_gives_the_same_bits() {
    let own_weights =
        |case: &String| fixtures().join("classic").join(case).join("model.safetensors").exists();
    let cases = cases("classic");
    assert!(cases.iter().any(own_weights) && !cases.iter().all(own_weights));
    for case in cases {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let options = LoadOptions { dtype, threads: Some(2), ..LoadOptions::default() };
            let (older, newer) = (classic(&case, &options), tiny_with(&case, &options));
            assert_eq!(older.arch(), newer.arch(), "{case}");
            let rows = references(&case)["full.input_ids"].integers();
            let logits = |model: &Model| {
                extract(model, &rows, "logits", "all").get("logits").unwrap().values().to_vec()
            };
            assert_same_bits(format_args!("{case} {dtype:?}"), &logits(&older), &logits(&newer));
        }
    }
}

#[test]
fn every_tiny_model_of_a_family_has_its_older_spelling() {
    let (classic, tiny) = (cases("classic"), cases("tiny"));
    let model_type = |kind: &str, case: &String| {
        let text = std::fs::read(fixtures().join(kind).join(case).join("config.json")).unwrap();
        let config = easyroutine::config::Config::parse(&text).unwrap();
        config.as_map()["model_type"].as_str().unwrap().to_owned()
    };
    let types: Vec<String> = classic.iter().map(|case| model_type("classic", case)).collect();
    // Families introduced with transformers 5 have no older spelling.
    let newborn =
        ["glm4_moe_lite", "nanochat", "ministral", "ministral3", "qwen3_5_moe_text", "qwen3_5_text"];
    for case in tiny.iter().filter(|case| !newborn.contains(&case.as_str())) {
        assert!(types.contains(&model_type("tiny", case)), "{case}: no classic config of its family");
    }
}

/// Two-byte weights widen exactly.
#[test]
fn weights_stored_in_half_the_bytes_are_the_same_model() {
    for case in cases("tiny") {
        for (dtype, halve, widen) in [
            (Stored::BF16, bf16 as fn(f32) -> [u8; 2], from_bf16 as fn([u8; 2]) -> f32),
            (Stored::F16, f16, from_f16),
        ] {
            let (mut narrow, mut wide) = (Draft::of(&case), Draft::of(&case));
            for (name, tensor) in &mut narrow.tensors {
                let values = tensor.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
                let halves: Vec<[u8; 2]> = values.map(halve).collect();
                wide.tensor(name).bytes = halves.iter().flat_map(|b| widen(*b).to_le_bytes()).collect();
                (tensor.dtype, tensor.bytes) = (dtype, halves.concat());
            }
            let rows = references(&case)["full.input_ids"].integers();
            let logits = |draft: &Draft| {
                let model = draft.load().unwrap_or_else(|e| panic!("{case}: {e}"));
                extract(&model, &rows, "logits", "all").get("logits").unwrap().values().to_vec()
            };
            assert_same_bits(format_args!("{case} {dtype:?}"), &logits(&narrow), &logits(&wide));
        }
    }
}

fn bf16(x: f32) -> [u8; 2] {
    half::bf16::from_f32(x).to_le_bytes()
}

fn from_bf16(bytes: [u8; 2]) -> f32 {
    half::bf16::from_le_bytes(bytes).to_f32()
}

fn f16(x: f32) -> [u8; 2] {
    half::f16::from_f32(x).to_le_bytes()
}

fn from_f16(bytes: [u8; 2]) -> f32 {
    half::f16::from_le_bytes(bytes).to_f32()
}
