//! Files beside the weights, and tensors that no weight uses.

use easyroutine::load::{LoadOptions, load, open};

use super::says;
use crate::common::draft::{Draft, Stored};
use crate::common::{extract, fixtures, folder, relative_error, tensors_of};

fn surplus() -> Draft {
    let mut draft = Draft::of("llama");
    for layer in 0..2 {
        let name = format!("model.layers.{layer}.self_attn.k_scale");
        draft.tensors.insert(name, Stored::f32(&[1], [0.5]));
    }
    draft
}

#[test]
fn surplus_tensors_are_refused_together_and_passed_over_by_name_or_pattern() {
    let draft = surplus();
    let all = ["`model.layers.0.self_attn.k_scale`", "`model.layers.1.self_attn.k_scale`", "--allow-tensor"];
    says(draft.load(), &all);
    let written = draft.write();
    let allowing = |patterns: &[&str]| {
        let allowed_tensors = patterns.iter().map(|p| (*p).to_owned()).collect();
        load(&folder(written.path()), &LoadOptions { allowed_tensors, ..LoadOptions::default() })
    };
    says(
        allowing(&["model.layers.0.self_attn.k_scale"]),
        &["tensor `model.layers.1.self_attn.k_scale` has no place"],
    );
    let model = allowing(&["*.k_scale"]).unwrap();
    let [warning] = model.warnings() else { panic!("{:?}", model.warnings()) };
    assert!(warning.contains("skipped") && warning.contains("layers.1.self_attn.k_scale"), "{warning}");
}

#[test]
fn a_value_head_of_training_is_passed_over_with_a_warning() {
    let mut draft = Draft::of("llama");
    draft.tensors.insert("v_head.summary.weight".to_owned(), Stored::f32(&[1, 2], [1.0, 2.0]));
    draft.tensors.insert("v_head.summary.bias".to_owned(), Stored::f32(&[1], [1.0]));
    let model = draft.load().unwrap();
    let [warning] = model.warnings() else { panic!("{:?}", model.warnings()) };
    assert!(warning.contains("`v_head.summary.weight`") && warning.contains("value head"), "{warning}");
}

#[test]
fn unknown_keys_and_values_of_a_config_are_named_together() {
    let mut draft = Draft::of("llama");
    draft.set("attention_twist", 3).set("mlp_twist", 4).set("is_encoder_decoder", true);
    let words = ["`attention_twist`", "`mlp_twist`", "`is_encoder_decoder`", "--allow-config-key mlp_twist"];
    says(draft.open(), &words);
}

#[test]
fn files_beside_the_weights_that_are_not_read_are_spoken_of() {
    let written = Draft::of("llama").write();
    let warnings = || open(&folder(written.path()), &LoadOptions::default()).unwrap().warnings;
    assert!(warnings().is_empty());
    let write = |name: &str, text: &str| std::fs::write(written.path().join(name), text).unwrap();
    write("model.safetensors.index.json", "{}");
    write("quantize_config.json", "{}");
    write("adapter_model.safetensors", "");
    write(
        "modules.json",
        r#"[{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]"#,
    );
    let all = warnings().join("\n");
    for words in
        ["model.safetensors.index.json", "quantize_config.json", "adapter_model.safetensors", "Pooling"]
    {
        assert!(all.contains(words), "{all:?} does not say {words}");
    }
    // A copy of the same age raises no warning, a later training run does.
    write("pytorch_model.bin", "");
    assert!(!warnings().join("\n").contains("pytorch_model.bin"));
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(600);
    let file = std::fs::File::options().append(true).open(written.path().join("pytorch_model.bin")).unwrap();
    file.set_modified(later).unwrap();
    assert!(warnings().join("\n").contains("later than the weights that are: `pytorch_model.bin`"));
}

#[test]
fn quantised_tensors_are_refused_though_the_config_does_not_speak_of_them() {
    let mut draft = Draft::of("llama");
    draft.tensors.insert("model.layers.0.mlp.up_proj.qweight".to_owned(), Stored::f32(&[1], [0.5]));
    says(draft.open(), &["quantised", "qweight"]);
}

/// Experts in blocks of four-bit numbers match what transformers unpacks.
#[test]
fn blocks_of_mxfp4_are_the_weights_that_transformers_unpacks() {
    let place = fixtures().join("checkpoints/mxfp4");
    let model = load(&folder(&place), &LoadOptions::default()).unwrap();
    let references = tensors_of(&place.join("reference.safetensors"));
    let cache = extract(&model, &references["full.input_ids"].integers(), "logits", "all");
    let error = relative_error(cache.get("logits").unwrap().values(), &references["full.logits"].values);
    assert!(error < 1e-5, "{error:.1e}");
}

#[test]
fn attention_of_nemotron_h_has_no_biases_whatever_the_config_says() {
    let plain = Draft::of("nemotron_h");
    let mut flagged = Draft::of("nemotron_h");
    flagged.set("attention_bias", true);
    let logits = |draft: &Draft| extract(&draft.load().unwrap(), &[vec![5, 9, 7]], "logits", "all");
    let [one, other] = [&plain, &flagged].map(logits);
    assert_eq!(one.get("logits").unwrap().values(), other.get("logits").unwrap().values());
    let bias = Stored::f32(&[48], vec![0.0; 48]);
    flagged.tensors.insert("backbone.layers.2.mixer.q_proj.bias".to_owned(), bias);
    says(flagged.load(), &["`backbone.layers.2.mixer.q_proj.bias` has no place"]);
}
