//! What results say of themselves: which model they are of, and whether they are still what was saved.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::path::Path;

use common::{copy, fails, json, path, succeeds};
use tempfile::TempDir;

/// Two checkpoints in folders of one name, which differ in one weight.
fn checkpoints() -> (TempDir, [String; 2]) {
    let above = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        let folder = above.path().join(name).join("checkpoint");
        std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
        std::fs::rename(copy("llama").keep(), &folder).unwrap();
        folder
    };
    let [first, second] = [place("a"), place("b")];
    flip(&second.join("model.safetensors"), |length| length - 1);
    (above, [first, second].map(|folder| folder.to_str().unwrap().to_owned()))
}

/// Flips a bit of a file.
fn flip(file: &Path, at: impl FnOnce(usize) -> usize) {
    let mut bytes = std::fs::read(file).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

fn extract<'a>(model: &'a str, target: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    let plain =
        ["extract", "--token-ids", "[[1,2],[3,4],[5,6],[7]]", "-m", model, "-a", "logits", "-o", target];
    [&plain, &["--unit", "1"][..], flags].concat()
}

fn model_digest(model: &str) -> String {
    json(&["model", "info", model, "--format", "json"])["model_digest"].as_str().unwrap().to_owned()
}

#[test]
fn two_checkpoints_of_one_name_do_not_share_a_run() {
    let (_above, [first, second]) = checkpoints();
    let digests = [model_digest(&first), model_digest(&second)];
    assert_ne!(digests[0], digests[1]);
    let base = tempfile::tempdir().unwrap();
    let target = format!("{}/", path(&base));
    succeeds(&extract(&first, &target, &["--run", "r", "--part", "1/2"]));
    for flags in [&["--run", "r", "--part", "2/2"][..], &["--run", "r", "--resume"]] {
        let refused = fails(1, &extract(&second, &target, flags));
        assert!(refused.contains("was begun with another model: `checkpoint` was"), "{refused}");
        assert!(digests.iter().all(|digest| refused.contains(digest.as_str())), "{refused}");
    }
    succeeds(&extract(&first, &target, &["--run", "r", "--part", "2/2"]));
    let refused = fails(1, &extract(&second, &target, &["--run", "r", "--resume"]));
    assert!(refused.contains("was begun with another model"), "of a run that is whole: {refused}");
    // A copy elsewhere is the same model.
    let moved = tempfile::tempdir().unwrap();
    std::fs::rename(&first, moved.path().join("checkpoint")).unwrap();
    let copied = moved.path().join("checkpoint").to_str().unwrap().to_owned();
    succeeds(&extract(&copied, &target, &["--run", "r", "--resume"]));

    let runs = |condition: &str| {
        let found = json(&["runs", "-b", path(&base), "query", condition, "--format", "json"]);
        found["runs"].as_array().unwrap().len()
    };
    assert_eq!(runs(&format!("model_digest = \"{}\"", digests[0])), 1);
    assert_eq!(runs(&format!("model_digest = \"{}\"", digests[1])), 0);
    let shown = succeeds(&["runs", "-b", path(&base), "show", "-1", "--format", "tsv"]);
    assert!(shown.contains(&format!("model_digest\t{}", digests[0])), "{shown}");
}

#[test]
fn a_run_of_before_models_had_digests_is_not_gone_on_with() {
    let (_above, [model, _]) = checkpoints();
    let base = tempfile::tempdir().unwrap();
    let target = format!("{}/", path(&base));
    succeeds(&extract(&model, &target, &["--run", "r", "--part", "1/2"]));
    let open = base.path().join("default/checkpoint/.open-r.json");
    let mut plan: serde_json::Value = serde_json::from_slice(&std::fs::read(&open).unwrap()).unwrap();
    plan["plan"]["spec"].as_object_mut().unwrap().remove("model_digest").unwrap();
    std::fs::write(&open, plan.to_string()).unwrap();
    let refused = fails(1, &extract(&model, &target, &["--run", "r", "--resume"]));
    assert!(refused.contains("did not keep which model it was"), "{refused}");
}
