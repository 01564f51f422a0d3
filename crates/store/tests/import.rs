//! Runs of the original. `fixtures/torch/make.py` wrote the store.

use crate::common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::fast_folder;
use easyroutine_store::{ActivationLoader, Dtype, Query, Store};
use serde_json::json;

fn original() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/store/original")
}

#[test]
fn runs_of_the_original_come_over_and_broken_ones_are_named() {
    let base = fast_folder();
    let store = Store::create(base.path()).unwrap();
    let imported = store.import(&original()).unwrap();
    let states: Vec<bool> = imported.iter().map(|run| run.to.is_ok()).collect();
    assert_eq!(states, [true, true, true, false, false]);
    let hostile = imported[4].to.as_ref().unwrap_err().to_string();
    assert!(hostile.contains("`posix.system`, which is not on the list"), "{hostile}");

    let loader = ActivationLoader::of(store.clone(), "first");
    let found = loader.query(&Query { tags: vec!["cache".to_owned()], ..Query::default() }).unwrap();
    let run = found.load(-1).unwrap();
    let metadata = run.metadata();
    assert_eq!((metadata.model_name(), metadata.get("seed")), ("org/tiny", Some(&json!(3))));
    assert_eq!(metadata.get("original_save_time"), Some(&json!("2023-04-15 14:30:25")));
    assert_eq!(run.names().collect::<Vec<_>>(), ["resid_out_0", "resid_out_1", "pattern_L0H0", "kl.0"]);
    let first = run.read("resid_out_0").unwrap();
    assert_eq!(first.to_f32().unwrap(), (0..12).map(|x| x as f32).collect::<Vec<_>>());
    assert_eq!(run.read("resid_out_1").unwrap().dtype, Dtype::Bf16);
    let values = &run.manifest().values;
    assert_eq!(values["mapping_index"], json!({"last": [0], "[2,5]": [1, 2], "-1": [2]}));
    assert_eq!(values["labels"], json!(["a", "b"]));
    assert_eq!(values["kl"], json!([{"_tensor": "kl.0"}, 0.5, "NaN"]));
    assert_eq!(values["info"], json!({"pattern_L0H0": "Shape: batch seq seq"}));

    let all = loader.query(&Query { experiment_name: Some("*".to_owned()), ..Query::default() }).unwrap();
    assert_eq!(all.load(1).unwrap().names().collect::<Vec<_>>(), ["activations"]);
    let nested = all.load(2).unwrap();
    assert_eq!(nested.names().collect::<Vec<_>>(), ["nested.deep.0", "nested.deep.1.x"]);
    assert_eq!(
        nested.manifest().values["nested"],
        json!({"deep": [{"_tensor": "nested.deep.0"}, {"x": {"_tensor": "nested.deep.1.x"}}]})
    );
}

#[test]
fn importing_twice_takes_nothing_over_twice_and_changes_no_original() {
    let content = || {
        let mut files = BTreeMap::new();
        let mut folders = vec![original()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path)
                } else {
                    files.insert(path.clone(), std::fs::read(path).unwrap());
                }
            }
        }
        files
    };
    let before = content();
    let base = fast_folder();
    let store = Store::create(base.path()).unwrap();
    store.import(&original()).unwrap();
    let again = store.import(&original()).unwrap();
    assert_eq!(again.len(), 2, "the broken ones alone are tried again");
    assert_eq!(store.scan(None).unwrap().runs.len(), 3);
    assert_eq!(content(), before);
}

#[test]
fn a_scan_of_the_original_s_own_folder_says_what_to_do() {
    let scan = Store::open(original()).unwrap().scan(None).unwrap();
    assert!(scan.runs.is_empty());
    assert!(
        scan.problems.iter().any(|p| p.error.hint_text().is_some_and(|hint| hint.contains("runs import")))
    );
}
