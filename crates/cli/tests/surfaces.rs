//! Formats, files, colour and pipes of every command.

use crate::common;

use std::process::{Command, Stdio};

use common::{easyroutine, fails, json, path, succeeds, tiny, with_tensors};
use serde_json::Value;

const PROMPT: &str = "the cat sat";

#[track_caller]
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_json_of_the_lens_has_these_fields_and_no_others() {
    let model = tiny("llama");
    let args = ["lens", PROMPT, "-m", &model, "-k", "2", "--format", "json", "--track", "id:7"];
    let report = json(&args);
    assert_eq!(keys(&report), ["schema", "model", "settings", "tokens", "layers", "final_top"]);
    let card = ["name", "commit", "model_type", "n_layers", "d_model", "vocab_size", "dtype"];
    assert_eq!(keys(&report["model"]), card);
    assert_eq!(keys(&report["tokens"][0]), ["position", "id", "text"]);
    assert_eq!(keys(&report["layers"][0]), ["layer", "name", "positions"]);
    let cell = &report["layers"][1]["positions"][0];
    let documented = ["position", "top", "entropy", "kl_to_final", "rank_of_next"];
    assert_eq!(keys(cell), [&documented[..], &["logprob_of_final_top", "tracked"]].concat());
    assert_eq!(keys(&cell["top"][0]), ["id", "text", "logprob"]);
    assert_eq!(report["settings"]["tracked"]["id"], 7);
}

#[test]
fn a_head_is_named_in_the_row_that_reads_it() {
    let model = tiny("llama");
    let args = ["lens", PROMPT, "-m", &model, "--component", "head_out", "--layers", "1", "--format", "json"];
    let report = json(&args);
    let rows = report["layers"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|l| l["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["head_out_L1H0", "head_out_L1H1", "head_out_L1H2", "head_out_L1H3"]);
}

#[test]
fn positions_of_the_lens_are_shown_once_and_in_order() {
    let model = tiny("llama");
    let flags = ["--positions", "4:6", "--positions", "0,-2", "--positions", "text:cat"];
    let args = [&["lens", PROMPT, "-m", &model, "--format", "json", "--layers", "-1"], &flags[..]].concat();
    let report = json(&args);
    let cells = report["layers"][0]["positions"].as_array().unwrap();
    let shown: Vec<u64> = cells.iter().map(|c| c["position"].as_u64().unwrap()).collect();
    assert_eq!(shown, [0, 1, 2, 4, 5], "` ca` and `t` cover cat");
}

#[test]
fn every_plain_command_writes_every_plain_format() {
    let model = tiny("llama");
    let commands: [&[&str]; 6] = [
        &["run", PROMPT, "-m", &model],
        &["tokens", PROMPT, "-m", &model],
        &["model", "info", &model],
        &["model", "ls"],
        &["model", "check", &model],
        &["env"],
    ];
    let folder = tempfile::tempdir().unwrap();
    for command in commands {
        let rows = succeeds(&[command, &["--format", "tsv"]].concat()).lines().count();
        for (format, ending, lines) in
            [("table", "txt", rows), ("csv", "csv", rows), ("tsv", "tsv", rows), ("md", "md", rows + 1)]
        {
            let printed = succeeds(&[command, &["--format", format]].concat());
            assert_eq!(printed.lines().count(), lines, "{command:?} {format}");
            let file = folder.path().join(format!("a.{ending}"));
            succeeds(&[command, &["-o", file.to_str().unwrap()]].concat());
            // A time or a deviation may differ between two runs; the written lines are the same.
            assert_eq!(std::fs::read_to_string(file).unwrap().lines().count(), lines, "{command:?} {ending}");
        }
        let schema = json(&[command, &["--format", "json"]].concat())["schema"].as_str().unwrap().to_owned();
        assert!(schema.starts_with("easyroutine.") && schema.ends_with("/1"), "{schema}");
        let refused = fails(2, &[command, &["--format", "png"]].concat());
        assert!(refused.contains("hint: it writes table, tsv, json, csv, md"), "{refused}");
    }
}

#[test]
fn the_lens_writes_its_tables_by_the_ending_too() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny("llama");
    for (ending, sign) in
        [("txt", "input"), ("tsv", "\t"), ("csv", ","), ("md", "|"), ("json", "\"easyroutine.lens/1\"")]
    {
        let file = folder.path().join(format!("a.{ending}"));
        let printed = succeeds(&["lens", PROMPT, "-m", &model, "-o", file.to_str().unwrap()]);
        assert_eq!(printed, "", "a file is asked for, and nothing else");
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.contains(sign) && !text.contains('\u{1b}'), "{ending}: {text}");
    }
}

