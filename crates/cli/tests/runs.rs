//! Runs from the command line: saved, found, read, changed, shared.

use crate::common;

use std::path::Path;

use common::{easyroutine, fails, fixtures, json, path, succeeds, tiny};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A store with a run of two prompts, and the arguments that made it.
fn store() -> TempDir {
    let base = tempfile::tempdir().unwrap();
    extract(&base, &["--tag", "first", "--meta", "seed=3", "--meta", "note=a text"]);
    base
}

fn prompts(base: &TempDir) -> String {
    let file = base.path().join("prompts.txt");
    std::fs::write(&file, "the cat sat\nthe dog\na cat\nthe cat sat on the mat\nsat\n").unwrap();
    file.to_str().unwrap().to_owned()
}

pub(crate) fn arguments(base: &TempDir, flags: &[&str]) -> Vec<String> {
    let (model, file, target) = (tiny("llama"), prompts(base), format!("{}/", path(base)));
    let plain =
        ["extract", "--file", &file, "-m", &model, "-a", "resid_out_*,pattern_L0H1,logits", "-o", &target];
    plain.iter().chain(flags).map(|a| (*a).to_owned()).collect()
}

/// Runs `extract` into the store and returns the run's path below it; empty if it is not committed yet.
pub(crate) fn extract(base: &TempDir, flags: &[&str]) -> String {
    let arguments = arguments(base, flags);
    let printed = succeeds(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let Some(line) = printed.lines().next() else { return String::new() };
    Path::new(line).strip_prefix(base.path()).unwrap().to_str().unwrap().to_owned()
}

pub(crate) fn runs(base: &TempDir, args: &[&str]) -> Value {
    json(&[&["runs", "-b", path(base), "--format", "json"], args].concat())
}

#[test]
fn a_saved_run_is_listed_shown_and_queried() {
    let base = store();
    let listed = runs(&base, &["ls"]);
    assert_eq!(
        (listed["schema"].as_str(), listed["runs"].as_array().unwrap().len()),
        (Some("easyroutine.runs/1"), 1)
    );
    let metadata = &listed["runs"][0]["metadata"];
    assert_eq!(
        (&metadata["seed"], &metadata["note"], &metadata["tag"]),
        (&json!(3), &json!("a text"), &json!("first"))
    );
    assert_eq!(metadata["extraction_config"]["extract_resid_out"], json!(true));
    assert_eq!(metadata["target_token_positions"], json!(["all"]));
    assert_eq!(metadata["_store"]["n_examples"], json!(5));
    let shown = runs(&base, &["show", "-1"]);
    let tensors: Vec<&str> =
        shown["tensors"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert_eq!(tensors, ["pattern_L0H1", "resid_out_0", "resid_out_1", "resid_out_2", "logits"]);
    assert_eq!(shown["values"]["token_dict"]["all"].as_array().unwrap().len(), 5);
    for (flags, n) in [
        (&["seed >= 3 and extraction_config.extract_resid_out"][..], 1),
        (&["seed > 3"], 0),
        (&["--tag", "first", "--meta", "seed=3"], 1),
        (&["--meta", "seed=4"], 0),
        (&["--config", "{\"extract_attn_pattern\": true}"], 1),
        (&["--config", "{\"extract_attn_pattern\": true}", "--matching", "exact"], 0),
        (&["--positions", "all"], 1),
        (&["--positions", "last"], 0),
        (&["-e", "other"], 0),
        (&["tags ~ \"first\""], 1),
    ] {
        let found = runs(&base, &[&["query"], flags].concat());
        assert_eq!(found["runs"].as_array().unwrap().len(), n, "{flags:?}");
    }
    let more = ["--tag", "late", "--tag", "first"];
    extract(&base, &[&["--positions", "0:2,-1", "--generate", "2", "--seed", "7"][..], &more].concat());
    for (flags, n) in [(&["--tag", "first"][..], 2), (&more, 1), (&["--tag", "late", "--tag", "other"], 0)] {
        let found = runs(&base, &[&["query"], flags].concat());
        assert_eq!(found["runs"].as_array().unwrap().len(), n, "{flags:?}");
    }
    for (flags, n) in [
        (&["--positions", "0:2,-1"][..], 1),
        (&["--positions", "0:2", "--positions", "-1"], 1),
        (&["--positions", "0:2"], 0),
        (&["extraction_config.generate = 2 and extraction_config.seed = 7"], 1),
    ] {
        let found = runs(&base, &[&["query"], flags].concat());
        assert_eq!(found["runs"].as_array().unwrap().len(), n, "{flags:?}");
    }
    for (flags, part) in [
        (&["--positions", "lasst"][..], "lasst"),
        (&["--meta", "z=1", "--meta", "z=2"], "two values for the key `z`"),
    ] {
        let wrong = fails(2, &[&["runs", "-b", path(&base), "query"], flags].concat());
        assert!(wrong.contains(part), "{flags:?}: {wrong}");
    }
    let wrong = fails(2, &["runs", "-b", path(&base), "query", "seed >"]);
    assert!(wrong.contains("at character 7: a value is missing"), "{wrong}");
    let noted = |condition: &str| {
        let output = easyroutine(&["runs", "-b", path(&base), "query", condition]).assert().success();
        String::from_utf8(output.get_output().stderr.clone()).unwrap()
    };
    assert!(noted("sed >= 3 and seed >= 3").contains("no run has a key `sed`"));
    assert_eq!(noted("seed > 3"), "");
}

#[test]
fn a_run_holds_what_extract_writes_to_a_file() {
    let base = tempfile::tempdir().unwrap();
    let (model, prompts, target) = (tiny("llama"), prompts(&base), format!("{}/", path(&base)));
    let (file, exported) = (base.path().join("file.safetensors"), base.path().join("run.safetensors"));
    let (file, exported) = (file.to_str().unwrap(), exported.to_str().unwrap());
    for (activations, flags) in [
        ("resid_out_*,pattern_L0H1,logits", &[][..]),
        ("resid_mid_1,scores_L0H0,input_ids", &["--batch-tokens", "7"]),
        ("resid_out_1", &["--positions", "last,first,last"]),
        ("pattern_L1H0,resid_out_1", &["--positions", "all,last", "--intervene", "resid_mid_0@last=0"]),
    ] {
        let asked = ["extract", "--file", &prompts, "-m", &model, "-a", activations];
        succeeds(&[&asked, flags, &["-o", file]].concat());
        succeeds(&[&asked, flags, &["--unit", "2", "-o", &target]].concat());
        succeeds(&["runs", "-b", path(&base), "export", "-1", "-o", exported]);
        let shown = runs(&base, &["show", "-1"]);
        let (file, exported) = (std::fs::read(file).unwrap(), std::fs::read(exported).unwrap());
        let header = safetensors::SafeTensors::read_metadata(&file).unwrap().1;
        for table in ["mapping_index", "token_dict"] {
            let of_file: Value = serde_json::from_str(&header.metadata().as_ref().unwrap()[table]).unwrap();
            assert_eq!(shown["values"][table], of_file, "{activations}: {table}");
        }
        let file = safetensors::SafeTensors::deserialize(&file).unwrap();
        let exported = safetensors::SafeTensors::deserialize(&exported).unwrap();
        assert_eq!(file.len(), exported.len());
        for (name, tensor) in file.iter() {
            let other = exported.tensor(name).unwrap();
            assert_eq!((tensor.shape(), tensor.data()), (other.shape(), other.data()), "{name}");
        }
    }
}

#[test]
fn numbers_of_a_tensor_are_printed_and_exported() {
    let base = tempfile::tempdir().unwrap();
    extract(&base, &["--positions", "last"]);
    let loaded = runs(&base, &["load", "-1", "resid_out_1", "--rows", "1:3"]);
    assert_eq!(loaded["shape"], json!([2, 1, 48]));
    assert_eq!(loaded["values"].as_array().unwrap().len(), 96);
    let lines = |key: &str, rows: &str| {
        let words = ["runs", "-b", path(&base), "load", "-1", key, "--rows", rows, "--format", "tsv"];
        let table = succeeds(&words);
        let first = |line: &str| line.split('\t').next().unwrap().to_owned();
        table.lines().skip(1).map(first).collect::<Vec<_>>()
    };
    assert_eq!(lines("resid_out_1", "3:5"), ["3,0", "4,0"]);
    let table = succeeds(&["runs", "-b", path(&base), "load", "-1", "resid_out_1", "--format", "tsv"]);
    assert_eq!((table.lines().count(), table.lines().next().unwrap().split('\t').count()), (6, 49));
    let npy = base.path().join("a.npy");
    succeeds(&["runs", "-b", path(&base), "export", "-1", "resid_out_1", "-o", npy.to_str().unwrap()]);
    let bytes = std::fs::read(&npy).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY\x01\x00"));
    assert_eq!(bytes.len() % 64, 5 * 48 * 4 % 64);
    let missing = fails(1, &["runs", "-b", path(&base), "load", "-1", "resid_outt_1"]);
    assert!(missing.contains("hint: it has pattern_L0H1"), "{missing}");
    // Rows of different length: the example, then the token in it.
    extract(&base, &[]);
    let last = lines("resid_out_1", "4");
    assert_eq!(
        (&last[0][..], last.len()),
        (
            "4,0",
            runs(&base, &["load", "-1", "resid_out_1", "--rows", "4"])["shape"][0].as_u64().unwrap() as usize
        )
    );
    assert!(lines("resid_out_1", "1:3").contains(&"2,1".to_owned()));
    assert!(lines("pattern_L0H1", "2").iter().all(|place| place.starts_with("2,")));
    let file = base.path().join("a.safetensors");
    let export = ["runs", "-b", path(&base), "export", "-1", "logits", "-o", file.to_str().unwrap()];
    assert!(fails(2, &[&export[..], &["logits"]].concat()).contains("logits is named twice"));
    assert!(fails(2, &[&export[..], &["--format", "json"]].concat()).contains("ending of the file"));
    succeeds(&export);
}

#[test]
fn runs_are_tagged_moved_renamed_and_removed() {
    let base = store();
    runs(&base, &["tag", "-1", "good", "--meta", "score=0.5", "--drop", "note"]);
    let metadata = runs(&base, &["show", "-1"])["metadata"].clone();
    assert_eq!((&metadata["score"], metadata.get("note")), (&json!(0.5), None));
    assert_eq!(metadata["_store"]["tags"], json!(["good"]));
    let stale = fails(1, &["runs", "-b", path(&base), "tag", "-1", "x", "--revision", "1"]);
    assert!(stale.contains("is at revision 2, not 1"), "{stale}");
    runs(&base, &["mv", "-1", "other"]);
    runs(&base, &["rename", "other", "third"]);
    assert_eq!(runs(&base, &["ls", "-e", "third"])["runs"].as_array().unwrap().len(), 1);
    // A target that cannot be written is detected before anything is changed.
    for (command, code) in
        [(["tag", "-1", "late"], 2), (["mv", "-1", "late"], 2), (["rename", "third", "late"], 2)]
    {
        fails(code, &[&["runs", "-b", path(&base)], &command[..], &["--format", "html"]].concat());
    }
    assert!(!runs(&base, &["ls"]).to_string().contains("late"));
    succeeds(&["runs", "-b", path(&base), "verify", "-1", "--format", "json"]);
    let path_of_run = runs(&base, &["ls"])["runs"][0]["path"].as_str().unwrap().to_owned();
    let removed = runs(&base, &["rm", &path_of_run, "-1"]);
    assert_eq!(removed["what"], json!([path_of_run]));
    assert_eq!(runs(&base, &["ls"])["runs"], json!([]));
    fails(1, &["runs", "-b", path(&base), "rm", "-1"]);
}

#[test]
fn damage_is_an_exit_status_and_names_the_tensor() {
    let base = store();
    succeeds(&["runs", "-b", path(&base), "verify"]);
    let run = base.path().join(runs(&base, &["ls"])["runs"][0]["path"].as_str().unwrap());
    let shard = std::fs::read_dir(run.join("data")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    let output = easyroutine(&["runs", "-b", path(&base), "verify"]).assert().code(1);
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert!(text.contains("tensor `") && text.contains("is damaged"), "{text}");
}

#[test]
fn parts_in_any_order_and_a_resumed_run_equal_one_that_was_not_disturbed() {
    let digest = |base: &TempDir| {
        runs(base, &["show", "-1"])["metadata"]["_store"]["digest"].as_str().unwrap().to_owned()
    };
    let whole = tempfile::tempdir().unwrap();
    assert!(!extract(&whole, &["--unit", "2"]).is_empty());

    let parts = tempfile::tempdir().unwrap();
    assert_eq!(extract(&parts, &["--unit", "2", "--run", "job", "--part", "3/3"]), "");
    assert_eq!(extract(&parts, &["--unit", "2", "--run", "job", "--part", "1/3"]), "");
    let early = fails(1, &["runs", "-b", path(&parts), "commit", "job"]);
    assert!(early.contains("1 of 3 units are not written"), "{early}");
    let committed = extract(&parts, &["--unit", "2", "--run", "job", "--part", "2/3"]);
    assert!(!committed.is_empty());
    assert_eq!(extract(&parts, &["--unit", "2", "--run", "job", "--part", "1/3"]), committed, "a retry");
    assert_eq!(digest(&parts), digest(&whole));

    let arguments = arguments(&parts, &["--unit", "2", "--run", "job"]);
    let again = fails(1, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(again.contains("there is a run `job`"), "{again}");

    let resumed = tempfile::tempdir().unwrap();
    extract(&resumed, &["--unit", "2", "--run", "job", "--part", "1/2"]);
    let words = self::arguments(&resumed, &["--unit", "2", "--run", "job", "--resume", "--tag", "late"]);
    let refused = fails(1, &words.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(refused.contains("`tag` was nothing, now it is \"late\""), "{refused}");
    let tagged = ["--unit", "2", "--run", "tagged", "--tag", "early", "--tag", "late"];
    extract(&resumed, &[&tagged[..], &["--part", "1/2"]].concat());
    let words = self::arguments(&resumed, &[&tagged[..6], &["--resume"]].concat());
    let refused = fails(1, &words.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(refused.contains("`tags` was [\"late\"], now it is nothing"), "{refused}");
    extract(&resumed, &[&tagged[..], &["--resume"]].concat());
    let kept = runs(&resumed, &["query", "--tag", "late", "--tag", "early"]);
    assert_eq!(kept["runs"].as_array().unwrap().len(), 1, "tags of a resumed run");
    let model = tiny("llama");
    let other = [
        &["extract", "a cat", "-m", &model, "-a", "logits", "--run", "job", "--resume", "-o"][..],
        &[path(&resumed)],
    ]
    .concat();
    let refused = fails(1, &other);
    assert!(refused.contains("was begun by another plan: `activations` was"), "{refused}");
    assert!(!extract(&resumed, &["--unit", "2", "--run", "job", "--resume"]).is_empty());
    assert_eq!(digest(&resumed), digest(&whole));
    let refused = fails(1, &other);
    assert!(refused.contains("was begun by another plan: `activations` was"), "finished: {refused}");
    assert!(
        !extract(&resumed, &["--unit", "2", "--run", "job", "--resume"]).is_empty(),
        "nothing is left to do"
    );
}

#[test]
fn what_is_for_stores_is_refused_for_files_and_names_are_checked() {
    let base = store();
    let file = base.path().join("a.safetensors");
    let refused = fails(
        2,
        &["extract", "a", "-m", &tiny("llama"), "-a", "logits", "--tag", "x", "-o", file.to_str().unwrap()],
    );
    assert!(refused.contains("--tag is for runs in a store"), "{refused}");
    for flags in [
        &["--experiment", "../out"][..],
        &["--tag", ""],
        &["--format", "csv"],
        &["--meta", "tag=x"],
        &["--run", "a/b"],
        &["--meta", "novalue"],
    ] {
        let arguments = arguments(&base, flags);
        fails(2, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let missing = easyroutine(&["runs", "ls"])
        .env_remove("ACTIVATION_BASE_DIR")
        .current_dir(base.path())
        .assert()
        .code(1);
    let text = String::from_utf8(missing.get_output().stderr.clone()).unwrap();
    assert!(text.contains("ACTIVATION_BASE_DIR") && text.contains("--base"), "{text}");
    std::fs::write(base.path().join(".env"), format!("ACTIVATION_BASE_DIR={}\n", path(&base))).unwrap();
    easyroutine(&["runs", "ls"])
        .env_remove("ACTIVATION_BASE_DIR")
        .current_dir(base.path())
        .assert()
        .success();
}

#[test]
fn runs_of_the_original_are_imported() {
    let base = tempfile::tempdir().unwrap();
    let original = fixtures().join("store/original");
    let output =
        easyroutine(&["runs", "-b", path(&base), "import", original.to_str().unwrap()]).assert().code(1);
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert_eq!((text.matches("imported\t").count(), text.matches("broken\t").count()), (3, 2), "{text}");
    assert_eq!(runs(&base, &["ls"])["runs"].as_array().unwrap().len(), 3);
}

#[cfg(unix)]
#[cfg(feature = "parquet")]
#[test]
fn a_run_becomes_a_table_or_says_which_tensors_would() {
    let base = store();
    let table = base.path().join("a.parquet");
    let table = table.to_str().unwrap();
    let export =
        |keys: &[&'static str]| [&["runs", "-b", path(&base), "export", "-1"], keys, &["-o", table]].concat();
    let refused = fails(2, &export(&[]));
    assert!(refused.contains("`pattern_L0H1` has squares of different size"), "{refused}");
    assert!(
        refused.contains("hint: name those that fit, resid_out_0 resid_out_1 resid_out_2 …"),
        "{refused}"
    );
    assert!(!Path::new(table).exists());
    succeeds(&export(&["resid_out_0", "resid_out_1", "logits"]));
    let bytes = std::fs::read(table).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    let text = String::from_utf8_lossy(&bytes);
    assert!(["position", "resid_out_1", "easyroutine.parquet/1"].iter().all(|name| text.contains(name)));
}

#[test]
fn fields_of_a_file_are_kept_with_its_rows_and_runs_are_found_by_them() {
    let base = tempfile::tempdir().unwrap();
    let file = base.path().join("prompts.jsonl");
    let lines = [("the cat sat", "good"), ("the dog", "bad"), ("a cat", "good")];
    let record = |(text, label): &(&str, &str)| {
        json!({"text": text, "label": label, "n": text.len()}).to_string() + "\n"
    };
    std::fs::write(&file, lines.iter().map(record).collect::<String>()).unwrap();
    let (model, target) = (tiny("llama"), format!("{}/", path(&base)));
    let common = ["extract", "--file", file.to_str().unwrap(), "-m", &model, "-a", "logits"];
    let words = [&common[..], &["-o", &target, "--unit", "2"]].concat();
    succeeds(&[&words[..], &["--keep-fields", "label,n"]].concat());
    let run = &runs(&base, &["show", "-1"]);
    assert_eq!(run["metadata"]["fields"], json!({"label": ["good", "bad"], "n": [11, 7, 5]}));
    let values = &run["metadata"]["_store"]["manifest"]["inline"]["values"];
    assert_eq!(values["label"], json!(["good", "bad", "good"]));
    let found = |condition: &str| runs(&base, &["query", condition])["runs"].as_array().unwrap().len();
    assert_eq!((found("fields.label ~ 'bad'"), found("fields.label ~ 'ugly'")), (1, 0));
    assert_eq!((found("fields.label = 'bad'"), found("fields.n > 10"), found("fields.n > 11")), (1, 1, 0));

    // They are shown, and appear in tables.
    assert_eq!(runs(&base, &["load", "-1", "label", "--rows", "1:3"])["values"], json!(["bad", "good"]));
    assert_eq!(runs(&base, &["load", "-1"])["fields"][1], json!({"key": "n", "rows": 3}));
    let read = |words: &[&str]| succeeds(&[&["runs", "-b", path(&base)], words].concat());
    assert_eq!(read(&["load", "-1", "label", "--rows", "0"]), "row\tlabel\n0\tgood\n");
    assert!(read(&["show", "-1"]).contains("label\tfield [3]\n"));
    let table = base.path().join("labels.parquet");
    read(&["export", "-1", "-o", table.to_str().unwrap()]);
    let bytes = std::fs::read(table).unwrap();
    assert!(["label", "good"].iter().all(|name| String::from_utf8_lossy(&bytes).contains(name)));

    for (flags, says) in [
        (&["--keep-fields", "source"][..], "no prompt has a field `source`"),
        (&["--keep-fields", "text,logits"], "no prompt has a field `logits`"),
        (&["--keep-fields", "label,label"], "the field `label` is named twice"),
        (&["--keep-fields", "label", "--meta", "fields=1"], "--meta fields"),
    ] {
        let message = fails(2, &[&words[..], flags].concat());
        assert!(message.contains(says), "{message}");
    }
    let message = fails(2, &[&common[..], &["-o", "a.safetensors", "--keep-fields", "n"]].concat());
    assert!(message.contains("--keep-fields is for runs in a store"), "{message}");
}

#[test]
fn runs_are_named_listed_while_unfinished_and_removed_with_care() {
    let base = tempfile::tempdir().unwrap();
    let target = base.path().join("store");
    let (file, store) = (prompts(&base), target.to_str().unwrap().to_owned() + "/");
    let model = tiny("llama");
    let words = ["extract", "--file", &file, "-m", &model, "-a", "logits", "-o", &store, "--unit", "1"];
    let begin = |flags: &[&str]| easyroutine(&[]).args(words).args(flags).output().unwrap();
    assert!(begin(&["--run", "half", "--part", "1/2"]).status.success());
    assert!(begin(&["--run", "whole"]).status.success());
    let said = |args: &[&str]| {
        let output = easyroutine(&[]).args(["runs", "-b", &store]).args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (listed, notes) = said(&["ls"]);
    assert!(listed.starts_with("run\tname\t") && listed.contains("\twhole\tdefault\t"), "{listed}");
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(notes.contains("begun as `half`, has 3 of 5 units") && notes.contains("--resume"), "{notes}");
    let listed: Value = serde_json::from_str(&said(&["ls", "--format", "json"]).0).unwrap();
    let unfinished = &listed["unfinished"][0];
    assert_eq!(
        (&unfinished["name"], &unfinished["written"], &unfinished["units"]),
        (&json!("half"), &json!(3), &json!(5))
    );

    assert!(said(&["show", "whole"]).0.contains("name\twhole\n"));
    assert!(said(&["load", "whole", "logits", "--rows", "0"]).0.starts_with("row\t0\t1\t"));
    let (would, _) = said(&["rm", "whole", "--dry-run"]);
    assert!(would.contains("would remove\tdefault/"), "{would}");
    let (removed, _) = said(&["rm", "whole", "--yes"]);
    assert!(removed.contains("removed\tdefault/"), "{removed}");
    assert_eq!(said(&["ls"]).0.lines().count(), 1);
}

#[test]
fn a_condition_that_cannot_hold_is_told_from_one_that_does_not() {
    let base = store();
    let notes = |condition: &str| {
        let output = easyroutine(&[]).args(["runs", "-b", path(&base), "query", condition]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(notes("seed = 4"), "");
    assert!(notes("seed = '3'").contains("\"3\" is a text; `seed` is a number in every run"));
    assert!(notes("extraction_config.extract_resid_out = 1").contains("is true or false in every run"));
    let long = notes(&format!("{} = 3", "x".repeat(100_000)));
    assert!(long.len() < 300 && long.contains("no run has a key `xxx"), "{long}");
}
