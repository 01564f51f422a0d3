//! `attn` in every format, compared with the patterns from `extract`.

use crate::common;

use common::{fails, json, succeeds, tiny};
use easyroutine_files::ShardedSafeTensors;

const PROMPT: &str = "the cat sat on the mat";

#[test]
fn every_weight_is_that_of_the_extracted_pattern() {
    let model = tiny("llama");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.safetensors");
    succeeds(&["extract", PROMPT, "-m", &model, "-a", "pattern_*", "-o", out.to_str().unwrap()]);
    let file = ShardedSafeTensors::open(&out).unwrap();
    let report = json(&["attn", PROMPT, "-m", &model, "--format", "json"]);
    assert_eq!(report["schema"], "easyroutine.attn/1");
    let n = report["tokens"].as_array().unwrap().len();
    let heads = report["heads"].as_array().unwrap();
    assert_eq!(heads.len(), 12);
    for head in heads {
        let key = format!("pattern_L{}H{}", head["layer"], head["head"]);
        let values = file.tensor(&key).unwrap().read_all().unwrap();
        for (query, row) in head["weights"].as_array().unwrap().iter().enumerate() {
            let row: Vec<f32> = row.as_array().unwrap().iter().map(|w| w.as_f64().unwrap() as f32).collect();
            assert_eq!(row, values[query * n..=query * n + query], "{key}, query {query}");
        }
    }
}

#[test]
fn layers_and_heads_are_chosen() {
    let model = tiny("llama");
    let chosen = |flags: &[&str]| {
        let report = json(&[&["attn", PROMPT, "-m", &model, "--format", "json"], flags].concat());
        let heads = report["heads"].as_array().unwrap();
        heads.iter().map(|h| format!("{}.{}", h["layer"], h["head"])).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(chosen(&["--layer", "1", "--head", "2"]), "1.2");
    assert_eq!(chosen(&["--layer", "-1", "--head", "0:2"]), "2.0 2.1");
    assert_eq!(chosen(&["--head", "3"]), "0.3 1.3 2.3");
    assert!(fails(2, &["attn", PROMPT, "-m", &model, "--layer", "3"]).contains("no such layer"));
    assert!(fails(2, &["attn", PROMPT, "-m", &model, "--head", "x"]).contains("names no heads"));
}

#[test]
fn a_knocked_out_column_is_seen() {
    let model = tiny("llama");
    let args = ["attn", PROMPT, "-m", &model, "--layer", "1", "--head", "0", "--format", "json"];
    let knock_out = ["--intervene", "pattern_L1H0@pre:columns:0=-inf"];
    let report = json(&[&args[..], &knock_out].concat());
    let rows = report["heads"][0]["weights"].as_array().unwrap();
    assert!(rows.iter().all(|row| row[0].as_f64() == Some(0.0)));
    assert!(rows[2][1].as_f64().unwrap() > 0.0);
}

#[test]
fn every_format_is_written_by_its_ending() {
    let model = tiny("llama");
    let folder = tempfile::tempdir().unwrap();
    for (ending, begins) in [
        ("svg", "<svg"),
        ("html", "<!doctype html>"),
        ("tsv", "layer\thead\tquery\tquery_token\tkey\tkey_token\tweight\n"),
        ("csv", "layer,head,"),
        ("md", "| layer | head |"),
        ("json", "{\"schema\":\"easyroutine.attn/1\""),
        ("txt", "llama · llama"),
    ] {
        let file = folder.path().join(format!("a.{ending}"));
        succeeds(&["attn", PROMPT, "-m", &model, "--hide-first", "-o", file.to_str().unwrap()]);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with(begins), "{ending}: {}", &text[..60]);
    }
    let png = folder.path().join("a.png");
    succeeds(&["attn", PROMPT, "-m", &model, "--layer", "0", "--head", "0", "-o", png.to_str().unwrap()]);
    assert_eq!(std::fs::read(&png).unwrap()[..4], *b"\x89PNG");
}