#[test]
fn dark_pictures_differ_from_light_ones() {
    let drawn = |flags: &[&str]| {
        succeeds(&[&["lens", PROMPT, "-m", &tiny("llama"), "--format", "svg"], flags].concat())
    };
    assert_eq!(drawn(&[]), drawn(&[]), "the same picture twice");
    assert_ne!(drawn(&["--dark"]), drawn(&[]));
    assert_ne!(drawn(&["--metric", "kl"]), drawn(&[]));
}

#[test]
fn colour_follows_the_flag_on_both_streams() {
    let model = tiny("llama");
    let both = |flags: &[&str], variables: &[(&str, &str)]| {
        let table = ["lens", PROMPT, "-m", &model, "--format", "table"];
        let out = easyroutine(&[&table, flags].concat()).envs(variables.iter().copied()).assert().success();
        let wrong = ["run", PROMPT, "-m", "./nowhere"];
        let err = easyroutine(&[&wrong, flags].concat()).envs(variables.iter().copied()).assert().code(3);
        [out.get_output().stdout.contains(&0x1b), err.get_output().stderr.contains(&0x1b)]
    };
    assert_eq!(both(&[], &[]), [false, false], "a pipe");
    assert_eq!(both(&[], &[("NO_COLOR", "1")]), [false, false]);
    assert_eq!(both(&["--color", "never"], &[("CLICOLOR_FORCE", "1")]), [false, false]);
    assert_eq!(both(&["--color", "always"], &[]), [true, true]);
    assert_eq!(both(&["--color", "always"], &[("NO_COLOR", "1")]), [true, true], "a flag beats a variable");
}

#[test]
fn a_reader_that_has_gone_is_a_quiet_end() {
    let program = assert_cmd::cargo::cargo_bin!("easyroutine");
    for args in [
        &["lens", PROMPT, "-m", &tiny("llama")][..],
        &["run", PROMPT, "-m", &tiny("llama")],
        &["lens", PROMPT, "-m", &tiny("llama"), "--format", "png"],
        &["completions", "zsh"],
        &["man"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        // Closed before the program writes its first byte, so that output cannot hide in the pipe's buffer.
        drop(reader);
        let child = Command::new(program).args(args).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{args:?}");
    }
}

#[test]
fn ids_that_no_token_names_are_shown() {
    let folder = with_tensors("llama", |tensors| {
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            let tensor = tensors.iter_mut().find(|t| t.0 == name).unwrap();
            let more = tensor.3[..10 * 48 * 4].to_vec();
            tensor.3.extend(more);
            tensor.2[0] = 330;
        }
    });
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"vocab_size\": 320", "\"vocab_size\": 330")).unwrap();
    let all = json(&["run", PROMPT, "-m", path(&folder), "-k", "330", "--format", "json"]);
    let top = all["top"].as_array().unwrap();
    assert_eq!(top.len(), 330);
    let unnamed: Vec<&Value> = top.iter().filter(|t| t["id"].as_u64().unwrap() >= 320).collect();
    assert_eq!(unnamed.len(), 10);
    for token in unnamed {
        let (id, text) = (token["id"].to_string(), token["text"].as_str().unwrap());
        assert!(text.contains(&id), "id {id} is shown as {text:?}");
    }
    succeeds(&["lens", PROMPT, "-m", path(&folder), "-k", "330"]);
    succeeds(&["lens", PROMPT, "-m", path(&folder), "--track", "id:325", "--metric", "tracked"]);
}

#[test]
#[cfg(unix)]
fn an_extracted_file_is_as_open_as_any_other() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) = (folder.path().join("a.safetensors"), folder.path().join("other"));
    std::fs::write(&other, "").unwrap();
    succeeds(&["extract", PROMPT, "-m", &tiny("llama"), "-a", "logits", "-o", ours.to_str().unwrap()]);
    let mode = |file| std::fs::metadata(file).unwrap().permissions().mode();
    assert_eq!(mode(ours), mode(other));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "a partial file was left");
}

