//! Bad input at the edges: missing files, false headers, unknown words.

use crate::common;

use common::{copy, easyroutine, fails, path, tiny, with_config};
use serde_json::json;

/// Runs a command that must fail; checks for `error:`, at most one `hint:` line, and `parts`.
#[track_caller]
fn refuses(code: i32, args: &[&str], parts: &[&str]) {
    let message = fails(code, args);
    let lines: Vec<&str> = message.lines().collect();
    assert!(lines[0].starts_with("error: ") && lines.len() <= 2, "{message}");
    assert!(lines.get(1).is_none_or(|line| line.starts_with("hint: ")), "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn a_folder_names_the_file_that_it_lacks() {
    for (lacking, code) in [("config.json", 3), ("model.safetensors", 3), ("tokenizer.json", 3)] {
        let folder = copy("llama");
        std::fs::remove_file(folder.path().join(lacking)).unwrap();
        refuses(code, &["run", "the cat", "-m", path(&folder)], &[lacking, "hint: "]);
    }
    let folder = copy("llama");
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let out = folder.path().join("a.safetensors");
    let target = out.to_str().unwrap();
    let ids = ["extract", "--token-ids", "[[1,2]]", "-m", path(&folder), "-a", "logits", "-o", target];
    easyroutine(&ids).assert().success();
    refuses(1, &[&ids[..], &["--positions", "special"]].concat(), &["`special`", "tokenizer"]);
}

#[test]
fn text_files_that_are_damaged_are_refused_by_name() {
    for (name, text) in [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", "{}"),
        ("config.json", "\u{0}"),
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
    ] {
        let folder = copy("llama");
        std::fs::write(folder.path().join(name), text).unwrap();
        let output = easyroutine(&["run", "the cat", "-m", path(&folder)]).assert().failure();
        let message = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        assert!(message.starts_with("error: ") && message.contains(name), "{text:?}: {message}");
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let folder = copy("llama");
    let file = folder.path().join("model.safetensors");
    let tensor = |shape: &str, from: u64, to: u64| {
        format!(r#"{{"model.norm.weight":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    for header in [
        tensor("[48]", 0, 1 << 40),
        tensor("[48]", 192, 0),
        tensor("[4611686018427387905]", 0, 4),
        tensor("[4294967296,4294967296,4294967296]", 0, 0),
        tensor("[-1]", 0, 4),
        "[".repeat(100_000),
        "{\"a\":".repeat(100_000),
        "not json".to_owned(),
    ] {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 192]);
        std::fs::write(&file, bytes).unwrap();
        refuses(1, &["run", "the cat", "-m", path(&folder)], &["model.safetensors"]);
    }
}

#[test]
fn quantised_weights_are_refused_by_the_name_of_the_method() {
    for method in ["gptq", "awq", "bitsandbytes"] {
        let folder = with_config("llama", |config| {
            config.insert("quantization_config".to_owned(), json!({"quant_method": method}));
        });
        for command in [&["run", "the cat", "-m", path(&folder)][..], &["model", "info", path(&folder)]] {
            refuses(4, command, &[method, "hint: "]);
        }
    }
}

#[test]
fn a_gguf_cut_anywhere_is_refused() {
    let whole = std::fs::read(common::fixtures().join("tokenizers/bytes.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cut.gguf");
    for length in [0, 3, 4, 8, 23, 24, 40, 100, 1000, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&file, &whole[..length.min(whole.len())]).unwrap();
        let output = easyroutine(&["run", "the cat", "-m", file.to_str().unwrap()]).assert().failure();
        let message = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        assert!(message.starts_with("error: ") && message.contains("cut.gguf"), "{length}: {message}");
    }
}

#[test]
fn prompts_that_cannot_be_read_are_refused() {
    let model = tiny("llama");
    for command in ["run", "lens", "tokens"] {
        refuses(2, &[command, "", "-m", &model], &["empty"]);
        refuses(1, &[command, "--file", "/nonexistent/prompt", "-m", &model], &["/nonexistent/prompt"]);
        let output = easyroutine(&[command, "-", "-m", &model]).write_stdin(b"ab\xff".to_vec()).assert();
        let message = String::from_utf8(output.code(1).get_output().stderr.clone()).unwrap();
        assert!(message.contains("standard input: not UTF-8 at byte 2"), "{message}");
        let output = easyroutine(&[command, "-", "-m", &model]).write_stdin("\n").assert().code(2);
        assert!(String::from_utf8(output.get_output().stderr.clone()).unwrap().contains("empty"));
    }
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("set.jsonl");
    std::fs::write(&set, "{\"text\": \"cat\"}\n").unwrap();
    for command in ["run", "lens", "attn", "tokens"] {
        let args = [command, "--file", set.to_str().unwrap(), "-m", &model];
        refuses(2, &args, &["set.jsonl", "one prompt", "extract --file"]);
    }
    refuses(2, &["run", "cat", "-m", &model, "--generate", "2", "-k", "3"], &["-k", "--generate"]);
    refuses(2, &["lens", "cat", "-m", &model, "--positions", "text:zebra"], &["row 0", "zebra"]);
    refuses(2, &["lens", "cat", "-m", &model, "--metric", "tracked"], &["--track"]);
    refuses(2, &["lens", "cat", "-m", &model, "--track", "zebra"], &["zebra", "hint: "]);
    refuses(2, &["lens", "cat", "-m", &model, "--track", "id:320"], &["320", "vocabulary of 320"]);
    refuses(2, &["lens", "cat", "-m", &model, "--track", "id:-1"], &["`-1`"]);
}

#[test]
fn a_file_that_cannot_be_written_is_known_before_the_work() {
    // The model is invalid, so only a check before loading can mention the folder.
    let folder = copy("llama");
    std::fs::write(folder.path().join("model.safetensors"), b"").unwrap();
    let model = path(&folder);
    let nowhere = ["there is no folder /nonexistent", "hint: mkdir -p '/nonexistent'"];
    refuses(1, &["lens", "the cat", "-m", model, "-o", "/nonexistent/a.svg"], &nowhere);
    refuses(1, &["run", "the cat", "-m", model, "-o", "/nonexistent/a.tsv"], &nowhere);
    let extract = ["extract", "the cat", "-m", model, "-a", "logits"];
    refuses(1, &[&extract[..], &["-o", "/nonexistent/a.safetensors"]].concat(), &nowhere);
    refuses(2, &extract, &["hint: say which: -o"]);
    refuses(2, &[&extract[..], &["-o", "a.json"]].concat(), &["a.json", "hint: let the name end"]);
    for (wrong, endings) in [("a.docx", ".txt, .tsv, .json, .csv, .md"), ("a", ".txt"), ("a.table", ".txt")] {
        refuses(2, &["run", "the cat", "-m", model, "-o", wrong], &[wrong, endings]);
    }
    refuses(2, &["run", "the cat", "-m", model, "-o", "a.svg"], &["a.svg", "hint: endings are .txt"]);
}

#[test]
fn a_model_that_is_not_at_hand_says_what_would_do() {
    refuses(3, &["run", "cat", "-m", "./nowhere"], &["./nowhere", "hint: "]);
    refuses(3, &["run", "cat", "-m", "nowhere.gguf"], &["nowhere.gguf"]);
    refuses(3, &["run", "cat", "-m", "some/model", "--offline"], &["some/model", "`--offline`", "hint: "]);
    let output = easyroutine(&["run", "cat", "-m", "some/model"]).env("HF_HUB_OFFLINE", "1").assert().code(3);
    assert!(String::from_utf8(output.get_output().stderr.clone()).unwrap().contains("HF_HUB_OFFLINE"));
    refuses(2, &["model", "info"], &["no model", "hint: "]);
}

#[test]
fn control_characters_of_config_and_flags_are_made_visible() {
    let folder = with_config("llama", |config| {
        config.insert("a\u{1b}[31mb\u{202e}".to_owned(), json!(1));
    });
    let visible = |args: &[&str]| {
        let output = easyroutine(args).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        // With `--color always`, so that nothing is stripped on the way. The program's own codes differ.
        assert!(!text.contains("\u{1b}[31m"), "{args:?}: {text:?}");
        assert!(!text.contains('\u{202e}'), "{args:?}: {text:?}");
        text
    };
    let message = visible(&["run", "the cat", "-m", path(&folder), "--color", "always"]);
    assert!(message.contains("[31mb"), "{message}");
    let key = "a\u{1b}[31mb\u{202e}";
    let allowed = ["model", "info", path(&folder), "--allow-config-key", key, "--color", "always"];
    assert!(visible(&allowed).contains("let through"));
    let text = "x\u{1b}[31my\u{202e}z";
    for format in ["csv", "md", "svg", "html"] {
        visible(&["lens", text, "-m", &tiny("llama"), "--format", format]);
    }
    for format in ["csv", "md"] {
        visible(&["tokens", text, "-m", &tiny("llama"), "--format", format]);
        visible(&["run", text, "-m", &tiny("llama"), "--format", format]);
    }
}

#[test]
fn a_tokenizer_that_is_random_or_makes_its_library_panic_is_refused_in_two_lines() {
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let folder = copy("llama");
        let file = folder.path().join("tokenizer.json");
        let mut tokenizer = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        change(&mut tokenizer);
        std::fs::write(&file, tokenizer.to_string()).unwrap();
        folder
    };
    let random = changed(&|tokenizer| tokenizer["model"]["dropout"] = json!(0.5));
    refuses(4, &["run", "the cat", "-m", path(&random)], &["tokenizer.json", "`dropout`", "null"]);
    let panics = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    let panics = changed(&|tokenizer| tokenizer["normalizer"] = panics.clone());
    refuses(1, &["run", "the cat", "-m", path(&panics)], &["tokenizer.json", "gave up"]);
}

