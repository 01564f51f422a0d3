//! `compare`: two checkpoints side by side.

use std::fs;

use serde_json::Value;

use crate::common::{easyroutine, fails, json, path, succeeds, tiny, with_config, with_tensors};

const CHANGED: &str = "model.layers.1.self_attn.o_proj.weight";

/// A copy of llama with one changed tensor.
fn other() -> tempfile::TempDir {
    with_tensors("llama", |tensors| {
        let (.., bytes) = tensors.iter_mut().find(|tensor| tensor.0 == CHANGED).unwrap();
        for value in bytes.as_chunks_mut::<4>().0.iter_mut().step_by(3) {
            *value = (f32::from_le_bytes(*value) * 1.1).to_le_bytes();
        }
    })
}

#[test]
fn the_changed_tensor_is_named_in_every_format() {
    let (model, other) = (tiny("llama"), other());
    let args = ["compare", &model, path(&other), "the cat sat on the mat"];
    let json = json(&[&args[..], &["--patch", "both", "--format", "json"]].concat());
    assert_eq!(json["schema"], "easyroutine.compare_models/1");
    assert_eq!((&json["equal"], &json["rows"]), (&Value::Bool(false), &1.into()));
    let first = &json["tensors"][0];
    assert_eq!(first["name"], CHANGED);
    assert_eq!((first["removed"].as_f64(), first["added"].as_f64()), (Some(1.0), Some(1.0)));
    assert_eq!((first["a"].as_str(), first["equal"].as_bool()), (Some("F32"), Some(false)));
    assert!(json["tensors"].as_array().unwrap()[1..].iter().all(|tensor| tensor["equal"] == true));
    assert_eq!(json["layers"][0]["layer"], -1);
    assert_eq!(
        (json["layers"][1]["error_max"].as_f64(), json["layers"][1]["kl_max"].as_f64()),
        (Some(0.0), Some(0.0))
    );
    assert!(json["layers"][2]["error"].as_f64().unwrap() > 0.0);
    assert_eq!(json["patched"]["kl"], json["layers"].as_array().unwrap().last().unwrap()["kl"]);
    let worst = json["worst"].as_array().unwrap();
    assert_eq!(worst.len(), json["tokens"].as_u64().unwrap() as usize);
    assert_eq!(worst[0]["layers"].as_array().unwrap().len(), json["layers"].as_array().unwrap().len());

    let tsv = succeeds(&args);
    assert!(tsv.starts_with("layer\terror\terror max\tcosine\tcosine min\tnan\tkl\tkl max\ttop changed\n-1\t0\t0\t1\t1\t0\t0\t0\t0\n"), "{tsv}");
    let tensors = succeeds(&[&args[..], &["--table", "tensors"]].concat());
    assert!(tensors.lines().nth(1).unwrap().starts_with(&format!("{CHANGED}\tF32\tF32\t")), "{tensors}");
    let overview = succeeds(&[&args[..], &["--format", "table"]].concat());
    for part in [
        "Residual stream of B against A",
        "Tensors, the largest causes first",
        "Largest differences",
        CHANGED,
    ] {
        assert!(overview.contains(part), "{part}: {overview}");
    }
    for table in ["layers", "heads", "positions", "tokens", "worst"] {
        let csv = succeeds(&[&args[..], &["--table", table, "--format", "csv"]].concat());
        assert!(csv.lines().count() > 2, "{table}: {csv}");
    }
    let md = succeeds(&[&args[..], &["--format", "md"]].concat());
    assert!(md.contains("\n## Tensors"), "{md}");
}

#[test]
fn prompts_of_a_file_and_chosen_tensors() {
    let (model, other) = (tiny("llama"), other());
    let file = other.path().join("prompts.jsonl");
    fs::write(&file, "{\"text\": \"the cat sat\"}\n{\"text\": \"\"}\n{\"text\": \"on the mat\"}\n").unwrap();
    let file = file.to_str().unwrap();
    let args = ["compare", &model, path(&other), "--file", file, "--skip-empty", "--format", "json"];
    let of = |more: &[&str]| json(&[&args[..], more].concat());
    let whole = of(&["--tensor", "*.o_proj.weight", "--worst", "2"]);
    assert_eq!((&whole["rows"], whole["worst"].as_array().unwrap().len()), (&2.into(), 2));
    let patched = |json: &Value| -> Vec<String> {
        let tensors =
            json["tensors"].as_array().unwrap().iter().filter(|tensor| tensor.get("removed").is_some());
        tensors.map(|tensor| tensor["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(patched(&whole), [CHANGED]);
    assert!(patched(&of(&["--tensor", "*mlp*"])).is_empty());
    assert_eq!(of(&["--patch", "none"])["patched"], Value::Null);
    // Rows keep their numbers in the file.
    let rows = whole["worst"].as_array().unwrap().iter().map(|place| place["row"].as_u64().unwrap());
    assert!(rows.into_iter().all(|row| row == 0 || row == 2));
    let said = fails(
        2,
        &["compare", &model, path(&other), "x", "--tensor", "model.layers.1.self_attn.o_prj.weight"],
    );
    assert!(said.contains("did you mean model.layers.1.self_attn.o_proj.weight?"), "{said}");
}

#[test]
fn equal_models_are_said_to_be_equal() {
    let model = tiny("llama");
    let assert =
        easyroutine(&["compare", &model, &model, "the cat sat", "--format", "json"]).assert().success();
    let said = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(said.contains("A and B are equal"), "{said}");
    let json: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    assert_eq!(json["equal"], true);
}

#[test]
fn what_cannot_be_compared_is_said() {
    let model = tiny("llama");
    let said = fails(4, &["compare", &model, &tiny("gpt2"), "the cat sat"]);
    assert!(said.contains("not of one architecture (A is llama, B is gpt2)"), "{said}");
    let said = fails(2, &["compare", &model, &model, "x", "--field", "text"]);
    assert!(said.contains("--field is for prompts of a file"), "{said}");
    let other = with_config("llama", |config| drop(config.insert("rms_norm_eps".to_owned(), 0.5.into())));
    let assert = easyroutine(&["compare", &model, path(&other), "the cat sat"]).assert().success();
    let said = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(said.contains("rms_norm_eps"), "{said}");
}
