//! Tokenization where a model's files leave it open.

use crate::common;

use std::fs;

use common::{copy, easyroutine, fails, fixtures, json, path};
use serde_json::{Value, json as object};

fn ids(args: &[&str]) -> Vec<u64> {
    let tokens = json(&[&["tokens"], args, &["--format", "json"]].concat());
    tokens["tokens"].as_array().unwrap().iter().map(|token| token["id"].as_u64().unwrap()).collect()
}

/// Standard error of a command that succeeds.
#[track_caller]
fn said(args: &[&str]) -> String {
    String::from_utf8(easyroutine(args).assert().success().get_output().stderr.clone()).unwrap()
}

#[test]
fn a_rule_for_cutting_text_can_be_named_for_a_gguf_file_alone() {
    let file = fixtures().join("tokenizers/bytes.gguf");
    let file = file.to_str().unwrap();
    let text = "It's 12345  678 caf\u{e9}";
    assert_ne!(ids(&[text, "-m", file, "--pre", "llama-bpe"]), ids(&[text, "-m", file, "--pre", "gpt-2"]));
    let unknown = fails(4, &["tokens", text, "-m", file, "--pre", "made-up"]);
    assert!(unknown.contains("`made-up`") && unknown.contains("--pre llama-bpe"), "{unknown}");
    let folder = copy("llama");
    let refused = fails(2, &["tokens", text, "-m", path(&folder), "--pre", "gpt-2"]);
    assert!(refused.contains("`gpt-2` names a rule for GGUF files"), "{refused}");
}

#[test]
fn files_that_disagree_are_warned_of() {
    let folder = copy("llama");
    let quiet = said(&["tokens", "Hello", "-m", path(&folder)]);
    assert!(!quiet.contains("warning"), "{quiet}");
    let config = folder.path().join("tokenizer_config.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    settings["add_bos_token"] = object!(true);
    fs::write(&config, settings.to_string()).unwrap();
    let warned = said(&["tokens", "Hello", "-m", path(&folder)]);
    assert!(warned.contains("`add_bos_token` of tokenizer_config.json is true"), "{warned}");
    // The post-processor is followed, which adds nothing.
    assert_eq!(ids(&["Hello", "-m", path(&folder)]), ids(&["Hello", "-m", path(&folder), "--bos", "no"]));
}

#[test]
fn model_check_says_which_roads_to_token_ids_were_compared() {
    let folder = copy("llama");
    let law = |holds: bool| {
        let mut command = easyroutine(&["model", "check", path(&folder), "--format", "json"]);
        let output = command.assert().code(if holds { 0 } else { 1 }).get_output().stdout.clone();
        let checked: Value = serde_json::from_slice(&output).unwrap();
        let laws = checked["laws"].as_array().unwrap().clone();
        laws.into_iter().find(|law| law["law"] == "token ids are the same by every road").unwrap()
    };
    let found = law(true);
    assert_eq!(found["place"], "the folder, its export as a folder");
    // A GGUF file next to it with another vocabulary.
    fs::copy(fixtures().join("tokenizers/bytes.gguf"), folder.path().join("other.gguf")).unwrap();
    let found = law(false);
    assert_eq!(found["holds"], false);
    let place = found["place"].as_str().unwrap();
    assert!(
        place.starts_with("other.gguf differs at ") && place.ends_with("as a folder, other.gguf"),
        "{place}"
    );
}

#[test]
fn of_a_text_that_is_too_long_its_beginning_is_cut() {
    let folder = copy("llama");
    let file = folder.path().join("long.txt");
    fs::write(&file, "the cat sat on the mat and said so ".repeat(60_000)).unwrap();
    let run = ["run", "--file", file.to_str().unwrap(), "-m", path(&folder)];
    let refused = fails(2, &run);
    assert!(refused.contains("the prompt has more than ") && refused.contains("--truncate"), "{refused}");
    let kept = said(&[run.as_slice(), &["--truncate"]].concat());
    assert!(kept.contains("kept the first ") && kept.contains(" of more than "), "{kept}");
    let listed = fails(2, &["tokens", "--file", file.to_str().unwrap(), "-m", path(&folder)]);
    assert!(listed.contains("has more than 1048576 tokens; 1048576 are listed at most"), "{listed}");
}