#[cfg(unix)]
#[test]
fn a_pipe_or_a_device_in_the_place_of_a_file_is_not_waited_for() {
    for (code, name) in
        [(3, "config.json"), (3, "model.safetensors"), (1, "tokenizer.json"), (1, "tokenizer_config.json")]
    {
        let folder = copy("llama");
        let file = folder.path().join(name);
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
        refuses(code, &["run", "the cat", "-m", path(&folder)], &[name]);
    }
}

#[test]
fn a_mask_without_ids_is_refused() {
    let folder = copy("llama");
    let out = folder.path().join("a.safetensors");
    let mask = ["--attention-mask", "[[1,1]]", "-a", "logits", "-o", out.to_str().unwrap()];
    refuses(2, &[&["extract", "the cat", "-m", path(&folder)][..], &mask].concat(), &["--attention-mask"]);
    assert!(!out.exists());
}

#[test]
fn a_range_of_layers_says_what_is_wrong_with_it() {
    let model = tiny("llama");
    let layers = |word: &str, part: &str| {
        refuses(2, &["lens", "the cat", "-m", &model, "--layers", word], &[word, part, "4:9 (4 to 8)"]);
    };
    layers("1:40", "3 layers");
    layers("2:1", "empty");
    layers("0:3:0", "step");
    layers("abc", "neither a layer");
}

