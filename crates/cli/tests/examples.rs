//! The examples of the help, run in their order in one folder, on a small model.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::common::{easyroutine, fixtures, tiny};

/// What the examples read: prompts, pairs, labels.
fn prepare(folder: &std::path::Path) {
    let long = "the cat sat on the mat and the dog sat on the cat and the mat sat on the dog and more";
    // Both halves of the file have a prompt that is long enough for a Jacobian lens.
    let prompts = [long, &long.replace("cat", "hat"), "the cat sat", "hello there"];
    fs::write(folder.join("texts.txt"), prompts.join("\n")).unwrap();
    let pairs = ["cat", "dog", "mat"].map(|what| {
        json!({"positive": format!("a good {what}"), "negative": format!("a bad {what}")}).to_string()
    });
    fs::write(folder.join("pairs.jsonl"), pairs.join("\n")).unwrap();
    let labelled: Vec<String> = (0..12)
        .map(|i| {
            let [text, label] = if i % 2 == 0 { ["sat", "good"] } else { ["ran", "bad"] };
            json!({"text": format!("the cat {text} {i}"), "label": label}).to_string()
        })
        .collect();
    fs::write(folder.join("labelled.jsonl"), labelled.join("\n")).unwrap();
}

#[cfg(unix)]
#[test]
fn every_example_of_the_help_runs() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    for (name, target) in
        [("sae", "dictionaries/saelens_standard"), ("transcoders", "dictionaries/circuit_tracer_plt")]
    {
        std::os::unix::fs::symlink(fixtures().join(target), folder.path().join(name)).unwrap();
    }
    // A store follows no links.
    fs::create_dir(folder.path().join("old_runs")).unwrap();
    let copied = Command::new("cp")
        .arg("-r")
        .arg(fixtures().join("store/original/first"))
        .arg(folder.path().join("old_runs"))
        .status();
    assert!(copied.unwrap().success());
    let program = easyroutine(&[]);
    let name = program.get_program().to_str().unwrap().to_owned();
    // A server does not end; the tests of `serve` start it.
    let examples = include_str!("../src/args/examples.txt").lines().filter(|line| !line.contains(" serve "));
    for example in examples {
        let line = example.replace("smollm2", &tiny("gpt2")).replacen("easyroutine", &format!("'{name}'"), 1);
        let mut command = Command::new("sh");
        command.args(["-euc", &line]).current_dir(folder.path());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let out = command.output().unwrap();
        assert!(out.status.success(), "{example}\n{}", String::from_utf8_lossy(&out.stderr));
    }
}
