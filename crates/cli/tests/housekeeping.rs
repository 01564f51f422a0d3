//! Stores in disorder: nothing is lost, nothing outside is touched, and the exit status shows it.
#![cfg(unix)]

use crate::common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{easyroutine, fails, json, path, succeeds, tiny};
use tempfile::TempDir;

const SAID: &str = "is a symbolic link; a store does not follow links";

/// Arguments that extract two rows into a store.
fn extract(base: &TempDir, flags: &[&str]) -> Vec<String> {
    let file = base.path().join("prompts.txt");
    fs::write(&file, "the cat sat\nthe dog\n").unwrap();
    let (model, target) = (tiny("llama"), format!("{}/", path(base)));
    let plain =
        ["extract", "--file", file.to_str().unwrap(), "-m", &model, "-a", "resid_out_0", "-o", &target];
    plain.iter().chain(flags).map(|a| (*a).to_owned()).collect()
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

fn runs<'a>(base: &'a TempDir, args: &[&'a str]) -> Vec<&'a str> {
    [&["runs", "-b", path(base)], args].concat()
}

/// A store with two runs, oldest first.
fn store() -> (TempDir, Vec<PathBuf>) {
    let base = tempfile::tempdir().unwrap();
    let run = || PathBuf::from(succeeds(&words(&extract(&base, &[]))).trim_end());
    let paths = vec![run(), run()];
    (base, paths)
}

fn below(base: &TempDir, run: &Path) -> String {
    run.strip_prefix(base.path()).unwrap().to_str().unwrap().to_owned()
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

/// The exit status if the output is not read.
fn unread(args: &[&str]) -> Option<i32> {
    let mut command = std::process::Command::new(easyroutine(&[]).get_program());
    command.args(args).env("EASYROUTINE_CACHE", std::env::temp_dir().join("easyroutine-tests"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    child.wait().unwrap().code()
}

#[test]
fn a_reader_who_goes_away_does_not_make_damage_a_success() {
    let (base, paths) = store();
    assert_eq!(unread(&runs(&base, &["verify"])), Some(0));
    let shard = fs::read_dir(paths[0].join("data")).unwrap().next().unwrap().unwrap().path();
    flip(&shard, fs::metadata(&shard).unwrap().len() as usize - 1);
    for format in ["tsv", "json", "table"] {
        assert_eq!(unread(&runs(&base, &["--format", format, "verify"])), Some(1), "{format}");
    }
    symlink("/nowhere", base.path().join("linked")).unwrap();
    assert_eq!(unread(&runs(&base, &["gc"])), Some(1));
    let original = common::fixtures().join("store/original");
    assert_eq!(unread(&runs(&base, &["import", original.to_str().unwrap()])), Some(1));
}

#[test]
fn minus_one_names_no_other_run_when_the_newest_cannot_be_read() {
    let (base, paths) = store();
    flip(&paths[1].join("metadata.json"), 0);
    let broken = below(&base, &paths[1]);
    let out = base.path().join("out.safetensors");
    for args in [
        &["rm", "-1"][..],
        &["rm", "0"],
        &["rm", "-2"],
        &["load", "-1"],
        &["show", "-1"],
        &["tag", "-1", "x"],
        &["mv", "-1", "other"],
        &["verify", "-1"],
        &["export", "-1", "-o", out.to_str().unwrap()],
    ] {
        let said = fails(1, &runs(&base, args));
        assert!(said.contains(&broken) && said.contains("runs rm"), "{args:?}: {said}");
        assert!(said.contains(&below(&base, &paths[0])), "{args:?}: {said}");
    }
    assert!(paths.iter().all(|run| run.exists()));
    succeeds(&runs(&base, &["load", &below(&base, &paths[0])]));
    // An explicit request succeeds.
    succeeds(&runs(&base, &["rm", &broken]));
    assert!(!paths[1].exists());
    succeeds(&runs(&base, &["load", "-1"]));
}

#[test]
fn resume_begins_what_was_never_begun_and_says_so() {
    let base = tempfile::tempdir().unwrap();
    let arguments = extract(&base, &["--run", "job", "--resume"]);
    let first = easyroutine(&words(&arguments)).assert().success().get_output().clone();
    assert!(String::from_utf8_lossy(&first.stderr).contains("no run `job` was begun before"), "{first:?}");
    let second = easyroutine(&words(&arguments)).assert().success().get_output().clone();
    assert_eq!(first.stdout, second.stdout, "the same run");
    assert!(!String::from_utf8_lossy(&second.stderr).contains("begins now"), "{second:?}");
}

#[test]
fn no_command_goes_through_a_link_and_each_says_so() {
    let (base, paths) = store();
    let outside = tempfile::tempdir().unwrap();
    for file in ["00000.json", ".tmp-x", "a.safetensors"] {
        fs::write(outside.path().join(file), "{").unwrap();
    }
    let untouched = || {
        let mut names: Vec<_> =
            fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".tmp-x", "00000.json", "a.safetensors"]);
    };
    symlink(outside.path(), base.path().join("linked")).unwrap();
    let said = fails(1, &words(&extract(&base, &["--experiment", "linked"])));
    assert!(said.contains(SAID), "{said}");
    let listed = easyroutine(&runs(&base, &["ls"])).assert().success().get_output().clone();
    assert_eq!(String::from_utf8_lossy(&listed.stderr).matches(SAID).count(), 1, "{listed:?}");
    let target = base.path().join("linked/a.safetensors");
    let newest = below(&base, &paths[1]);
    let said = fails(1, &runs(&base, &["export", &newest, "-o", target.to_str().unwrap()]));
    assert!(said.contains("symbolic link"), "{said}");
    untouched();
    fs::remove_file(base.path().join("linked")).unwrap();

    let shard = paths[1].join("data/more.safetensors");
    let said = fails(2, &runs(&base, &["export", &newest, "-o", shard.to_str().unwrap()]));
    assert!(said.contains("the store's own files"), "{said}");

    fs::rename(paths[1].join("data"), outside.path().join("data")).unwrap();
    symlink(outside.path().join("data"), paths[1].join("data")).unwrap();
    let verified = easyroutine(&runs(&base, &["verify"])).assert().code(1).get_output().stdout.clone();
    let verified = String::from_utf8(verified).unwrap();
    assert!(verified.contains(&format!("data: {SAID}")), "{verified}");
    let said = fails(1, &runs(&base, &["load", &newest, "resid_out_0"]));
    assert!(said.contains(SAID), "{said}");
    fs::remove_file(paths[1].join("data")).unwrap();
    fs::rename(outside.path().join("data"), paths[1].join("data")).unwrap();

    // A run killed after its first unit, whose receipts were moved elsewhere.
    succeeds(&words(&extract(&base, &["--run", "job", "--unit", "1", "--part", "1/2"])));
    let model = paths[1].parent().unwrap();
    let open = fs::read_dir(model)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|run| run.join("parts").is_dir())
        .unwrap();
    fs::remove_dir_all(open.join("parts")).unwrap();
    symlink(outside.path(), open.join("parts")).unwrap();
    let said = fails(1, &words(&extract(&base, &["--run", "job", "--unit", "1", "--resume"])));
    assert!(said.contains(SAID), "{said}");
    let said = fails(1, &runs(&base, &["gc", "--idle", "0"]));
    assert!(said.contains(SAID), "{said}");
    untouched();
    assert_eq!(json(&runs(&base, &["--format", "json", "ls"]))["runs"].as_array().unwrap().len(), 2);
}
