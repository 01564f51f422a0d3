//! What results record about themselves: their model, and whether they are still as saved.

use crate::common;

use std::path::Path;

use common::{copy, fails, json, path, succeeds};
use tempfile::TempDir;

/// Two checkpoints in folders of the same name that differ in one weight.
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
    plan.as_object_mut().unwrap().remove("plan_xxh3").unwrap();
    std::fs::write(&open, plan.to_string()).unwrap();
    let refused = fails(1, &extract(&model, &target, &["--run", "r", "--resume"]));
    assert!(refused.contains("did not keep which model it was"), "{refused}");
}

/// A store with one run, and the paths of its record and its shard.
fn saved() -> (TempDir, std::path::PathBuf, std::path::PathBuf) {
    let base = tempfile::tempdir().unwrap();
    let target = format!("{}/", path(&base));
    let printed = succeeds(&[
        "extract",
        "--token-ids",
        "[[1,2],[3,4]]",
        "-m",
        &common::tiny("llama"),
        "-a",
        "logits,resid_out_0",
        "-o",
        &target,
        "--meta",
        "seed=3",
    ]);
    let run = std::path::PathBuf::from(printed.trim());
    let shard = std::fs::read_dir(run.join("data")).unwrap().next().unwrap().unwrap().path();
    (base, run.join("metadata.json"), shard)
}

#[test]
fn damaged_numbers_are_not_read_unless_they_must_be() {
    let (base, _, shard) = saved();
    let store = path(&base);
    // The last bytes belong to the last tensor in the file.
    flip(&shard, |length| length - 1);
    let shown = json(&["runs", "-b", store, "show", "-1", "--format", "json"]);
    let parts = &shown["metadata"]["_store"]["manifest"]["inline"]["shards"][0]["tensors"];
    let damaged = parts.as_array().unwrap().last().unwrap()["name"].as_str().unwrap().to_owned();
    let fine = if damaged == "logits" { "resid_out_0" } else { "logits" };
    let refused = fails(1, &["runs", "-b", store, "load", "-1", &damaged]);
    assert!(
        refused.contains(".safetensors") && refused.contains(&format!("`{damaged}` is damaged")),
        "{refused}"
    );
    succeeds(&["runs", "-b", store, "load", "-1", fine]);
    succeeds(&["runs", "-b", store, "load", "-1", &damaged, "--no-verify"]);
    for ending in ["safetensors", "npy", "parquet"] {
        let out = base.path().join(format!("out.{ending}")).to_str().unwrap().to_owned();
        let export = ["runs", "-b", store, "export", "-1", &damaged, "-o", &out];
        let refused = fails(1, &export);
        assert!(refused.contains("is damaged") && !Path::new(&out).exists(), "{refused}");
        succeeds(&[&export[..], &["--no-verify"]].concat());
    }
}

#[test]
fn a_damaged_header_of_a_shard_is_not_exported() {
    let (base, _, shard) = saved();
    let store = path(&base);
    // In the header's metadata: every tensor reads as before.
    flip(&shard, |_| 30);
    succeeds(&["runs", "-b", store, "load", "-1", "logits"]);
    fails(1, &["runs", "-b", store, "verify"]);
    for (ending, key) in [("safetensors", &[][..]), ("npy", &["logits"]), ("parquet", &["logits"])] {
        let out = base.path().join(format!("out.{ending}")).to_str().unwrap().to_owned();
        let export = [&["runs", "-b", store, "export", "-1"][..], key, &["-o", &out]].concat();
        let refused = fails(1, &export);
        assert!(refused.contains("header is damaged") && !Path::new(&out).exists(), "{refused}");
        succeeds(&[&export[..], &["--no-verify"]].concat());
    }
}

#[test]
fn a_record_that_was_edited_by_hand_is_told_by_every_read_and_by_verify() {
    let (base, record, _) = saved();
    let store = path(&base);
    let whole = succeeds(&["runs", "-b", store, "verify"]);
    assert!(whole.contains("whole") && !whole.contains("no checksum"), "{whole}");
    let text = std::fs::read_to_string(&record).unwrap();
    assert!(text.contains("\"seed\": 3"));
    std::fs::write(&record, text.replace("\"seed\": 3", "\"seed\": 4")).unwrap();
    let said = |args: &[&str]| {
        let output = common::easyroutine(&[&["runs", "-b", store], args].concat()).assert().success();
        String::from_utf8(output.get_output().stderr.clone()).unwrap()
    };
    let reads: [&[&str]; 5] =
        [&["ls"], &["query", "seed = 4"], &["show", "-1"], &["load", "-1", "logits"], &["tag", "-1", "mine"]];
    for read in reads {
        let warned = said(read);
        assert!(warned.contains("changed by something other than easyroutine"), "{read:?}: {warned}");
    }
    let output = common::easyroutine(&["runs", "-b", store, "verify"]).assert().code(1);
    let found = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert!(found.contains("metadata.json: was changed by something other"), "{found}");
    said(&["tag", "-1", "--accept"]);
    assert_eq!(said(&["ls"]), "");
    succeeds(&["runs", "-b", store, "verify"]);
    let fixture = common::fixtures().join("store/v1");
    let old = succeeds(&["runs", "-b", fixture.to_str().unwrap(), "verify", "--format", "tsv"]);
    assert!(old.contains("whole; its record has no checksum"), "{old}");
}

/// Whenever a file is cut short, the program ends on its own: with the numbers, or with the file's name.
#[cfg(unix)]
#[test]
fn files_that_are_cut_short_while_they_are_read_end_in_an_error_with_their_name() {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;
    use std::time::Duration;

    let (base, _, _) = saved();
    let target = format!("{}/", path(&base));
    let many = format!("[{}]", vec!["[1,2,3,4,5,6,7,8]"; 200].join(","));
    succeeds(&[
        "extract",
        "--token-ids",
        &many,
        "-m",
        &common::tiny("llama"),
        "-a",
        "resid_out_*",
        "-o",
        &target,
    ]);
    let newest = json(&["runs", "-b", path(&base), "show", "-1", "--format", "json"])["path"].clone();
    let data = base.path().join(newest.as_str().unwrap()).join("data");
    let shard = std::fs::read_dir(data).unwrap().next().unwrap().unwrap().path();
    let model = copy("llama");
    let weights = model.path().join("model.safetensors");
    let run = ["run", "a cat", "-m", path(&model), "--format", "tsv"];
    let load = ["runs", "-b", path(&base), "load", "-1", "resid_out_1", "--format", "tsv"];
    for (args, file) in [(&run[..], &weights), (&load, &shard)] {
        let whole = std::fs::read(file).unwrap();
        let expected = succeeds(args);
        let mut endings = [0; 2];
        for step in 0..24 {
            std::fs::write(file, &whole).unwrap();
            let command = common::easyroutine(args);
            let program = command.get_program().to_owned();
            let mut child = std::process::Command::new(program);
            child.args(command.get_args()).stdout(Stdio::piped()).stderr(Stdio::piped());
            child.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
            let child = child.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(3 * step));
            std::fs::File::options().write(true).open(file).unwrap().set_len(5000).unwrap();
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.signal(), None, "{args:?} after {step} steps");
            if output.status.success() {
                assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
                endings[0] += 1;
            } else {
                let said = String::from_utf8(output.stderr).unwrap();
                assert!(said.contains(file.file_name().unwrap().to_str().unwrap()), "{said}");
                endings[1] += 1;
            }
        }
        assert!(endings[1] > 0, "none was cut in time");
        std::fs::write(file, &whole).unwrap();
    }
}
