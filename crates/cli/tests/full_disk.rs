//! Runs on disks that are full, or whose files may not grow.

use crate::common::{json as json_of, path, tiny};
use crate::runs::{arguments, extract, runs};
use serde_json::{Value, json};

#[test]
fn a_file_size_limit_is_an_error_and_leaves_nothing_half_visible() {
    let base = tempfile::tempdir().unwrap();
    let file = base.path().join("a.safetensors");
    let limited = |args: Vec<String>| {
        let program = assert_cmd::cargo::cargo_bin!("easyroutine");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "ulimit -f 8; exec \"$0\" \"$@\""]).arg(program).args(args);
        let output = command.output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        // A process ended by the signal has no exit status.
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.starts_with("error: ") && message.contains("File too large"), "{message}");
        message
    };
    let message = limited(arguments(&base, &[]));
    assert!(message.contains("hint: a limit on file size"), "{message}");
    let listed = runs(&base, &["ls"]);
    assert_eq!((&listed["runs"], &listed["problems"]), (&json!([]), &json!([])));
    let mut to_file = arguments(&base, &[]);
    *to_file.iter_mut().find(|a| a.ends_with('/')).unwrap() = file.to_str().unwrap().to_owned();
    limited(to_file);
    let left = std::fs::read_dir(base.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(
        left.into_iter().all(|name| name != "a.safetensors" && !name.to_string_lossy().contains("partial"))
    );
    assert!(!extract(&base, &[]).is_empty());
}

/// In the test's own file system, which is smaller than the run.
#[cfg(target_os = "linux")]
#[test]
fn a_full_file_system_is_an_error_and_leaves_nothing_half_visible() {
    const NOT_ALLOWED: i32 = 77;
    let base = tempfile::tempdir().unwrap();
    // Prompts are read from elsewhere.
    let prompts = tempfile::tempdir().unwrap();
    let mut arguments = arguments(&prompts, &[]);
    *arguments.iter_mut().find(|a| a.ends_with('/')).unwrap() = format!("{}/", path(&base));
    let script = r#"
        base=$1; shift
        mount -t tmpfs -o size=40k tmpfs "$base" 2>/dev/null || exit 77
        "$0" "$@" >/dev/null 2>"$PROMPTS/message"; echo $? >"$PROMPTS/status"
        "$0" runs -b "$base" ls --format json >"$PROMPTS/during"
        mount -o remount,size=4m "$base" && "$0" "$@" >/dev/null
        "$0" runs -b "$base" ls --format json >"$PROMPTS/after"
        "$0" runs -b "$base" verify >/dev/null
    "#;
    let program = assert_cmd::cargo::cargo_bin!("easyroutine");
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-c", script]).arg(program).arg(base.path());
    command.args(arguments).env("PROMPTS", prompts.path());
    command.env("EASYROUTINE_CACHE", prompts.path());
    let status = command.stderr(std::process::Stdio::null()).status().ok().and_then(|status| status.code());
    if status.is_none_or(|code| code == NOT_ALLOWED) || !prompts.path().join("status").exists() {
        println!("skipped a_full_file_system: no file system may be mounted here");
        return;
    }
    let read = |name: &str| std::fs::read_to_string(prompts.path().join(name)).unwrap();
    let runs = |name: &str| serde_json::from_str::<Value>(&read(name)).unwrap();
    assert_eq!(status, Some(0));
    let message = read("message");
    assert_eq!(read("status"), "1\n", "{message}");
    assert!(message.contains("No space left") && message.contains("hint: the disk is full"), "{message}");
    assert_eq!((&runs("during")["runs"], &runs("during")["problems"]), (&json!([]), &json!([])));
    assert_eq!(runs("after")["runs"].as_array().unwrap().len(), 1);
}

/// What `extract` is given so that activations of a tiny model wait in the folder of its result.
fn waiting(folder: &tempfile::TempDir, out: &str) -> Vec<String> {
    let model = tiny("llama");
    let needed =
        json_of(&["model", "info", &model, "--format", "json"])["weights_f32_bytes"].as_u64().unwrap();
    let prompts = folder.path().join("prompts.jsonl");
    let ids: Vec<u32> = (1..17).collect();
    let rows: Vec<String> = (0..400).map(|_| json!({ "ids": ids }).to_string()).collect();
    std::fs::write(&prompts, rows.join("\n")).unwrap();
    let (prompts, memory) = (prompts.to_str().unwrap(), (needed - 1).to_string());
    let given = ["extract", "--file", prompts, "--field", "ids", "-m", &model, "--memory", &memory];
    let keys = ["-a", "resid_out_2", "--positions", "0", "-o", out];
    given.iter().chain(&keys).map(|word| (*word).to_owned()).collect()
}

#[test]
fn activations_that_find_no_room_are_an_error_with_what_would_do() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let program = assert_cmd::cargo::cargo_bin!("easyroutine");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -f 16; exec \"$0\" \"$@\""]).arg(program);
    let output = command.args(waiting(&folder, out.to_str().unwrap())).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("cannot write the activations that wait there between two layers"), "{message}");
    assert!(message.contains("File too large") && message.contains("--memory"), "{message}");
    let left = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["prompts.jsonl"]);
}

/// The same on a full disk; with more room the same command succeeds.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_while_activations_wait_is_named() {
    const NOT_ALLOWED: i32 = 77;
    let (base, notes) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let out = base.path().join("out.safetensors");
    let script = r#"
        base=$1; shift
        mount -t tmpfs -o size=64k tmpfs "$base" 2>/dev/null || exit 77
        "$0" "$@" 2>"$NOTES/message"; echo $? >"$NOTES/status"
        ls -A "$base" >"$NOTES/left"
        mount -o remount,size=64m "$base" && "$0" "$@" 2>/dev/null && ls "$base" >"$NOTES/after"
    "#;
    let program = assert_cmd::cargo::cargo_bin!("easyroutine");
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-c", script]).arg(program).arg(base.path());
    command.args(waiting(&notes, out.to_str().unwrap())).env("NOTES", notes.path());
    let status = command.stderr(std::process::Stdio::null()).status().ok().and_then(|status| status.code());
    if status.is_none_or(|code| code == NOT_ALLOWED) || !notes.path().join("status").exists() {
        println!("skipped a_disk_that_is_full: no file system may be mounted here");
        return;
    }
    let read = |name: &str| std::fs::read_to_string(notes.path().join(name)).unwrap();
    let message = read("message");
    assert_eq!((read("status").as_str(), read("left").as_str()), ("1\n", ""), "{message}");
    assert!(message.contains("cannot write the activations that wait there between two layers"), "{message}");
    assert!(message.contains("No space left"), "{message}");
    assert_eq!((status, read("after").as_str()), (Some(0), "out.safetensors\n"));
}
