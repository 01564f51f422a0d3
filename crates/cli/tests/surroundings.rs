//! Environment variables, and files that already exist.

use crate::common;

use common::{easyroutine, fails, path, succeeds, tiny};

const PROMPT: &str = "the cat sat";

/// Standard output with one variable set.
#[track_caller]
fn with(variable: &str, value: &str, args: &[&str]) -> String {
    let assert = easyroutine(args).env(variable, value).assert().success();
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

/// Standard error with a wrong variable.
#[track_caller]
fn refuses(variable: &str, value: &str, args: &[&str]) -> String {
    let assert = easyroutine(args).env(variable, value).assert().code(2);
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

#[test]
fn what_is_typed_beats_the_variable() {
    let (llama, gpt2) = (tiny("llama"), tiny("gpt2"));
    for args in [&["model", "info", &gpt2][..], &["model", "info", "-m", &gpt2]] {
        assert!(with("EASYROUTINE_MODEL", &llama, args).contains("name\tgpt2"), "{args:?}");
    }
    assert!(with("EASYROUTINE_MODEL", &llama, &["model", "info"]).contains("name\tllama"));
    let json = with("EASYROUTINE_FORMAT", "json", &["run", PROMPT, "-m", &llama]);
    assert!(json.starts_with('{'), "{json}");
    let tsv = with("EASYROUTINE_FORMAT", "json", &["run", PROMPT, "-m", &llama, "--format", "tsv"]);
    assert!(tsv.starts_with("rank\t"), "{tsv}");
}

#[test]
fn the_ending_of_a_file_beats_the_variable() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (svg, activations) = (file("a.svg"), file("a.safetensors"));
    with("EASYROUTINE_FORMAT", "json", &["lens", PROMPT, "-m", &tiny("llama"), "-o", &svg]);
    assert!(std::fs::read_to_string(&svg).unwrap().starts_with("<svg"));
    let args = ["extract", PROMPT, "-m", &tiny("llama"), "-a", "logits", "-o", &activations];
    with("EASYROUTINE_FORMAT", "json", &args);
}

#[test]
fn a_wrong_variable_is_named() {
    let model = tiny("llama");
    for (variable, value) in
        [("EASYROUTINE_THREADS", "many"), ("EASYROUTINE_DTYPE", "f64"), ("EASYROUTINE_DEVICE", "toaster")]
    {
        let message = refuses(variable, value, &["run", PROMPT, "-m", &model]);
        assert!(message.contains(value), "{message}");
        assert!(
            message.contains(&format!("hint: the value comes from the variable {variable}")),
            "{message}"
        );
    }
    assert!(refuses("EASYROUTINE_FORMAT", "jsn", &["run", PROMPT, "-m", &model]).contains("`jsn`"));
    assert!(refuses("EASYROUTINE_SIMD", "abacus", &["run", PROMPT, "-m", &model]).contains("abacus"));
}

#[test]
fn offline_is_on_for_every_word_but_no() {
    for (word, code) in [("1", 3), ("yes", 3), ("true", 3), ("0", 1), ("false", 1), ("", 1)] {
        // Nothing listens at this port: going online would fail at once, and differently.
        easyroutine(&["tokens", PROMPT, "-m", "some/model"])
            .env("EASYROUTINE_OFFLINE", word)
            .env("HF_ENDPOINT", "http://127.0.0.1:9")
            .assert()
            .code(code);
        let seen = with("EASYROUTINE_OFFLINE", word, &["env", "--format", "json"]);
        assert!(seen.contains(&format!("\"offline\": \"{}\"", code == 3)), "{word}: {seen}");
    }
}

#[test]
fn what_is_wrong_on_the_command_line_takes_two_lines() {
    let model = tiny("llama");
    for (args, parts) in [
        (
            &["lens", PROMPT, "-m", &model, "--positons", "3"][..],
            ["'--positons'", "hint: a similar argument"],
        ),
        (&["len", PROMPT], ["'len'", "hint: a similar subcommand exists: 'lens'"]),
        (&["lens", PROMPT], ["--model <REF>", "hint: name a model"]),
        (
            &["run", PROMPT, "-m", &model, "--format", "jsn"],
            ["'jsn'", "hint: a similar value exists: 'json'"],
        ),
        (&["run", PROMPT, "-m", &model, "-k", "0"], ["'0'", "hint: "]),
        (&["model", "info"], ["no model given", "hint: name one"]),
        (&["run", PROMPT, "-m", &model, "--\u{1b}[31mred"], ["red", "hint: "]),
    ] {
        let message = fails(2, args);
        let lines: Vec<&str> = message.lines().collect();
        assert!(lines.len() == 2 && lines[0].starts_with("error: "), "{message}");
        assert!(lines[0].contains(parts[0]) && lines[1].contains(parts[1]), "{message}");
        assert!(!message.contains('\u{1b}'), "{message}");
    }
}

#[test]
fn help_is_printed_whole_and_without_an_error() {
    let assert = easyroutine(&[]).assert().code(2);
    let shown = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(shown.contains("Commands:") && !shown.contains("error:"), "{shown}");
    assert!(succeeds(&["--version"]).starts_with("easyroutine "));
}

#[test]
fn the_manual_and_the_completions_go_to_a_file_too() {
    let folder = tempfile::tempdir().unwrap();
    for command in [&["man"][..], &["completions", "fish"]] {
        let file = folder.path().join("page");
        assert_eq!(succeeds(&[command, &["-o", file.to_str().unwrap()]].concat()), "");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), succeeds(command));
    }
    let manual = succeeds(&["man"]);
    for name in ["easyroutine\\-lens", "easyroutine\\-model\\-export", "easyroutine\\-man"] {
        assert!(manual.contains(name), "{name}");
    }
}

