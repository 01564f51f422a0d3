//! `lens --tuned`: layers read through the translators of a tuned lens.

use crate::common;

use common::{easyroutine, fails, json, succeeds, tiny};
use serde_json::Value;
use tempfile::TempDir;

const PROMPT: &str = "the cat sat";

fn fixture() -> String {
    common::fixtures().join("torch/tuned_lens").to_str().unwrap().to_owned()
}

/// A copy of the fixture with another config value.
fn with_config(key: &str, value: Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(format!("{}/params.pt", fixture()), folder.path().join("params.pt")).unwrap();
    let text = std::fs::read(format!("{}/config.json", fixture())).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    config[key] = value;
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

fn lens(more: &[&str]) -> Value {
    let model = tiny("llama");
    json(&[&["lens", PROMPT, "-m", &model, "--format", "json"], more].concat())
}

#[test]
fn every_layer_but_the_last_is_read_otherwise_and_the_report_says_by_which_lens() {
    let (plain, tuned) = (lens(&[]), lens(&["--tuned", &fixture()]));
    assert_eq!(plain["settings"]["tuned"], Value::Null);
    let expected =
        serde_json::json!({"name": "tuned_lens", "base_model": "tiny/llama", "base_revision": null});
    assert_eq!(tuned["settings"]["tuned"], expected);
    for layer in 0..3 {
        assert_ne!(plain["layers"][layer]["positions"], tuned["layers"][layer]["positions"], "{layer}");
        assert_eq!(plain["layers"][layer]["name"], tuned["layers"][layer]["name"]);
    }
    assert_eq!(plain["layers"][3], tuned["layers"][3]);
    assert_eq!(plain["final_top"], tuned["final_top"]);
}

#[test]
fn what_enters_a_layer_and_what_left_the_one_before_are_read_alike() {
    let fixture = fixture();
    for norm in ["own", "cached", "none"] {
        let of = |component: &str| lens(&["--tuned", &fixture, "--component", component, "--norm", norm]);
        let (out, entering) = (of("resid_out"), of("resid_in"));
        // The embedding, then layers: the stream that enters layer 0 is the embedding.
        assert_eq!(entering["layers"][1]["positions"], out["layers"][0]["positions"], "{norm}");
        for layer in 1..3 {
            assert_eq!(
                entering["layers"][layer + 1]["positions"],
                out["layers"][layer]["positions"],
                "{norm}"
            );
        }
    }
}

#[test]
fn every_form_of_output_is_written_and_pictures_name_the_lens() {
    let (model, fixture) = (tiny("llama"), fixture());
    let folder = tempfile::tempdir().unwrap();
    for ending in ["txt", "tsv", "csv", "md", "json", "html", "svg", "png"] {
        let file = folder.path().join(format!("a.{ending}"));
        succeeds(&["lens", PROMPT, "-m", &model, "--tuned", &fixture, "-o", file.to_str().unwrap()]);
        let bytes = std::fs::read(file).unwrap();
        // Markdown has a backslash before each sign.
        let text = String::from_utf8_lossy(&bytes).replace('\\', "");
        match ending {
            // Tables of numbers have exactly their columns.
            "tsv" | "csv" => assert!(text.lines().count() == 1 + 4 * 7 && !text.contains("tuned"), "{text}"),
            "png" => assert!(bytes.starts_with(b"\x89PNG")),
            _ => assert!(text.contains("tuned_lens") && text.contains("tiny/llama"), "{ending}: {text}"),
        }
        assert_eq!(text.contains("Tuned lens"), ["html", "svg"].contains(&ending), "{ending}");
    }
}

#[test]
fn a_lens_that_does_not_fit_says_what_does_not() {
    let model = tiny("llama");
    let refused = |code: i32, folder: &str, more: &[&str]| {
        fails(code, &[&["lens", PROMPT, "-m", &model, "--tuned", folder], more].concat())
    };
    let of = |key: &str, value: Value| refused(2, with_config(key, value).path().to_str().unwrap(), &[]);
    let message = of("d_model", 64.into());
    assert!(
        message.contains("--tuned: ") && message.contains("`d_model` is 64, but the model's is 48"),
        "{message}"
    );
    let message = of("num_hidden_layers", 12.into());
    assert!(message.contains("`num_hidden_layers` is 12, but the model's is 3"), "{message}");
    assert!(of("lens_type", "other".into()).contains("linear_tuned_lens is what is read"));
    let message = refused(1, "/nonexistent", &[]);
    assert!(
        message.contains("/nonexistent/config.json") && message.contains("hint: a tuned lens is"),
        "{message}"
    );
    let without = with_config("bias", true.into());
    std::fs::remove_file(without.path().join("params.pt")).unwrap();
    assert!(refused(1, without.path().to_str().unwrap(), &[]).contains("params.pt"));
    for component in ["resid_mid", "attn_out", "head_out"] {
        let message = refused(2, &fixture(), &["--component", component]);
        assert!(message.contains("no translator for") && message.contains("hint: it reads"), "{message}");
    }
}

#[test]
fn a_lens_of_another_model_is_read_with_a_warning() {
    let told = |model: &str, folder: &str| {
        let args = ["lens", PROMPT, "-m", model, "--tuned", folder, "--format", "json"];
        String::from_utf8(easyroutine(&args).assert().success().get_output().stderr.clone()).unwrap()
    };
    // The fixture has no hash, but names the model.
    assert_eq!(told(&tiny("llama"), &fixture()), "");
    let other = told(&tiny("llama3"), &fixture());
    assert!(
        other.contains("warning: tuned_lens was trained on tiny/llama, and this model is llama3"),
        "{other}"
    );
    let own = "d6c5cfc6a94c476eba7fe388c2811e0636ba32d91c5448a1d7b25850faea5bd6";
    let hashed = with_config("unembed_hash", own.into());
    let hashed = hashed.path().to_str().unwrap();
    assert_eq!(told(&tiny("llama"), hashed), "");
    let other = told(&tiny("llama3"), hashed);
    assert!(other.contains("warning: ") && other.contains("with another unembedding"), "{other}");
}

#[test]
fn a_lens_that_is_trained_here_has_the_hash_that_the_tuned_lens_package_computes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("p.txt"), "the cat sat\na dog ran\n").unwrap();
    let (model, lens) = (tiny("gpt2"), path("lens"));
    succeeds(&["tune", "--file", &path("p.txt"), "-m", &model, "--steps", "1", "--rows", "2", "-o", &lens]);
    let config: Value = serde_json::from_slice(&std::fs::read(lens + "/config.json").unwrap()).unwrap();
    let hash = "7655da0d5f74eedb6d6dd83fc00129275b4a959543eee8b984c08e9c6c45734f";
    assert_eq!(config["unembed_hash"], hash);
}
