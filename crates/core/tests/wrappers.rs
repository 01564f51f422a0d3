//! Models that read text and images: their decoders compared with transformers, in every spelling of their files.

use std::path::{Path, PathBuf};

use easyroutine::load::{LoadOptions, load};
use easyroutine::{Model, Result};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::common::{assert_same_bits, cases, extract, fixtures, folder, relative_error, tensors_of};

fn place(case: &str) -> PathBuf {
    fixtures().join("wrappers").join(case)
}

fn open(path: &Path) -> Result<Model> {
    load(&folder(path), &LoadOptions { threads: Some(2), ..LoadOptions::default() })
}

fn logits(model: &Model, case: &str) -> (Vec<f32>, Vec<f32>) {
    let references = tensors_of(&place(case).join("reference.safetensors"));
    let rows = references["text.input_ids"].integers();
    let cache = extract(model, &rows, "logits", "all");
    (cache.get("logits").unwrap().values().to_vec(), references["text.logits"].values.clone())
}

/// The model of a case with another config, and with renamed tensors.
fn changed(case: &str, config: &str, rename: impl Fn(&str) -> String) -> (tempfile::TempDir, Result<Model>) {
    let both = tempfile::tempdir().unwrap();
    std::fs::write(both.path().join("config.json"), config).unwrap();
    let bytes = std::fs::read(place(case).join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let renamed: Vec<(String, TensorView<'_>)> =
        tensors.iter().map(|(name, tensor)| (rename(name), tensor)).collect();
    safetensors::serialize_to_file(renamed, None, &both.path().join("model.safetensors")).unwrap();
    let model = open(both.path());
    (both, model)
}

fn config(case: &str, name: &str) -> String {
    std::fs::read_to_string(place(case).join(name)).unwrap()
}

#[test]
fn decoders_give_the_logits_of_transformers() {
    for case in cases("wrappers") {
        let model = open(&place(&case)).unwrap_or_else(|e| panic!("{case}: {e}"));
        let (ours, reference) = logits(&model, &case);
        // The logits of image tokens are f32's lowest number, beside which all others vanish.
        let is_real = |x: &f32| *x > f32::MIN;
        assert_eq!(
            ours.iter().position(|x| !is_real(x)),
            reference.iter().position(|x| !is_real(x)),
            "{case}"
        );
        let real = |values: Vec<f32>| -> Vec<f32> { values.into_iter().filter(is_real).collect() };
        let error = relative_error(&real(ours), &real(reference));
        assert!(error < 1e-5, "{case}: logits differ by {error:.2e}");
    }
}

#[test]
fn older_configs_are_the_same_models() {
    let mut read = 0;
    for case in cases("wrappers").into_iter().filter(|case| place(case).join("classic.json").exists()) {
        let (_folder, model) = changed(&case, &config(&case, "classic.json"), str::to_owned);
        let (older, newer) = (model.unwrap_or_else(|e| panic!("{case}: {e}")), open(&place(&case)).unwrap());
        assert_eq!(older.arch(), newer.arch(), "{case}");
        read += 1;
    }
    assert!(read >= 8, "only {read} older configs");
}

#[test]
fn decoders_are_found_under_every_prefix() {
    let spellings = [
        ("language_model.model.", "language_model.lm_head."),
        ("model.language_model.", "lm_head."),
        ("model.text_model.", "lm_head."),
        ("model.", "lm_head."),
    ];
    for case in ["gemma3", "llava", "qwen2_5_vl", "smolvlm", "idefics3"] {
        let (expected, _) = logits(&open(&place(case)).unwrap(), case);
        for (prefix, head) in spellings {
            let rename = |name: &str| {
                let rest = |(start, _): &(&str, &str)| {
                    let rest = name.strip_prefix(start)?;
                    ["layers.", "embed_tokens.", "norm."]
                        .iter()
                        .any(|part| rest.starts_with(part))
                        .then_some(rest)
                };
                match spellings.iter().find_map(rest) {
                    Some(rest) => format!("{prefix}{rest}"),
                    None if name.ends_with("lm_head.weight") => format!("{head}weight"),
                    None => name.to_owned(),
                }
            };
            let (_folder, model) = changed(case, &config(case, "config.json"), rename);
            let model = model.unwrap_or_else(|e| panic!("{case} under {prefix}: {e}"));
            assert_same_bits(format_args!("{case} under {prefix}"), &logits(&model, case).0, &expected);
        }
    }
}

#[test]
fn experts_with_inputs_first_are_those_with_outputs_first() {
    let case = "qwen3_vl_moe";
    let (expected, _) = logits(&open(&place(case)).unwrap(), case);
    let both = tempfile::tempdir().unwrap();
    std::fs::write(both.path().join("config.json"), config(case, "classic.json")).unwrap();
    let bytes = std::fs::read(place(case).join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let turned: Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| match *tensor.shape() {
            [experts, outputs, inputs] if name.contains(".experts.") => {
                let number = |e: usize, i: usize, o: usize| {
                    let at = 4 * ((e * outputs + o) * inputs + i);
                    &tensor.data()[at..at + 4]
                };
                let data = (0..experts * inputs * outputs)
                    .flat_map(|n| number(n / (inputs * outputs), n / outputs % inputs, n % outputs))
                    .copied()
                    .collect();
                (name.to_owned(), tensor.dtype(), vec![experts, inputs, outputs], data)
            }
            _ => (name.to_owned(), tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec()),
        })
        .collect();
    assert_eq!(turned.iter().filter(|(name, ..)| name.contains(".experts.")).count(), 4);
    let views = turned.iter().map(|(name, dtype, shape, data)| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &both.path().join("model.safetensors")).unwrap();
    let model = open(both.path()).unwrap();
    assert_same_bits(case, &logits(&model, case).0, &expected);
}

#[test]
fn what_is_left_out_is_named() {
    for (case, parts) in [
        ("gemma3", ["vision_tower.*", "multi_modal_projector.*"]),
        ("qwen3_vl", ["model.visual.*", "qwen3_vl"]),
        ("idefics3", ["model.vision_model.*", "model.connector.*"]),
    ] {
        let model = open(&place(case)).unwrap();
        let notes = model.warnings().join("\n");
        assert!(parts.iter().all(|part| notes.contains(part)), "{case}: {notes}");
    }
}

#[test]
fn places_of_images_are_refused() {
    for case in cases("wrappers") {
        let model = open(&place(&case)).unwrap();
        let Some(id) = model.arch().embed.placeholders.first().copied() else { panic!("{case}") };
        let batch = easyroutine::Batch::new(&[vec![5, id]]).unwrap();
        let error = model.forward(&batch, &mut ()).unwrap_err();
        assert!(
            error.to_string().contains(&format!("token id {id} at 1 holds the place of an image")),
            "{error}"
        );
    }
}

#[test]
fn unknown_keys_inside_and_outside_are_named_at_once() {
    let text = config("llava", "config.json");
    let text = text.replacen("\"text_config\": {", "\"odd\": 1, \"text_config\": {\"strange\": 2,", 1);
    let (_folder, model) = changed("llava", &text, str::to_owned);
    let error = model.unwrap_err().to_string();
    assert!(error.contains("`odd`") && error.contains("`text_config.strange`"), "{error}");
}
