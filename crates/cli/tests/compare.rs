//! `model check --compare`, with and without the run in f64.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{easyroutine, fails, fixtures, tiny};

/// Activations of the references of llama under our names, one of them times a factor.
fn dump(scaled: &str, by: f32) -> (TempDir, PathBuf) {
    let bytes = fs::read(fixtures().join("tiny/llama/reference.safetensors")).unwrap();
    let references = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = ["input_ids", "resid_out_0", "resid_out_1", "mlp_out_2", "logits"].map(|name| {
        let tensor = references.tensor(&format!("full.{name}")).unwrap();
        let mut data = tensor.data().to_vec();
        if name == scaled {
            for bytes in data.as_chunks_mut::<4>().0 {
                *bytes = (f32::from_le_bytes(*bytes) * by).to_le_bytes();
            }
        }
        (name, tensor.dtype(), tensor.shape().to_vec(), data)
    });
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dump.safetensors");
    safetensors::serialize_to_file(views, None, &file).unwrap();
    (folder, file)
}

/// Its JSON and what it says, with this exit status.
fn checked(code: i32, file: &Path, more: &[&str]) -> (Value, String) {
    let model = tiny("llama");
    let file = file.to_str().unwrap();
    let args = [&["model", "check", &model, "--compare", file, "--format", "json"], more].concat();
    let assert = easyroutine(&args).assert().code(code);
    let output = assert.get_output();
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

#[test]
fn the_run_in_f64_says_who_is_wrong() {
    let (_folder, file) = dump("", 1.0);
    let (json, _) = checked(0, &file, &["--exact"]);
    assert_eq!((&json["same"], &json["first_wrong"]), (&true.into(), &Value::Null));
    let places = json["places"].as_array().unwrap();
    assert_eq!(places.len(), 4);
    for place in places {
        let exact = &place["exact"];
        assert_eq!(exact["wrong"], "none");
        for side in ["file", "ours"] {
            assert!(exact[side]["error"].as_f64().unwrap() < 1e-5, "{place}");
            assert!((exact[side]["magnitude"].as_f64().unwrap() - 1.0).abs() < 1e-5, "{place}");
            assert!(exact[side]["cosine"].as_f64().unwrap() > 1.0 - 1e-9, "{place}");
        }
    }
    let (_folder, file) = dump("resid_out_1", -2.0);
    let (json, said) = checked(1, &file, &["--exact"]);
    assert_eq!((&json["first_wrong"], &json["wrong"]), (&"resid_out_1".into(), &"file".into()));
    let exact = &json["places"][1]["exact"];
    assert!((exact["file"]["magnitude"].as_f64().unwrap() - 2.0).abs() < 1e-5, "{exact}");
    assert!((exact["file"]["cosine"].as_f64().unwrap() + 1.0).abs() < 1e-9, "{exact}");
    assert!(said.contains("the first place that is wrong is resid_out_1: the file is, we are not"), "{said}");
    // Rounded weights are held against those that are not.
    let (json, _) = checked(1, &file, &["--exact", "--dtype", "bf16"]);
    let ours = json["places"][0]["exact"]["ours"]["error"].as_f64().unwrap();
    assert!(ours > 1e-5 && ours < 5e-2, "{ours}");
}

#[test]
fn a_table_has_both_beside_the_run_in_f64() {
    let (_folder, file) = dump("mlp_out_2", 3.0);
    let (model, file) = (tiny("llama"), file.to_str().unwrap().to_owned());
    let args = ["model", "check", &model, "--compare", &file, "--exact", "--format", "tsv"];
    let output = easyroutine(&args).assert().code(1).get_output().stdout.clone();
    let table = String::from_utf8(output).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows[0][..4], ["wrong", "activation", "file error", "file magnitude"]);
    assert_eq!((rows[1][0], rows[1][1]), ("none", "resid_out_0"));
    let wrong = rows.iter().find(|row| row[1] == "mlp_out_2").unwrap();
    assert_eq!((wrong[0], wrong[4]), ("FILE", "1.000000000"));
    assert!((wrong[3].parse::<f64>().unwrap() - 3.0).abs() < 1e-4, "{wrong:?}");
}

#[test]
fn the_run_in_f64_is_of_a_comparison() {
    let refused = fails(2, &["model", "check", &tiny("llama"), "--exact"]);
    assert!(refused.contains("--compare"), "{refused}");
}
