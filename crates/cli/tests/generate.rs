//! `run --generate`: text as it comes, draws, ends, chat.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{easyroutine, fails, json, path, succeeds, tiny};
use serde_json::Value;

fn continued(more: &[&str]) -> Value {
    let model = tiny("llama");
    json(&[&["run", "The quick brown", "-m", &model, "--generate", "9", "--format", "json"], more].concat())
}

fn ids(result: &Value) -> Vec<u64> {
    result["generated"].as_array().unwrap().iter().map(|t| t["id"].as_u64().unwrap()).collect()
}

#[test]
fn text_and_tokens_are_of_one_continuation() {
    let result = continued(&["--ignore-end"]);
    assert_eq!(result["schema"], "easyroutine.generate/1");
    assert_eq!((ids(&result).len(), &result["finish"]), (9, &Value::from("length")));
    let text = succeeds(&["run", "The quick brown", "-m", &tiny("llama"), "--generate", "9", "--ignore-end"]);
    assert_eq!(text.trim_end_matches('\n'), result["text"].as_str().unwrap().trim_end_matches('\n'));
    let table = succeeds(&[
        "run",
        "The quick brown",
        "-m",
        &tiny("llama"),
        "--generate",
        "2",
        "--ignore-end",
        "--format",
        "tsv",
    ]);
    assert_eq!(table.lines().count(), 3, "{table}");
    // What would be predicted next is what is generated next.
    let next = json(&["run", "The quick brown", "-m", &tiny("llama"), "-k", "1", "--format", "json"]);
    assert_eq!(next["top"][0]["id"], ids(&result)[0]);
}

#[test]
fn draws_are_the_same_for_the_same_seed() {
    let drawn = |seed| ids(&continued(&["--temperature", "2", "--ignore-end", "--seed", seed]));
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
    assert_eq!(ids(&continued(&["--top-k", "1"])), ids(&continued(&[])));
    assert_eq!(ids(&continued(&["--temperature", "0"])), ids(&continued(&[])));
}

#[test]
fn interventions_hold_while_it_generates() {
    let (clean, changed) = (continued(&[]), continued(&["--intervene", "resid_in_1@all=0"]));
    assert_ne!(ids(&clean), ids(&changed));
    assert_eq!(changed["interventions"][0], "resid_in_1@all=0");
}

#[test]
fn it_ends_before_a_stop_string_and_at_the_ends_of_the_generation_config() {
    let whole = continued(&["--ignore-end"]);
    let text = whole["text"].as_str().unwrap();
    let stop: String = text.chars().skip(2).take(2).collect();
    let cut = continued(&["--ignore-end", "--stop", &stop]);
    assert_eq!(cut["text"].as_str().unwrap(), text.split(&stop).next().unwrap());
    assert_eq!(cut["finish"], "stopped");

    let folder = common::copy("llama");
    let end = ids(&whole)[1];
    std::fs::write(folder.path().join("generation_config.json"), format!("{{\"eos_token_id\": [{end}]}}"))
        .unwrap();
    let ended = json(&["run", "The quick brown", "-m", path(&folder), "--generate", "9", "--format", "json"]);
    assert_eq!((ids(&ended), &ended["finish"]), (ids(&whole)[..2].to_vec(), &Value::from("end")));
}

#[test]
fn a_chat_goes_through_the_template() {
    let folder = common::copy("llama");
    let template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}{% if add_generation_prompt %}>{% endif %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let chat = [
        "run",
        "Hi",
        "-m",
        path(&folder),
        "--chat",
        "--system",
        "Be brief.",
        "--format",
        "json",
        "--generate",
        "2",
    ];
    let result = json(&chat);
    let said: String =
        result["tokens"].as_array().unwrap().iter().map(|t| t["text"].as_str().unwrap()).collect();
    assert_eq!(said, "[system] Be brief. [user] Hi >");
    let message = fails(1, &["run", "Hi", "-m", &tiny("llama"), "--chat"]);
    assert!(message.contains("no chat template"), "{message}");
}

#[test]
fn what_means_nothing_is_a_usage_error() {
    for (more, part) in [
        (&["--temperature", "-1"][..], "temperature -1"),
        (&["--top-p", "1.5"], "top-p 1.5"),
        (&["--top-k", "0"], "top-k 0"),
        (&["--temperature", "0", "--top-k", "4"], "draws nothing"),
    ] {
        let model = tiny("llama");
        let arguments = [&["run", "Hi", "-m", &model, "--generate", "3"], more].concat();
        let message = fails(2, &arguments);
        assert!(message.contains(part), "{message}");
    }
    let output = easyroutine(&["run", "Hi", "-m", &tiny("llama"), "--stop", "x"])
        .assert()
        .code(2)
        .get_output()
        .clone();
    assert!(String::from_utf8(output.stderr).unwrap().contains("--generate"));
}

#[test]
fn activations_of_new_tokens_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.safetensors");
    let model = tiny("llama");
    let asked =
        ["extract", "The quick brown", "-m", &model, "-a", "input_ids,resid_out_1", "--generate", "9"];
    let keep = |more: &[&str]| {
        succeeds(&[&asked, more, &["--ignore-end", "-o", file.to_str().unwrap()]].concat());
        std::fs::read(&file).unwrap()
    };
    let bytes = keep(&["--positions", "all", "--positions", "last"]);
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let kept = tensors.tensor("input_ids").unwrap();
    let kept: Vec<u64> =
        kept.data().chunks_exact(8).map(|x| u64::from_le_bytes(x.try_into().unwrap())).collect();
    let result = continued(&["--ignore-end"]);
    let prompt: Vec<u64> =
        result["tokens"].as_array().unwrap().iter().map(|t| t["id"].as_u64().unwrap()).collect();
    // Every token, then the last of the prompt.
    assert_eq!(kept, [&prompt[..], &ids(&result), &prompt[prompt.len() - 1..]].concat());
    let changed = ["--intervene", "resid_in_1@all=0"];
    assert_ne!(keep(&changed), keep(&[]));
    // A store keeps the same.
    let base = format!("{}/", path(&folder));
    succeeds(&[&asked[..], &["--ignore-end", "-o", &base]].concat());
    let shown = json(&["runs", "-b", &base, "load", "-1", "input_ids", "--format", "json"]);
    assert_eq!(shown["shape"][1], kept.len() - 1);
}
