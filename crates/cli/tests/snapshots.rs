//! Help and plain tables, word for word, compared with the files of `expected/`. `EASYROUTINE_BLESS=1` rewrites them.

use crate::common;

use std::path::Path;

use common::{easyroutine, json, tiny};

const PROMPT: &str = "the cat sat";

/// Fails if `text` differs from the file, ignoring spaces at line ends.
#[track_caller]
fn is_as_expected(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expected").join(name);
    let text: String = text.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    if std::env::var_os("EASYROUTINE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{name}: {e}; EASYROUTINE_BLESS=1 writes it"));
    for (number, (ours, theirs)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(ours, theirs, "{name}, line {}; EASYROUTINE_BLESS=1 accepts it", number + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count(), "{name}: number of lines");
}

/// Standard output at 100 columns, with one instruction set.
#[track_caller]
fn printed(args: &[&str], simd: &str) -> String {
    let assert = easyroutine(args).env("COLUMNS", "100").env("EASYROUTINE_SIMD", simd).assert().success();
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn simd_paths() -> Vec<String> {
    let seen = json(&["env", "--format", "json"]);
    seen["simd_available"].as_str().unwrap().split(", ").map(str::to_owned).collect()
}

/// Numbers of a table with three decimals: the last digits differ between instruction sets.
fn rounded(tsv: &str) -> String {
    let cell = |cell: &str| match cell.parse::<f64>() {
        Ok(number) if cell.contains('.') => format!("{number:.3}"),
        _ => cell.to_owned(),
    };
    tsv.lines().map(|l| l.split('\t').map(cell).collect::<Vec<_>>().join("\t") + "\n").collect()
}

#[test]
fn the_help_of_every_command_is_as_expected() {
    let commands: [&[&str]; 31] = [
        &[],
        &["lens"],
        &["attn"],
        &["extract"],
        &["run"],
        &["tokens"],
        &["runs"],
        &["runs", "query"],
        &["runs", "load"],
        &["runs", "lens"],
        &["runs", "tag"],
        &["runs", "gc"],
        &["model"],
        &["model", "info"],
        &["model", "show"],
        &["model", "ls"],
        &["model", "check"],
        &["model", "export"],
        &["dict", "info"],
        &["dict", "check"],
        &["dict", "page"],
        &["dict", "active"],
        &["dict", "export"],
        &["features"],
        &["compare"],
        &["direction"],
        &["probe", "fit"],
        &["probe", "apply"],
        &["serve"],
        &["env"],
        &["completions"],
    ];
    let mut all = String::new();
    for command in commands {
        let help = printed(&[command, &["--help"]].concat(), "portable");
        all += &format!("$ easyroutine {}\n{help}\n", [command, &["--help"]].concat().join(" "));
    }
    is_as_expected("help.txt", &all);
}

#[test]
fn the_lens_table_is_as_expected_on_every_path_of_the_arithmetic() {
    for simd in simd_paths() {
        for metric in ["final", "rank", "kl"] {
            let model = tiny("llama");
            let args = ["lens", PROMPT, "-m", &model, "--format", "table", "--metric", metric];
            is_as_expected(&format!("lens_{metric}.txt"), &printed(&args, &simd));
        }
    }
}

#[test]
fn the_table_of_a_tuned_lens_is_as_expected_on_every_path_of_the_arithmetic() {
    let tuned = common::fixtures().join("torch/tuned_lens");
    for simd in simd_paths() {
        let model = tiny("llama");
        let args = ["lens", PROMPT, "-m", &model, "--tuned", tuned.to_str().unwrap(), "--format", "table"];
        is_as_expected("lens_tuned.txt", &printed(&args, &simd));
    }
}

#[test]
fn the_next_tokens_are_as_expected_on_every_path_of_the_arithmetic() {
    for simd in simd_paths() {
        let table = printed(&["run", PROMPT, "-m", &tiny("llama"), "-k", "5"], &simd);
        is_as_expected("run.tsv", &rounded(&table));
    }
}

#[test]
fn the_forward_pass_is_shown_as_expected() {
    for model in ["gemma2", "mixtral"] {
        let table = printed(&["model", "show", &tiny(model), "--format", "table"], "portable");
        is_as_expected(&format!("model_show_{model}.txt"), &table);
    }
    let shown = json(&["model", "show", &tiny("llama"), "--format", "json"]);
    let count = |section: &serde_json::Value| section["count"].as_u64().unwrap();
    assert_eq!(shown["sections"].as_array().unwrap().iter().map(count).sum::<u64>(), 5);
}

#[test]
fn the_tokens_of_a_text_are_as_expected() {
    let text = "the cat\u{1b}[31m s\u{e4}t\n\ton  \u{202e}it \u{1f600}";
    let table = printed(&["tokens", text, "-m", &tiny("llama"), "--format", "table"], "portable");
    is_as_expected("tokens.txt", &table);
}
