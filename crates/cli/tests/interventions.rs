//! `--intervene` on the commands that run a model.

use crate::common;

use common::{fails, json, succeeds, tiny};
use easyroutine_files::ShardedSafeTensors;

const PROMPT: &str = "The quick brown fox jumps";

fn top(interventions: &[&str]) -> serde_json::Value {
    let model = tiny("llama");
    let mut arguments = vec!["run", PROMPT, "-m", &model, "--format", "json", "-k", "3"];
    for intervention in interventions {
        arguments.extend(["--intervene", intervention]);
    }
    json(&arguments)
}

#[test]
fn an_intervention_changes_the_prediction_and_is_named_in_the_result() {
    let clean = top(&[]);
    let changed = top(&["resid_out_1@last=0", "mlp_out_2@\"text:quick\"*0.5"]);
    assert_eq!(clean["interventions"], serde_json::json!([]));
    assert_eq!(changed["interventions"][0], "resid_out_1@last=0");
    assert_ne!(clean["top"], changed["top"]);
    assert_eq!(top(&["resid_out_1@all*1"])["top"], clean["top"]);
}

#[test]
fn random_positions_follow_the_seed() {
    let model = tiny("llama");
    for command in ["run", "lens"] {
        let asked =
            [command, PROMPT, "-m", &model, "--format", "json", "--intervene", "resid_out_0@random-text=0"];
        let read = |seed: &str| succeeds(&[&asked[..], &["--seed", seed]].concat());
        assert_eq!(read("3"), read("3"));
        let found: std::collections::BTreeSet<String> = ["1", "2", "3", "4", "5", "6"].map(read).into();
        assert!(found.len() > 1, "{command}");
    }
}

#[test]
fn what_was_extracted_can_be_put_into_another_run() {
    let folder = tempfile::tempdir().unwrap();
    let (model, file) = (tiny("llama"), folder.path().join("base.safetensors"));
    let file = file.to_str().unwrap();
    let extract = |out: &str, prompt: &str, more: &[&str]| {
        succeeds(
            &[
                &[
                    "extract",
                    prompt,
                    "-m",
                    &model,
                    "-o",
                    out,
                    "-a",
                    "resid_out_1,logits",
                    "--positions",
                    "last",
                ],
                more,
            ]
            .concat(),
        );
        let file = ShardedSafeTensors::open(out).unwrap();
        ["resid_out_1", "logits"].map(|name| file.tensor(name).unwrap().read_all().unwrap())
    };
    let [stream, logits] = extract(file, "Other words", &[]);
    let other = folder.path().join("patched.safetensors");
    let patch = format!("resid_out_1@last=\"{file}::resid_out_1\"");
    let [patched, after] = extract(other.to_str().unwrap(), PROMPT, &["--intervene", &patch]);
    assert_eq!(patched, stream);
    assert_ne!(after, logits);
    let held = ShardedSafeTensors::open(&other).unwrap();
    assert_eq!(held.metadata()["interventions"], serde_json::json!([patch]).to_string());
}

#[test]
fn the_lens_reads_the_changed_layers() {
    let model = tiny("llama");
    let lens = |more: &[&str]| {
        let cells = json(&[&["lens", PROMPT, "-m", &model, "--format", "json", "-k", "1"], more].concat());
        let tops = |layer: &serde_json::Value| {
            let cells = layer["positions"].as_array().unwrap().iter();
            (layer["name"].clone(), cells.map(|cell| cell["top"].clone()).collect::<Vec<_>>())
        };
        cells["layers"].as_array().unwrap().iter().map(tops).collect::<Vec<_>>()
    };
    let (clean, changed) = (lens(&[]), lens(&["--intervene", "resid_in_1@2=0"]));
    for ((name, clean), (_, changed)) in clean.iter().zip(&changed) {
        let comes_before = name == "resid_out_0" || name == "input_embeddings";
        assert_eq!(clean == changed, comes_before, "{name}");
    }
    assert_eq!(clean.len(), 4);
}

#[test]
fn a_wrong_intervention_is_a_usage_error() {
    for (intervention, part) in [
        ("resid_outt_1@last=0", "did you mean `resid_out_1`?"),
        ("resid_out_1", "after `@`"),
        ("resid_out_1@99=0", "position `99` is outside the row"),
        ("resid_out_9@last=0", "the model has 3 layers"),
        ("resid_out_1@last=row:1", "the batch has one row"),
    ] {
        for command in [&["run"][..], &["lens"], &["extract", "-a", "logits", "-o", "/tmp/never.safetensors"]]
        {
            let model = tiny("llama");
            let message = fails(2, &[command, &[PROMPT, "-m", &model, "--intervene", intervention]].concat());
            assert!(message.contains(part), "{command:?} {intervention}: {message}");
        }
    }
}