#[test]
fn one_line_of_json_is_the_same_json() {
    let model = tiny("llama");
    for command in [&["run", PROMPT, "-m", &model][..], &["lens", PROMPT, "-m", &model], &["model", "ls"]] {
        let lines = succeeds(&[command, &["--format", "jsonl"]].concat());
        assert_eq!(lines.lines().count(), 1);
        let one: serde_json::Value = serde_json::from_str(&lines).unwrap();
        assert_eq!(one, common::json(&[command, &["--format", "json"]].concat()));
    }
}

#[test]
fn rows_of_ids_beyond_the_context_are_cut_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (long, cut) = (format!("{:?}", [vec![3; 70]]), format!("{:?}", [vec![3; 64]]));
    let logits = |ids: &str, flags: &[&str]| {
        let file = folder.path().join("a.safetensors");
        let (model, file) = (tiny("llama"), file.to_str().unwrap());
        let args = ["extract", "--token-ids", ids, "-m", &model, "-a", "logits,input_ids", "-o", file];
        let assert = easyroutine(&[&args, flags].concat()).assert().success();
        (std::fs::read(file).unwrap(), String::from_utf8(assert.get_output().stderr.clone()).unwrap())
    };
    // Identical bytes: two files of one run are equal.
    let (ours, warning) = logits(&long, &["--truncate"]);
    assert!(warning.contains("row 0: kept the first 64 of 70 tokens"), "{warning}");
    assert!(ours == logits(&cut, &[]).0);
}

#[test]
#[cfg(target_os = "linux")]
fn a_continuation_that_cannot_be_written_is_an_error() {
    let full = std::fs::File::create("/dev/full").unwrap();
    let command = easyroutine(&["run", PROMPT, "-m", &tiny("llama"), "--generate", "2"]);
    let output = std::process::Command::new(command.get_program())
        .args(command.get_args())
        .stdout(full)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.contains("standard output")), (Some(1), true), "{said}");
}

#[test]
fn a_byte_order_mark_is_not_of_the_prompt() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, format!("\u{feff}{PROMPT}\n")).unwrap();
    let file = file.path().to_str().unwrap();
    let tokens = |prompt: &[&str]| succeeds(&[&["tokens", "-m", &tiny("llama")], prompt].concat());
    assert_eq!(tokens(&["--file", file]), tokens(&[PROMPT]));
}

#[test]
fn a_file_without_end_is_no_prompt() {
    if std::path::Path::new("/dev/zero").exists() {
        let message = fails(1, &["tokens", "--file", "/dev/zero", "-m", &tiny("llama")]);
        assert!(message.contains("/dev/zero"), "{message}");
    }
}