#[test]
fn a_bf16_export_is_half_the_size_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let target = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (half, whole) = (target("half"), target("whole"));
    succeeds(&["model", "export", &tiny("llama"), &half, "--dtype", "bf16"]);
    succeeds(&["model", "export", &tiny("llama"), &whole]);
    let size = |of: &str| std::fs::metadata(format!("{of}/model.safetensors")).unwrap().len();
    assert!(size(&half) * 10 < size(&whole) * 6, "{} against {}", size(&half), size(&whole));
    succeeds(&["run", PROMPT, "-m", &half]);
}

/// Characters that a terminal would obey: controls other than line ends and tabs, and those that change the writing
/// direction.
fn obeyed(text: &str) -> Option<char> {
    let turns = |c: char| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().find(|&c| c.is_control() && !matches!(c, '\n' | '\t') || turns(c))
}

#[test]
fn no_output_holds_what_a_terminal_obeys() {
    let evil = "\u{1b}[31m\u{9b}2J\u{202e}\u{7f}";
    let folder = tempfile::tempdir().unwrap();
    let base = format!("{}/", path(&folder));
    let name = tiny("llama");
    // A model's path with such characters is refused, and the error shows it.
    let unreadable = format!("{}/m{evil}", path(&folder));
    let meta = format!("key{evil}=value{evil}");
    let prompt = format!("the{evil}cat");
    succeeds(&["extract", &prompt, "-m", &name, "-a", "resid_out_0", "-o", &base, "--meta", &meta]);
    std::fs::create_dir_all(format!("{base}/default/broken{evil}")).unwrap();
    std::fs::write(format!("{base}/default/broken{evil}/metadata.json"), "{").unwrap();
    let missing = format!("{base}none{evil}");
    let commands: &[&[&str]] = &[
        &["runs", "-b", &base, "ls"],
        &["runs", "-b", &base, "show", "0"],
        &["runs", "-b", &base, "verify"],
        &["runs", "-b", &base, "query", "x = 1"],
        &["runs", "-b", &base, "load", &prompt],
        &["tokens", &prompt, "-m", &name],
        &["run", &prompt, "-m", &name],
        &["model", "info", &name],
        &["model", "info", &missing],
        &["model", "info", &unreadable],
        &["tokens", "--file", &missing, "-m", &name],
        &["run", "a", "-m", &name, "--intervene", &prompt],
        &["run", "a", "-m", &name, "--bos", &prompt],
        &["extract", "a", "-m", &name, "-a", &prompt, "-o", &base],
    ];
    for command in commands {
        for format in ["table", "tsv", "csv", "md", "json", "jsonl"] {
            if command[0] == "extract" && format != "json" {
                continue;
            }
            let words = [command, &["--format", format][..]].concat();
            let output = easyroutine(&words).env("HF_ENDPOINT", evil).output().unwrap();
            for text in [output.stdout, output.stderr] {
                // Lines of CSV end as in RFC 4180.
                let text = String::from_utf8(text).unwrap().replace("\r\n", "\n");
                assert_eq!(obeyed(&text), None, "{words:?}: {text:?}");
            }
        }
    }
    let output = easyroutine(&["env", "--format", "json"]).env("HF_ENDPOINT", evil).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(obeyed(&text), None, "{text:?}");
    // JSON parsers get the original text.
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["HF_ENDPOINT"], evil);
}

#[test]
fn tables_in_a_pipe_are_read_by_other_programs_row_by_row() {
    let model = tiny("llama");
    let prompt = "\"a\" =1+1 \"\n\tb @x -c";
    for (format, between) in [("tsv", b'\t'), ("csv", b',')] {
        for command in ["tokens", "lens"] {
            let output = easyroutine(&[command, prompt, "-m", &model, "--format", format]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let mut reader = csv::ReaderBuilder::new().delimiter(between).from_reader(text.as_bytes());
            let rows = reader.records().collect::<Result<Vec<_>, _>>().unwrap();
            assert_eq!(rows.len(), text.lines().count() - 1, "{text}");
            let is_formula =
                |cell: &str| cell.starts_with(['=', '+', '-', '@']) && cell.parse::<f64>().is_err();
            assert!(!rows.iter().any(|row| row.iter().any(is_formula)), "{text}");
        }
    }
    let output = easyroutine(&["tokens", "<b>[x](y)|", "-m", &model, "--format", "md"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let active = |c: char| "<[|".contains(c);
    let is_bare = |line: &str| {
        line.trim_matches('|')
            .replace(" | ", "")
            .replace("\\", "\0")
            .chars()
            .collect::<Vec<_>>()
            .windows(2)
            .any(|w| active(w[1]) && w[0] != '\0')
    };
    assert!(!text.lines().any(is_bare), "{text}");
}
