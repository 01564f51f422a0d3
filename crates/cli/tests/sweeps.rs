//! `patch` and `ablate`.

use crate::common;

use common::{fails, json, succeeds, tiny};

const TARGET: &str = "The quick brown fox";
const BASE: &str = "The quick green fox";

fn patch(base: &str, more: &[&str]) -> Vec<String> {
    let fixed = ["patch", TARGET, "--base", base, "-m"].map(str::to_owned);
    fixed.into_iter().chain([tiny("llama")]).chain(more.iter().map(|s| (*s).to_owned())).collect()
}

fn grid(arguments: &[String]) -> serde_json::Value {
    json(&arguments.iter().map(String::as_str).chain(["--format", "json"]).collect::<Vec<_>>())
}

/// A base with as many tokens as the target under the tiny tokenizer.
fn base() -> String {
    let model = tiny("llama");
    let count = |text: &str| {
        json(&["tokens", text, "-m", &model, "--format", "json"])["tokens"].as_array().unwrap().len()
    };
    let (target, mut base) = (count(TARGET), BASE.to_owned());
    while count(&base) < target {
        base.push('x');
    }
    while count(&base) > target {
        base.pop();
    }
    base
}

#[test]
fn features_of_a_dictionary_are_swept_one_by_one() {
    let sae = common::fixtures().join("dictionaries/saelens_standard");
    let (model, sae) = (tiny("gpt2"), format!("sae={}", sae.display()));
    let prompt = "the cat sat on";
    let pair = ["--answer", "id:7", "--against", "id:90", "--format", "json"];
    let ablated = ["ablate", prompt, "-m", &model, "--dict", &sae];
    let told = json(&[&ablated[..], &pair, &["--top", "4"]].concat());
    assert_eq!(
        (&told["schema"], &told["columns"]),
        (&"easyroutine.grid/1".into(), &json_of(r#"["all positions"]"#))
    );
    assert_eq!(told["features"].as_array().unwrap().len(), 4, "{told}");
    assert_eq!(told["dictionaries"]["sae"]["format"], "saelens");
    // A cell is the run with its change.
    let feature = told["activations"][0][0].as_str().unwrap();
    let change = format!("{feature}@all=0");
    let run = json(&[
        "run",
        prompt,
        "-m",
        &model,
        "--dict",
        &sae,
        "--intervene",
        &change,
        "--format",
        "json",
        "-k",
        "2000",
    ]);
    let logprob = |id: u64| {
        let all = run["top"].as_array().unwrap();
        all.iter().find(|token| token["id"] == id).unwrap()["logprob"].as_f64().unwrap()
    };
    let expected = logprob(7) - logprob(90);
    assert!((told["values"][0][0].as_f64().unwrap() - expected).abs() < 1e-5, "{told}");
    let listed = ["--features", "3,5:7", "--along", "positions", "--positions", "0,-1"];
    let told = json(&[&ablated[..], &pair, &listed].concat());
    assert_eq!((&told["features"], &told["columns"][0]), (&json_of("[3, 5, 6]"), &"position 0".into()));
    let base = ["patch", prompt, "--base", prompt, "-m", &model, "--dict", &sae, "--features", "3"];
    let told = json(&[&base[..], &pair].concat());
    assert_eq!(told["values"][0][0], told["unchanged"], "a prompt patched with itself stays as it is");
    let table = succeeds(&[&ablated[..], &pair[..4], &["--top", "2", "--format", "md"]].concat());
    assert!(table.contains("| feature | all positions |"), "{table}");

    let refused = |more: &[&str], words: &str| {
        let failed = fails(2, &[&ablated[..], more].concat());
        assert!(failed.contains(words), "{failed}");
    };
    refused(&["--features", "64"], "no feature 64");
    refused(&["--features", "5:5"], "holds no feature");
    refused(&["--features", "x"], "neither a number nor a range");
    refused(&["--site", "resid_in"], "features are swept, not activations");
    refused(&["--site", "features_sea"], "did you mean `features_sae`");
    refused(&["--layers", "0"], "a row of the grid is a feature");
    refused(&["--estimate"], "attribute -a features_NAME");
    refused(&["--along", "heads"], "positions or features");
    refused(&["--metric", "kl"], "--features 3,17");
    let without = ["ablate", prompt, "-m", &model];
    for (more, words) in [
        (&["--site", "features_sae"][..], "--dict NAME=PATH"),
        (&["--along", "features"], "--dict NAME=PATH"),
        (&["--features", "3"], "--dict"),
        (&["--top", "3"], "--dict"),
    ] {
        let failed = fails(2, &[&without[..], more].concat());
        assert!(failed.contains(words), "{failed}");
    }
}

#[test]
fn a_grid_of_layers_by_positions_says_what_it_is() {
    let base = base();
    let pair = ["--answer", "id:7", "--against", "id:90"];
    let grid = grid(&patch(&base, &pair));
    assert_eq!(grid["schema"], "easyroutine.grid/1");
    assert_eq!(grid["metric"], json_of(r#"{"name": "logit_diff", "answer": 7, "against": 90}"#));
    let tokens = grid["tokens"].as_array().unwrap().len();
    assert_eq!(
        (grid["values"].as_array().unwrap().len(), grid["columns"].as_array().unwrap().len()),
        (3, tokens)
    );
    assert_eq!(grid["prompts"]["base"], base.as_str());
    assert_eq!(grid["activations"][2][0], "resid_in_2");
    // After the last block, the logits see only the whole stream of the last token.
    let normalised =
        [&pair[..], &["--metric", "normalised", "--site", "resid_out", "--layers", "-1"]].concat();
    let last = self::grid(&patch(&base, &normalised));
    assert_eq!((&last["unchanged"], &last["base"]), (&0.0.into(), &1.0.into()));
    assert_eq!(last["values"][0][tokens - 1], 1.0);
}

fn json_of(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_mean_is_over_the_rows_of_a_file_that_the_flags_name() {
    let folder = tempfile::tempdir().unwrap();
    let written = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).to_str().unwrap().to_owned()
    };
    let model = tiny("llama");
    let fixed = ["ablate", TARGET, "-m", &model, "--by", "mean", "--metric", "kl", "--format", "json"];
    let values = |more: &[&str]| json(&[&fixed, more].concat())["values"].clone();
    let refused = |code: i32, more: &[&str]| fails(code, &[&fixed, more].concat());
    let plain = written("a.txt", "the cat\nthe dog sat\n");
    let records = "{\"q\": \"the cat\"}\n{\"q\": null}\n{\"q\": \"the dog sat\"}\n{\"q\": \"a mat\"}\n";
    let records = written("a.jsonl", records);
    let over = ["--over", &records, "--field", "q", "--limit", "2"];
    let said = refused(1, &over);
    assert!(said.contains("line 2, row 1: `q` is empty") && said.contains("--skip-empty"), "{said}");
    assert_eq!(values(&[&over[..], &["--skip-empty"]].concat()), values(&["--over", &plain]));
    assert!(values(&["--over", &plain]).is_array());
    let long = written("b.txt", &format!("short\n{}\n", "cat ".repeat(2000)));
    let said = refused(2, &["--over", &long]);
    assert!(said.contains("b.txt: row 1: the prompt has 4001 tokens"), "{said}");
    let said = refused(1, &["--over", &long, "--longest-row", "0.1kB"]);
    assert!(said.contains("row 1: longer than 100 bytes") && said.contains("--longest-row SIZE"), "{said}");
    let said = refused(2, &["--over", &long, "--longest-row", "much"]);
    assert!(said.contains("`much` is no number of bytes"), "{said}");
    for (flag, value) in [("--skip-empty", None), ("--field", Some("q")), ("--limit", Some("2"))] {
        let flags: Vec<&str> = std::iter::once(flag).chain(value).collect();
        assert!(refused(2, &flags).contains(&format!("{flag} is for prompts of a file")));
    }
}

#[test]
fn heads_are_ablated_by_zero_mean_and_another_prompt() {
    let (model, base) = (tiny("llama"), base());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompts.txt");
    std::fs::write(&file, "One prompt\n\nAnother prompt\n").unwrap();
    let ablate =
        |more: &[&str]| json(&[&["ablate", TARGET, "-m", &model, "--format", "json"], more].concat());
    let zero = ablate(&[]);
    assert_eq!(
        (&zero["columns"][1], &zero["activations"][2][1]),
        (&"head 1".into(), &"head_out_L2H1".into())
    );
    let others = [
        ablate(&["--by", "mean"]),
        ablate(&["--by", "mean", "--over", file.to_str().unwrap()]),
        ablate(&["--by", "resample", "--with", &base]),
    ];
    for other in &others {
        assert_ne!(other["values"], zero["values"]);
        assert_eq!(other["unchanged"], zero["unchanged"]);
    }
    let sites = ablate(&["--along", "sites", "--positions", "last", "--metric", "kl"]);
    assert_eq!(sites["columns"], json_of(r#"["attn_out", "mlp_out"]"#));
    assert_eq!(sites["unchanged"], 0.0);
    for metric in ["p", "rank"] {
        assert_eq!(ablate(&["--metric", metric, "--answer", "id:7"])["metric"]["token"], 7);
    }
}

#[test]
fn a_mean_is_over_prompts_position_by_position_where_they_are_as_long() {
    let (model, base) = (tiny("llama"), base());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompts.txt");
    let file = file.to_str().unwrap();
    let ablate = |more: &[&str]| {
        let words = ["ablate", TARGET, "-m", &model, "--format", "json", "--by", "mean", "--over", file];
        [&words, more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let grid = |more: &[&str]| json(&ablate(more).iter().map(String::as_str).collect::<Vec<_>>());
    std::fs::write(file, format!("{base}\n{TARGET}\n")).unwrap();
    let (rows, tokens) = (grid(&["--mean-over", "rows"]), grid(&["--mean-over", "tokens"]));
    assert_eq!(grid(&[])["values"], rows["values"]);
    assert_ne!(rows["values"], tokens["values"]);
    assert!(rows["words"].to_string().contains("the mean over 2 prompts, each position by itself"));
    assert!(tokens["words"].to_string().contains("the mean over all tokens of 2 prompts"));
    // One prompt of the same length: its activation at that place.
    std::fs::write(file, &base).unwrap();
    let words = ["ablate", TARGET, "-m", &model, "--format", "json", "--by", "resample", "--with", &base];
    assert_eq!(grid(&[])["values"], json(&words)["values"]);
    std::fs::write(file, format!("{base}\nShort\n")).unwrap();
    assert_eq!(grid(&[])["values"], grid(&["--mean-over", "tokens"])["values"]);
    let words = ablate(&["--mean-over", "rows"]);
    let refused = fails(2, &words.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(refused.contains("tokens"), "{refused}");
}

#[test]
fn every_format_is_written() {
    let model = tiny("llama");
    let folder = tempfile::tempdir().unwrap();
    let names = ["g.txt", "g.tsv", "g.csv", "g.md", "g.json", "g.svg", "g.html", "g.png"];
    let paths: Vec<String> =
        names.iter().map(|name| folder.path().join(name).to_str().unwrap().to_owned()).collect();
    let outputs = paths.iter().flat_map(|path| ["-o", path]);
    succeeds(&["ablate", TARGET, "-m", &model].into_iter().chain(outputs).collect::<Vec<_>>());
    for path in &paths {
        assert!(std::fs::metadata(path).unwrap().len() > 200, "{path}");
    }
    let table = std::fs::read_to_string(&paths[0]).unwrap();
    assert!(
        table.starts_with("Ablation\n") && table.contains("layer 2") && table.contains(TARGET),
        "{table}"
    );
}

#[test]
fn experts_are_swept_where_tokens_go_through_them() {
    let model = tiny("qwen2_moe");
    let words = ["ablate", "the cat", "-m", &model, "--along", "experts"];
    let pair = ["--answer", "id:7", "--against", "id:90"];
    let told = json(&[&words[..], &pair, &["--format", "json"]].concat());
    // Layer 1 is dense.
    assert_eq!((&told["layers"], &told["columns"][4]), (&json_of("[0, 2, 3]"), &"expert 4".into()));
    let facts = told["words"].to_string();
    for part in ["4 layers, 1 without expert_out", "expert_out set to zero", "largest: expert_out_"] {
        assert!(facts.contains(part), "{part}: {facts}");
    }
    // A cell is the run with that change.
    let (layer, expert) = (2, told["routed"][1].as_array().unwrap().iter().position(|n| *n != 0).unwrap());
    let change = format!("expert_out_{layer}E{expert}@all=0");
    assert_eq!(told["activations"][1][expert].as_str().unwrap(), change.split_once('@').unwrap().0);
    let run = ["run", "the cat", "-m", &model, "--intervene", &change, "--format", "json", "-k", "2000"];
    let run = json(&run);
    let logprob = |id: u64| {
        let all = run["top"].as_array().unwrap();
        all.iter().find(|token| token["id"] == id).unwrap()["logprob"].as_f64().unwrap()
    };
    assert!(
        (told["values"][1][expert].as_f64().unwrap() - (logprob(7) - logprob(90))).abs() < 1e-5,
        "{told}"
    );
    // One token leaves some experts out: a mark says so, and the number of tokens.
    let last = [&words[..], &pair, &["--positions", "last"]].concat();
    let csv = succeeds(&[&last[..], &["--format", "csv"]].concat());
    assert!(
        csv.starts_with(
            "layer,column,token,activation,value,effect,routed\r\n\"layer 0\",E0,,expert_out_0E0,"
        ),
        "{csv}"
    );
    assert_eq!(csv.lines().filter(|line| line.ends_with(",0,0")).count(), 3 * 2, "{csv}");
    let table = succeeds(&[&last[..], &["--format", "table"]].concat());
    assert!(
        table.contains("-: none of these tokens goes through that expert") && table.contains(" E4\n"),
        "{table}"
    );
    assert_eq!(table.matches("    -").count(), 3 * 2, "{table}");
    let some = ["--experts", "3,0:2", "--layers", "2:", "--format", "json"];
    let few = json(&[&words[..], &pair, &some].concat());
    assert_eq!(few["columns"], json_of(r#"["expert 3", "expert 0", "expert 1"]"#));
    assert_eq!(few["values"][0][0], told["values"][1][3]);
    let checked = succeeds(&[&last[..], &["--estimate", "--check", "2", "--format", "md"]].concat());
    assert!(
        checked.contains("the 2 largest cells were run") && checked.contains("| layer | E0 |"),
        "{checked}"
    );
    let base =
        ["patch", "the cat", "--base", "the dog", "-m", &model, "--along", "experts", "--format", "svg"];
    let svg = succeeds(&base);
    assert!(svg.contains("token takes other experts, at all positions"), "{svg}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompts.txt");
    let over = file.to_str().unwrap();
    std::fs::write(&file, "the cat\nthe dog\n").unwrap();
    let mean = [&words[..], &pair, &["--by", "mean", "--over", over, "--format", "json"]].concat();
    let means = json(&mean);
    assert!(
        means["words"].to_string().contains("mean over the tokens of 2 prompts that go through it"),
        "{means}"
    );
    assert_eq!(means["values"], json(&[&mean[..], &["--mean-over", "tokens"]].concat())["values"]);
    assert_ne!(means["values"], told["values"]);

    let refused = |more: &[&str], part: &str| {
        let failed = fails(2, &[&words[..], more].concat());
        assert!(failed.contains(part), "{failed}");
    };
    refused(&["--experts", "5"], "layer 0 has 5 experts, 0 to 4");
    refused(&["--experts", "2:9000000"], "5 is none");
    refused(&["--experts", "5:5"], "holds no expert");
    refused(&["--experts", "x"], "--experts: `x` is neither a number nor a range");
    refused(&["--site", "mlp_out"], "mlp_out is no site of experts");
    refused(&["--site", "expert_in"], "did you mean expert_out?");
    refused(&["--layers", "1"], "layers with experts: 0, 2, 3");
    let heads = fails(2, &["ablate", "the cat", "-m", &model, "--experts", "1"]);
    assert!(heads.contains("--experts is for --along experts"), "{heads}");
    let dense = fails(2, &["ablate", "the cat", "-m", &tiny("llama"), "--along", "experts"]);
    assert!(dense.contains("this model has no experts"), "{dense}");
}

#[test]
fn layers_without_heads_have_no_row_and_layers_without_a_part_an_empty_cell() {
    let model = tiny("nemotron_h");
    let words = ["ablate", "the cat", "-m", &model, "--along"];
    let told = |along: &str| json(&[&words[..], &[along, "--format", "json"]].concat());
    let heads = told("heads");
    let layers = heads["layers"].as_array().unwrap();
    assert!(!layers.is_empty() && layers.len() < 4, "{layers:?}");
    assert!(heads["words"].to_string().contains("without head_out"), "{heads}");
    let parts = told("sites");
    assert_eq!(parts["columns"], json_of(r#"["attn_out", "mixer_out", "mlp_out"]"#));
    for (names, values) in
        parts["activations"].as_array().unwrap().iter().zip(parts["values"].as_array().unwrap())
    {
        // Each of its blocks has one part.
        let there = |cells: &serde_json::Value, absent: serde_json::Value| {
            cells.as_array().unwrap().iter().filter(|cell| **cell != absent).count()
        };
        assert_eq!((there(names, "".into()), there(values, serde_json::Value::Null)), (1, 1), "{parts}");
    }
    let lines = succeeds(&[&words[..], &["sites", "--format", "tsv"]].concat());
    assert_eq!(lines.lines().count(), 1 + parts["layers"].as_array().unwrap().len(), "{lines}");
    let table = succeeds(&[&words[..], &["sites", "--format", "table"]].concat());
    assert!(!table.contains("NaN"), "{table}");
    let failed = fails(2, &[&words[..], &["heads", "--layers", "0"]].concat());
    assert!(failed.contains("none of these layers has `head_out`"), "{failed}");
}

#[test]
fn what_cannot_be_swept_is_an_error() {
    let short = fails(2, &patch("Short", &["--metric", "kl"]).iter().map(String::as_str).collect::<Vec<_>>());
    assert!(short.contains("tokens, the row they are put into"), "{short}");
    let base = base();
    for (more, part) in [
        (&["--site", "resid_outt"][..], "did you mean resid_out?"),
        (&["--site", "head_out"], "not a column of a grid along positions"),
        (&["--site", "attn_out,mlp_out"], "--along sites"),
        (&["--answer", "id:7", "--against", "id:7"], "both"),
        (&["--answer", "two words"], "not one token"),
        (&["--answer", "id:99999", "--metric", "p"], "vocabulary"),
        (&["--answer", "id:7", "--against", "id:8", "--metric", "rank"], "--against: the metric does not"),
        (&["--answer", "id:7", "--metric", "kl"], "--answer: the metric does not"),
        (&["--positions", "99"], "position `99`"),
        (&["--layers", "7"], "the model has 3 layers"),
    ] {
        let arguments = patch(&base, more);
        let message = fails(2, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(message.contains(part), "{more:?}: {message}");
    }
    for (more, part) in [
        (&["--by", "resample"][..], "--with"),
        (&["--with", &base], "--with is for --by resample"),
        (&["--by", "resample", "--with", &base, "--over", "f"], "--over is for --by mean"),
        (&["--by", "mean", "--over", "f.json"], "f.json"),
        (&["--along", "sites", "--site", "attn_out,attn_out"], "attn_out is named twice"),
    ] {
        let model = tiny("llama");
        let message = fails(2, &[&["ablate", TARGET, "-m", &model], more].concat());
        assert!(message.contains(part), "{more:?}: {message}");
    }
}