#[test]
#[cfg(unix)]
fn a_link_stays_a_link_and_a_device_a_device() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().join("real.json");
    let link = folder.path().join("link.json");
    std::fs::write(&real, "old").unwrap();
    symlink("real.json", &link).unwrap();
    succeeds(&["run", PROMPT, "-m", &tiny("llama"), "-o", link.to_str().unwrap()]);
    assert!(link.is_symlink() && std::fs::read_to_string(&real).unwrap().starts_with('{'));
    // A device in a folder of ours: if it were replaced, only the link would be.
    let null = folder.path().join("null.json");
    symlink("/dev/null", &null).unwrap();
    succeeds(&["run", PROMPT, "-m", &tiny("llama"), "-o", null.to_str().unwrap()]);
    assert!(null.is_symlink() && std::fs::metadata(&null).unwrap().file_type().is_char_device());
    let activations = folder.path().join("null.safetensors");
    symlink("/dev/null", &activations).unwrap();
    let target = activations.to_str().unwrap();
    succeeds(&["extract", PROMPT, "-m", &tiny("llama"), "-a", "logits", "-o", target]);
    assert!(activations.is_symlink());
    // A pipe whose name in the system is not a path.
    let piped = succeeds(&["run", PROMPT, "-m", &tiny("llama"), "-o", "/dev/stdout", "--format", "json"]);
    assert!(piped.starts_with('{'), "{piped}");
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 4, "a partial file was left in {}", path(&folder));
}

#[test]
fn two_runs_that_write_one_file_leave_one_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.json");
    std::thread::scope(|scope| {
        for k in ["1", "300"] {
            let file = file.to_str().unwrap();
            scope.spawn(move || {
                for _ in 0..5 {
                    succeeds(&["run", PROMPT, "-m", &tiny("llama"), "-k", k, "-o", file]);
                }
            });
        }
    });
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert!([1, 300].contains(&written["top"].as_array().unwrap().len()));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_variable_that_is_set_to_nothing_is_not_set() {
    let model = tiny("llama");
    let plain = succeeds(&["run", PROMPT, "-m", &model]);
    for name in ["THREADS", "DTYPE", "DEVICE", "SEED", "SIMD", "OFFLINE", "FORMAT", "MODEL"] {
        assert_eq!(with(&format!("EASYROUTINE_{name}"), "", &["run", PROMPT, "-m", &model]), plain, "{name}");
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_is_replaced_keeps_its_readers() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.json");
    let run = |to: &std::path::Path| {
        let to = to.to_str().unwrap().to_owned();
        easyroutine(&["run", PROMPT, "-m", &tiny("llama"), "-o", &to]).assert()
    };
    let set = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    let mode = || file.metadata().unwrap().permissions().mode() & 0o777;
    std::fs::write(&file, "old").unwrap();
    set(0o600);
    run(&file).success();
    assert_eq!(mode(), 0o600);
    set(0o444);
    run(&file).code(1);
    assert_eq!(mode(), 0o444);
    // A link to a file that does not exist yet.
    let (link, new) = (folder.path().join("link.json"), folder.path().join("new.json"));
    symlink("new.json", &link).unwrap();
    run(&link).success();
    assert!(link.is_symlink() && new.is_file());
    let said = String::from_utf8(run(folder.path()).code(2).get_output().stderr.clone()).unwrap();
    assert!(said.contains("names no format") || said.contains("is a folder"), "{said}");
}

#[test]
fn a_name_that_is_neither_here_nor_on_the_hub_says_so() {
    let said = fails(3, &["run", PROMPT, "--offline", "-m", "smollm"]);
    assert!(said.contains("no file or folder `smollm` here") && said.contains("`smollm2`?"), "{said}");
    let said = fails(2, &["run", PROMPT, "--offline", "-m", "smollm2", "--revision", "main2"]);
    assert!(said.contains("no revisions"), "{said}");
}

#[test]
fn the_manual_lists_variables_and_exit_statuses() {
    let page = succeeds(&["man"]);
    for word in ["ENVIRONMENT", "EASYROUTINE_SIMD", "HF_TOKEN", "NO_COLOR", "EXIT STATUS", "fB130"] {
        assert!(page.contains(word), "{word}");
    }
}
