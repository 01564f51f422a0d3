//! `extract` over files of prompts: formats, batches, averages, and an interrupted run.

use crate::common;

use std::path::{Path, PathBuf};

use common::{copy, easyroutine, fails, path, succeeds, tiny};
use easyroutine_files::{Encoding, ShardedSafeTensors};

const TEXTS: [&str; 5] = ["the cat sat", "the dog", "a mat on the floor of the house", "the", "sat on it"];

/// A folder for inputs and outputs.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn written(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Extracts, and returns the bytes of the file.
    #[track_caller]
    fn extract(&self, args: &[&str]) -> Vec<u8> {
        let target = self.path("out.safetensors");
        let model = tiny("llama");
        succeeds(&[&["extract", "-m", &model, "-o", target.to_str().unwrap()], args].concat());
        std::fs::read(target).unwrap()
    }

    fn file(&self) -> ShardedSafeTensors {
        ShardedSafeTensors::open(self.path("out.safetensors")).unwrap()
    }
}

fn shape(file: &ShardedSafeTensors, name: &str) -> Vec<usize> {
    file.tensor(name).unwrap_or_else(|| panic!("no tensor {name}")).shape().to_vec()
}

fn values(file: &ShardedSafeTensors, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
    if tensor.encoding() != Encoding::I64 {
        return tensor.read_all().unwrap();
    }
    tensor.bytes().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32).collect()
}

fn jsonl(field: &str) -> String {
    let record = |(id, text): (usize, &&str)| serde_json::json!({"id": id, field: text}).to_string() + "\n";
    TEXTS.iter().enumerate().map(record).collect()
}

#[test]
fn every_format_and_any_batches_give_the_same_file() {
    let place = Place::new();
    let text = place.written("a.txt", TEXTS.join("\n\n"));
    let records = place.written("a.jsonl", jsonl("prompt"));
    let keys = ["-a", "resid_out_*,logits,pattern_L1H*,input_ids", "--positions", "all,random-text"];
    let expected = place.extract(&[&["--file", &text], &keys[..]].concat());
    for batch_tokens in ["1", "8", "100"] {
        let batches = ["--batch-tokens", batch_tokens];
        assert!(
            place.extract(&[&["--file", &text], &keys[..], &batches].concat()) == expected,
            "{batch_tokens}"
        );
    }
    assert!(place.extract(&[&["--file", &records, "--field", "prompt"], &keys[..]].concat()) == expected);
    // Rows are in input order, each as if alone.
    let file = place.file();
    let offsets = values(&file, "resid_out_2.offsets");
    assert_eq!(offsets.len(), 6);
    let all = values(&file, "resid_out_2");
    for (row, text) in TEXTS.iter().enumerate() {
        let alone = Place::new();
        alone.extract(&[text, "-a", "resid_out_2"]);
        let start = offsets[row] as usize * 48;
        let row = values(&alone.file(), "resid_out_2");
        assert_eq!(all[start..start + row.len()], row, "{text}");
    }
}

#[test]
fn a_limit_reads_the_first_prompts_only() {
    let place = Place::new();
    let text = place.written("a.txt", b"one\ntwo\nbroken \xff\n");
    place.extract(&["--file", &text, "-a", "logits", "--positions", "last", "--limit", "2"]);
    assert_eq!(shape(&place.file(), "logits"), [2, 1, 320]);
}

#[test]
fn token_ids_in_a_file_are_taken_as_they_are() {
    let place = Place::new();
    let ids = place.written("a.jsonl", "{\"ids\": [5, 6, 7]}\n{\"ids\": [8, 9]}\n");
    place.extract(&["--file", &ids, "--field", "ids", "-a", "input_ids"]);
    assert_eq!(values(&place.file(), "input_ids"), [5.0, 6.0, 7.0, 8.0, 9.0]);
}