#[test]
fn what_would_have_no_effect_or_another_than_meant_is_refused() {
    let model = tiny("llama");
    let (m, ids) = (model.as_str(), ["--token-ids", "[[1,2]]"]);
    let extract = [&["extract", "-m", m, "-a", "logits"][..], &ids].concat();
    refuses(2, &[&extract[..], &["-o", "runs3"]].concat(), &["runs3", "end it with a slash", "-o runs3/"]);
    let named = [&extract[..], &["-o", "runs3", "--run", "r"]].concat();
    refuses(2, &named, &["--run is for runs in a store", "-o runs3/"]);
    let pre = [&extract[..], &["-o", "runs3/", "--pre", "llama-bpe"]].concat();
    refuses(2, &pre, &["--pre llama-bpe is for GGUF files", "leave --pre out"]);
    refuses(2, &["model", "info", m, "--pre", "llama-bpe"], &["--pre llama-bpe is for GGUF files"]);
    let ablate = ["ablate", "the cat", "-m", m];
    let picture = [&ablate[..], &["--format", "table", "-o", "abl.png"]].concat();
    refuses(2, &picture, &["--format table: abl.png ends as png does", "leave --format out"]);
    let embedding = [&ablate[..], &["--layers", "emb,0"]].concat();
    refuses(2, &embedding, &["a sweep does not change the embedding", "0 to 2"]);
    let run = ["run", "the cat", "-m", m, "--intervene"];
    refuses(
        2,
        &[&run[..], &["resid_out_0@all=mean"]].concat(),
        &["`=mean` lacks what it is of", "ablate --by mean"],
    );
    let minus = "resid_out_0@all-2*d.safetensors::v";
    refuses(2, &[&run[..], &[minus]].concat(), &["`*` takes a number", "@all+-2*FILE.safetensors::TENSOR"]);
    refuses(2, &["run", "the cat", "-m", m, "--temperature", "1"], &["--generate"]);
}

#[test]
fn a_token_without_its_blank_is_pointed_out_where_there_is_one_with_it() {
    let model = tiny("llama");
    let notes = |answer: &str| {
        let words = ["ablate", "the cat", "-m", &model, "--metric", "probability", "--answer", answer];
        let output = easyroutine(&words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = notes("of");
    assert!(said.contains("--answer: \"of\" (token ") && said.contains("is not \" of\" (token "), "{said}");
    assert!(!notes(" of").contains("which follows"));
}

/// clap waives what a flag requires where something given excludes it; the flag must not be ignored then.
#[test]
fn flags_for_what_is_excluded_are_refused() {
    let model = tiny("llama");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pairs.jsonl");
    std::fs::write(&file, "{\"clean\": \"the cat\", \"corrupt\": \"the dog\"}\n").unwrap();
    let state = format!("{}/state.safetensors", path(&folder));
    let pairs = file.to_str().unwrap();
    let cases: [&[&str]; 9] = [
        &["attribute", "the cat", "--base", "the dog", "--limit", "1"],
        &["attribute", "the cat", "--base", "the dog", "--state", &state],
        &["attribute", "--pairs", pairs, "--system", "be brief"],
        &["dla", "the cat", "--limit", "1"],
        &["dla", "--pairs", pairs, "--chat-now", "2024-07-26"],
        &["edges", "the cat", "--base", "the dog", "--limit", "1"],
        &["edges", "the cat", "--base", "the dog", "--state", &state],
        &["extract", "the cat", "-a", "logits", "-o", "runs/", "--keep-fields", "label"],
        &[
            "extract",
            "--file",
            pairs,
            "-a",
            "logits",
            "-o",
            "runs/",
            "--run",
            "r",
            "--part",
            "1/2",
            "--ignore-end",
        ],
    ];
    for words in cases {
        refuses(2, &[words, &["-m", model.as_str()][..]].concat(), &["cannot be used with"]);
    }
}