#[test]
fn averages_and_blocks_are_written_with_their_tables() {
    let place = Place::new();
    let text = place.written("a.txt", TEXTS.join("\n"));
    place.extract(&["--file", &text, "-a", "resid_out_0,pattern_L0H0", "--avg", "--positions", "all,last"]);
    let file = place.file();
    assert_eq!(shape(&file, "resid_out_0"), [5, 2, 48]);
    assert_eq!(shape(&file, "pattern_L0H0"), [5, 2, 2]);
    assert_eq!(file.metadata()["mapping_index"], r#"{"all":[0],"last":[1],"info":"avg"}"#);

    let blocks = ["-a", "pattern_L0H0", "--pattern-avg", "baseline-ratio", "--pattern-rows", "last"];
    place.extract(&[&["--file", &text], &blocks[..]].concat());
    let file = place.file();
    assert_eq!(shape(&file, "pattern_L0H0"), [5], "columns differ from row to row, so all keys lie flat");
    assert!(values(&file, "pattern_L0H0").iter().all(|ratio| (ratio - 1.0).abs() < 1e-5));
    assert_eq!(file.metadata()["mapping_index_rows"], r#"{"last":[0]}"#);
    assert!(file.metadata()["token_dict_rows"].starts_with(r#"{"last":[["#));

    let means = ["-a", "pattern_*,resid_out_1", "--avg-over-examples", "--positions", "0,last"];
    place.extract(&[&["--file", &text, "--bos", "yes"], &means[..]].concat());
    let file = place.file();
    assert_eq!(shape(&file, "avg_pattern_L2H3"), [1, 2, 2]);
    assert!(file.tensor("pattern_L2H3").is_none());
    assert_eq!(shape(&file, "resid_out_1"), [5, 2, 48]);
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_line_or_row() {
    let place = Place::new();
    let model = tiny("llama");
    let out = place.path("x.safetensors");
    let refused = |code: i32, args: &[&str]| {
        let message = fails(code, &[&["extract", "-m", &model, "-o", out.to_str().unwrap()], args].concat());
        assert!(!out.exists());
        message
    };
    let records = place.written("a.jsonl", jsonl("prompt"));
    let message = refused(1, &["--file", &records, "-a", "logits"]);
    assert!(
        message.contains("a.jsonl: line 1, row 0: there is no field `text`; there are `id`, `prompt`"),
        "{message}"
    );
    assert!(message.contains("hint: say which holds the prompts: --field NAME"), "{message}");
    let long = place.written("b.txt", format!("short\n{}\n", "cat ".repeat(2000)));
    let message = refused(2, &["--file", &long, "-a", "logits"]);
    assert!(
        message.contains("row 1: the prompt has 4001 tokens") && message.contains("--truncate"),
        "{message}"
    );
    let text = place.written("c.txt", "one\n");
    assert!(refused(2, &["--file", &text, "--field", "text", "-a", "logits"]).contains("have no fields"));
    assert!(
        refused(2, &["--file", &text, "-a", "logits", "--pattern-avg", "mean"])
            .contains("attention patterns")
    );
    let over = ["-a", "pattern_*", "--avg-over-examples"];
    let two = place.written("d.txt", "one\none two three\n");
    let message = refused(2, &[&["--file", &two], &over[..]].concat());
    assert!(message.contains("a mean over examples needs as many positions in every row"), "{message}");
    let empty = place.written("e.txt", "\n");
    assert!(refused(2, &["--file", &empty, "-a", "logits"]).contains("no prompt"));
}

#[test]
fn a_flag_that_would_change_nothing_is_a_usage_error() {
    let place = Place::new();
    let (model, out) = (tiny("llama"), place.path("out.safetensors"));
    let ids = ["extract", "--token-ids", "[[5,6,7,8]]", "-m", &model, "-a", "resid_out_0"];
    let to_file = ["-o", out.to_str().unwrap()];
    let refused = |more: &[&str]| fails(2, &[&ids[..], more, &to_file].concat());
    assert!(refused(&["--bos", "yes"]).contains("--token-ids"));
    assert!(refused(&["--pivot", "2"]).contains("inputs-partition-0"));
    assert!(refused(&["--field", "text"]).contains("--field is for prompts of a file"));
    assert!(refused(&["--limit", "1"]).contains("--limit is for prompts of a file"));
    assert!(refused(&["--format", "json"]).contains("--format"));
    assert!(!out.exists());
    succeeds(
        &[&ids[..], &["--bos", "auto", "--pivot", "2", "--positions", "inputs-partition-1"], &to_file]
            .concat(),
    );
    assert_eq!(shape(&place.file(), "resid_out_0")[..2], [1, 2]);
    // A store keeps the pivots, so that queries can use them.
    let store = format!("{}/", place.path("runs").display());
    succeeds(&[&ids[..], &["--pivot", "2", "-o", &store]].concat());
}

#[test]
fn a_long_prompt_is_cut_where_that_is_allowed_and_said_once() {
    let place = Place::new();
    let long = "cat ".repeat(2000);
    let text = place.written("a.txt", format!("short\n{long}\n{long}\n"));
    let out = place.path("out.safetensors");
    let model = tiny("llama");
    let args = ["extract", "-m", &model, "--file", &text, "-a", "input_ids", "--truncate", "-o"];
    let assert = easyroutine(&[&args[..], &[out.to_str().unwrap()]].concat()).assert().success();
    let said = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert_eq!(said.matches("warning").count(), 1, "{said}");
    assert!(said.contains("tokens of 2 rows"), "{said}");
}

/// Starts a long run, interrupts it soon after it has begun, and returns exit code and messages.
#[cfg(target_os = "linux")]
fn interrupted(place: &Place, out: &Path) -> (Option<i32>, String) {
    use std::io::Read;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let ids: Vec<usize> = (0..60).map(|i| 3 + i % 300).collect();
    let record = serde_json::json!({"ids": ids}).to_string() + "\n";
    let many = place.written("many.jsonl", record.repeat(30_000));
    let model = tiny("llama");
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("easyroutine"))
        .args(["extract", "-m", &model, "--file", &many, "--field", "ids", "-a", "resid_out_2"])
        .args(["--positions", "last", "--batch-tokens", "512", "--threads", "1", "-o", out.to_str().unwrap()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !watches_for_interrupts(child.id()) && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let status = child.wait().unwrap();
    assert!(start.elapsed() < Duration::from_secs(60), "it went on");
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (status.code(), said)
}

/// Whether a process handles signal 2 itself (proc_pid_status(5), `SigCgt`).
#[cfg(target_os = "linux")]
fn watches_for_interrupts(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 2 != 0)
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_run_leaves_what_is_done() {
    let place = Place::new();
    let out = place.path("out.safetensors");
    let (code, said) = interrupted(&place, &out);
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("interrupted: ") && said.contains("of 30000 rows are in"), "{said}");
    let file = place.file();
    let rows = values(&file, "rows");
    assert!(rows.len() < 30_000 && rows.is_sorted());
    assert_eq!(shape(&file, "resid_out_2"), [rows.len(), 1, 48]);
    assert_eq!(file.metadata()["interrupted"], format!("{} of 30000 rows", rows.len()));
}

#[test]
fn empty_rows_are_passed_over_with_a_count_and_the_others_keep_their_numbers() {
    let place = Place::new();
    let records = "{\"text\": \"the cat\"}\n{\"text\": \"\"}\n{\"text\": null}\n{\"text\": \"sat on\"}\n";
    let file = place.written("a.jsonl", records);
    let (model, out) = (tiny("llama"), place.path("out.safetensors"));
    let asked = ["extract", "--file", &file, "-m", &model, "-a", "resid_out_0", "--positions", "last"];
    let into = ["-o", out.to_str().unwrap()];
    let message = fails(1, &[&asked[..], &into].concat());
    assert!(
        message.contains("line 2, row 1: `text` is empty") && message.contains("--skip-empty"),
        "{message}"
    );
    let output =
        easyroutine(&[&asked[..], &into, &["--skip-empty"]].concat()).assert().success().get_output().clone();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("skipped 2 empty rows"), "{said}");
    assert_eq!(values(&place.file(), "rows"), [0.0, 3.0]);
    let table = place.written("b.csv", "id,text\n1,the cat\n2,\"sat\non\"\n");
    let whole = ["-a", "input_ids", "--positions", "all"];
    place.extract(&[&["--file", &table], &whole[..]].concat());
    assert!(place.file().tensor("rows").is_none());
    let base = format!("{}/", place.0.path().display());
    place.written("a.jsonl", records.replace("\"}", "\", \"n\": 7}").replace("null}", "null, \"n\": 8}"));
    succeeds(&[&asked[..], &["--skip-empty", "--keep-fields", "n,text", "-o", &base]].concat());
    let shown = easyroutine(&["runs", "-b", &base, "show", "-1", "--format", "json"])
        .assert()
        .success()
        .get_output()
        .clone();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["values"]["row"], serde_json::json!([0, 3]));
    assert_eq!(shown["values"]["n"], serde_json::json!([7, 7]));
    assert_eq!(shown["values"]["text"], serde_json::json!(["the cat", "sat on"]));
    // A field of the file with this name is kept.
    place.written("a.jsonl", records.replace("\"}", "\", \"row\": 7}").replace("null}", "null, \"row\": 8}"));
    succeeds(&[&asked[..], &["--skip-empty", "--keep-fields", "row", "-o", &base]].concat());
    let shown = common::json(&["runs", "-b", &base, "show", "-1", "--format", "json"]);
    assert_eq!(shown["values"]["row_of_file"], serde_json::json!([0, 3]));
    assert_eq!(shown["values"]["row"], serde_json::json!([7, 7]));
}

#[test]
fn of_a_row_that_is_too_long_only_the_beginning_is_cut() {
    let place = Place::new();
    let row = |text: String| serde_json::json!({"text": text}).to_string() + "\n";
    // Far longer than the model's input; the whole length is found in one go.
    let long = "the cat sat on the mat and said so ".repeat(60_000);
    let file = place.written("long.jsonl", row("the dog".to_owned()) + &row(long.clone()));
    let target = place.path("out.safetensors");
    let model = tiny("llama");
    let args = ["extract", "--file", &file, "-m", &model, "-a", "input_ids", "-o", target.to_str().unwrap()];
    let refused = fails(2, &args);
    assert!(refused.contains("row 1: the prompt has more than 64 tokens"), "{refused}");
    let kept =
        easyroutine(&[&args[..], &["--truncate"]].concat()).assert().success().get_output().stderr.clone();
    let kept = String::from_utf8(kept).unwrap();
    assert!(kept.contains("row 1: kept the first 64 of more than 64 tokens"), "{kept}");
    let cut = values(&place.file(), "input_ids");
    place.extract(&["--truncate", "-a", "input_ids", &long[..1000]]);
    assert!(cut.ends_with(&values(&place.file(), "input_ids")));
    // The truncated part does not belong to the row, not even for positions by substring.
    let late = place.written("late.jsonl", row("the cat sat ".repeat(40_000) + "late"));
    let args = ["extract", "--file", &late, "-m", &model, "-a", "logits", "-o", target.to_str().unwrap()];
    let missing = fails(2, &[&args[..], &["--truncate", "--positions", "text:late"]].concat());
    assert!(missing.contains("does not contain \"late\""), "{missing}");
}

#[test]
fn rows_whose_blank_is_doubtful_are_warned_of_once() {
    let folder = copy("llama");
    let metaspace = serde_json::json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "merges": [["\u{2581}", "a"]],
            "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "\u{2581}": 3, "a": 4, "b": 5, "\u{2581}a": 6}}});
    std::fs::write(folder.path().join("tokenizer.json"), metaspace.to_string()).unwrap();
    let settings = r#"{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), settings).unwrap();
    let place = Place::new();
    let target = place.path("out.safetensors");
    let warned = |rows: &[&str]| {
        let lines: String =
            rows.iter().map(|text| serde_json::json!({"text": text}).to_string() + "\n").collect();
        let file = place.written("rows.jsonl", lines);
        let args =
            ["extract", "--file", &file, "-m", path(&folder), "-a", "logits", "-o", target.to_str().unwrap()];
        let said = easyroutine(&args).assert().success().get_output().stderr.clone();
        let said = String::from_utf8(said).unwrap();
        said.lines().filter(|line| line.contains("no further blank")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(warned(&["a b", "b"]).is_empty());
    assert!(warned(&["a b", " b"])[0].contains("row 1: the text begins with a blank"));
    let [one] = &warned(&[" a", "b", " b"])[..] else { panic!("not one warning") };
    assert!(one.contains("2 rows, the first of them 0: the text begins with a blank"), "{one}");
    assert!(warned(&[" a"])[0].contains("warning: the text begins with a blank"));
}
