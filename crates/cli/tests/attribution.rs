//! `patch --estimate`, `attribute`, `edges`, `jacobian`, `tune`.

use crate::common;

use common::{easyroutine, fails, fixtures, json, succeeds, tiny};
use serde_json::Value;

/// Pairs of ids, in a file's form.
fn pairs(folder: &std::path::Path) -> String {
    let file = folder.join("pairs.jsonl");
    let text = "{\"clean\": [5, 90, 17, 200, 31], \"corrupt\": [5, 12, 17, 33, 31], \"answer\": 7, \"against\": 90}\n\
                {\"clean\": [44, 3, 121, 8], \"corrupt\": [44, 3, 99, 8], \"answer\": 100, \"against\": 7}\n\
                {\"clean\": [1, 2, 3, 4, 5, 6], \"corrupt\": [1, 9, 3, 4, 8, 6], \"answer\": 30, \"against\": 31}\n";
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

const ANSWER: [&str; 4] = ["--answer", "id:7", "--against", "id:90"];

#[test]
fn an_estimated_grid_says_that_it_is_one_and_how_good() {
    let model = tiny("llama");
    let fixed =
        [&["patch", "the cat", "--base", "the dog", "-m", &model, "--format", "json"][..], &ANSWER].concat();
    let exact = json(&fixed);
    let estimated = json(&[&fixed[..], &["--estimate", "--check", "3"]].concat());
    assert_eq!(exact["estimate"], Value::Null);
    assert_eq!((&exact["unchanged"], &exact["base"]), (&estimated["unchanged"], &estimated["base"]));
    assert_eq!(exact["activations"], estimated["activations"]);
    assert_eq!(estimated["estimate"]["rule"], "gradient");
    let check = &estimated["estimate"]["check"];
    assert_eq!(check["cells"].as_array().unwrap().len(), 3);
    assert!(check["pearson"].is_number() && check["spearman"].is_number());
    assert!(estimated["words"].to_string().contains("an estimate"));
    let relp = json(&[&fixed[..], &["--estimate", "--rule", "relp"]].concat());
    assert_ne!(relp["values"], estimated["values"]);
    let ablated = json(&["ablate", "the cat", "-m", &model, "--estimate", "--format", "json"]);
    assert_eq!(ablated["title"], "Ablation");
    let picture = succeeds(&[&fixed[..6], &ANSWER, &["--estimate", "--format", "svg"]].concat());
    assert!(picture.contains("an estimate"));
    assert!(fails(2, &[&fixed[..], &["--estimate", "--check", "0"]].concat()).contains("0 cells"));
    assert!(fails(2, &[&fixed[..], &["--check", "3"]].concat()).contains("--estimate"));
    let rank = [&fixed[..8], &["--answer", "id:7", "--metric", "rank", "--estimate"]].concat();
    assert!(fails(2, &rank).contains("`rank` has no gradient"));
}

#[test]
fn scores_of_any_activation_are_listed_and_written() {
    let model = tiny("llama");
    let fixed = [&["attribute", "the cat", "--base", "the dog", "-m", &model][..], &ANSWER].concat();
    let found = json(
        &[&fixed[..], &["-a", "mlp_hidden_*,z_L*", "--check", "2", "-k", "4", "--format", "json"]].concat(),
    );
    assert_eq!(found["schema"], "easyroutine.attribute/1");
    assert_eq!((found["cells"].as_array().unwrap().len(), &found["rule"]), (4, &"gradient".into()));
    assert_eq!(found["check"]["cells"].as_array().unwrap().len(), 2);
    let table = succeeds(&[&fixed[..], &["--check", "1", "-k", "2", "--format", "tsv"]].concat());
    let last: Vec<&str> = table.lines().map(|line| line.rsplit('\t').next().unwrap()).collect();
    assert!(last[0] == "exact" && last[1].parse::<f64>().is_ok() && last[2].is_empty(), "{table}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.safetensors");
    succeeds(&[&fixed[..], &["-a", "pattern_L0H1", "-o", file.to_str().unwrap()]].concat());
    assert!(std::fs::read(&file).unwrap().windows(12).any(|w| w == b"pattern_L0H1"));
    let kl = |more: &[&str]| {
        json(
            &[&["attribute", "the cat", "--base", "the dog", "-m", &model, "--metric", "kl"][..], more]
                .concat(),
        )
    };
    assert!(kl(&["--check", "2", "--format", "json"])["check"]["cells"].as_array().unwrap().len() == 2);
    let integrated =
        json(&[&fixed[..], &["--method", "integrated", "--steps", "4", "--format", "json"]].concat());
    let sum: f64 =
        integrated["tokens"].as_array().unwrap().iter().map(|token| token["score"].as_f64().unwrap()).sum();
    let of = |key: &str| integrated[key].as_f64().unwrap();
    assert!((of("value") - of("base") - sum - of("missing")).abs() < 1e-4);
    let refused = |more: &[&str]| fails(2, &[&fixed[..], more].concat());
    assert!(refused(&["--steps", "3"]).contains("--method integrated"));
    assert!(refused(&["--method", "integrated", "--rule", "relp"]).contains("--method patching"));
    assert!(refused(&["--method", "integrated", "-k", "3"]).contains("-k is for --method patching"));
    assert!(fails(2, &["attribute", "the cat", "-m", &model]).contains("--base"));
    assert!(
        fails(2, &["attribute", "the cat", "--base", "the dog and", "-m", &model, "--answer", "id:7"])
            .contains("tokens and the target")
    );
}

#[test]
fn a_circuit_is_written_read_and_drawn() {
    let (model, folder) = (tiny("gpt2"), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let outputs: Vec<String> = ["c.json", "c.html", "c.svg", "c.md", "c.tsv"].map(path).to_vec();
    let mut arguments = [
        &["edges", "the cat sat", "--base", "the dog sat", "-m", &model, "--top", "60", "--curve"][..],
        &ANSWER,
    ]
    .concat();
    outputs.iter().for_each(|file| arguments.extend(["-o", file]));
    succeeds(&arguments);
    let written: Value = serde_json::from_slice(&std::fs::read(&outputs[0]).unwrap()).unwrap();
    assert_eq!(written["cfg"]["n_layers"], 3);
    let told = &written["easyroutine"];
    assert_eq!((&told["schema"], &told["pairs"]), (&"easyroutine.edges/1".into(), &1.into()));
    let curve = told["curve"]["faithfulness"].as_array().unwrap();
    assert!((curve.last().unwrap().as_f64().unwrap() - 1.0).abs() < 1e-3);
    let read = [
        &[
            "edges",
            "the cat sat",
            "--base",
            "the dog sat",
            "-m",
            &model,
            "--circuit",
            &outputs[0],
            "--format",
            "json",
        ][..],
        &ANSWER,
    ]
    .concat();
    let again = json(&read);
    assert_eq!((&again["edges"], &again["nodes"]), (&written["edges"], &written["nodes"]));
    assert_eq!(again["easyroutine"]["circuit"], told["circuit"]);
    // No method scored it here, so none is named, and no flag of one is ignored.
    assert_eq!(again["easyroutine"]["method"]["method"], Value::Null);
    for flags in [["--method", "eap"], ["--steps", "3"], ["--rule", "relp"]] {
        assert!(fails(2, &[&read[..], &flags].concat()).contains("cannot be used with"), "{flags:?}");
    }
    let page = std::fs::read_to_string(&outputs[1]).unwrap();
    assert!(page.contains("Content-Security-Policy") && page.contains("the cat sat"));
    assert!(std::fs::read_to_string(&outputs[2]).unwrap().contains("logits"));
    let refused = |more: &[&str]| fails(2, &[&arguments[..6], &ANSWER, more].concat());
    assert!(refused(&["--metric", "ce"]).contains("sum over all"));
    assert!(refused(&["--method", "eap", "--steps", "3"]).contains("eap-ig"));
    assert!(refused(&["--top", "0"]).contains("at least 1"));
    let gemma = tiny("gemma2");
    let message = fails(4, &["edges", "a b", "--base", "b a", "-m", &gemma]);
    assert!(message.contains("norms the sum of its heads"), "{message}");
}

#[test]
fn pairs_of_a_file_are_summed_and_gone_on_with() {
    let (model, folder) = (tiny("llama"), tempfile::tempdir().unwrap());
    let (pairs, state) = (pairs(folder.path()), folder.path().join("s.safetensors"));
    let fixed = ["edges", "--pairs", &pairs, "-m", &model, "--top", "40", "--format", "json"];
    let whole = json(&fixed);
    assert_eq!(whole["easyroutine"]["pairs"], 3);
    // A run that ended after a pair, and one that continues from it.
    let state = state.to_str().unwrap();
    json(&[&fixed[..], &["--state", state, "--limit", "1"]].concat());
    let resumed = json(&[&fixed[..], &["--state", state]].concat());
    assert_eq!(whole["edges"], resumed["edges"]);
    let fewer = fails(2, &[&fixed[..], &["--state", state, "--limit", "2"]].concat());
    assert!(fewer.contains("sums hold 3 pairs, and 2 are read"), "{fewer}");
    let other = fails(2, &[&fixed[..], &["--state", state, "--method", "eap"]].concat());
    assert!(other.contains("another `method` (\"eap-ig\", here \"eap\"), `steps`"), "{other}");
    let apart = folder.path().join("apart.jsonl");
    let lines = std::fs::read_to_string(&pairs).unwrap();
    std::fs::write(&apart, lines.lines().rev().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let other = [&["edges", "--pairs", apart.to_str().unwrap()], &fixed[3..], &["--state", state]].concat();
    assert!(fails(2, &other).contains("not the first of these"));
    let wrong = folder.path().join("wrong.jsonl");
    for (line, message) in [
        ("{\"clean\": \"a\"}", "no field `corrupt`"),
        ("{\"clean\": \"a\", \"corrupt\": 3}", "not a prompt"),
        (
            "{\"clean\": [1, 2], \"corrupt\": [1], \"answer\": 1, \"against\": 2}",
            "2 tokens and the corrupted one 1",
        ),
        (
            "{\"clean\": [1], \"corrupt\": [2], \"answer\": \"two words here\", \"against\": 2}",
            "not one token",
        ),
        ("{\"clean\": \"a\", \"corrupt\": \"b\", \"answer\": -1}", "not a token"),
        ("[]", "not a JSON object"),
    ] {
        std::fs::write(&wrong, line).unwrap();
        let code = if line.contains("[1") { 2 } else { 1 };
        let said = fails(code, &["edges", "--pairs", wrong.to_str().unwrap(), "-m", &model]);
        assert!(said.contains("line 1") && said.contains(message), "{line}: {said}");
    }
}

#[test]
fn mean_scores_of_pairs_are_resumed_to_the_bit() {
    let (model, folder) = (tiny("llama"), tempfile::tempdir().unwrap());
    let (pairs, state) = (pairs(folder.path()), folder.path().join("s.safetensors"));
    let state = state.to_str().unwrap();
    let fixed = [
        "attribute",
        "--pairs",
        &pairs,
        "-m",
        &model,
        "-a",
        "z_L*,resid_in_1",
        "-k",
        "20",
        "--format",
        "json",
    ];
    let whole = json(&fixed);
    assert_eq!(whole["pairs"], 3);
    json(&[&fixed[..], &["--state", state, "--limit", "1"]].concat());
    let first = std::fs::read(state).unwrap();
    let with_state = [&fixed[..], &["--state", state]].concat();
    let resumed = json(&with_state);
    assert_eq!(resumed, whole);
    // A bad pair ends the run, which keeps what it has: with the pair mended, the next run is the same.
    std::fs::write(state, first).unwrap();
    let lines = std::fs::read_to_string(&pairs).unwrap();
    let spoilt: Vec<&str> = lines.lines().take(2).chain(["{\"clean\": \"a\"}"]).collect();
    let bad = folder.path().join("bad.jsonl");
    std::fs::write(&bad, spoilt.join("\n")).unwrap();
    let mut words = with_state.clone();
    words[2] = bad.to_str().unwrap();
    assert!(fails(1, &words).contains("line 3"));
    assert_eq!(json(&with_state), whole);
    let fewer = fails(2, &[&with_state[..], &["--limit", "2"]].concat());
    assert!(fewer.contains("sums hold 3 pairs, and 2 are read"), "{fewer}");
    let other = fails(2, &[&with_state[..], &["--rule", "relp"]].concat());
    assert!(other.contains("another `rule` (\"gradient\", here \"relp\")"), "{other}");
    let other = fails(2, &[&with_state[..], &["-a", "resid_in_0"]].concat());
    assert!(other.contains("another `activations`"), "{other}");
    std::fs::write(&bad, lines.lines().rev().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let kept = std::fs::read(state).unwrap();
    assert!(fails(2, &words).contains("not the first of these"));
    assert_eq!(std::fs::read(state).unwrap(), kept, "a refusal changes nothing");
    let one = ["attribute", "a b", "--base", "b a", "-m", &model, "--state", state];
    assert!(fails(2, &one).contains("--state <FILE>"));
}

#[test]
fn a_jacobian_lens_is_fitted_in_parts_merged_and_read() {
    let (model, folder) = (tiny("llama"), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let prompts = path("p.jsonl");
    let rows = ["the cat sat on the mat", "a dog and a cat", "one two three four", "it was so"];
    let lines: Vec<String> = rows.iter().map(|text| serde_json::json!({"text": text}).to_string()).collect();
    std::fs::write(&prompts, lines.join("\n")).unwrap();
    let fit = |more: &[&str]| {
        succeeds(
            &[&["jacobian", "fit", "--file", &prompts, "-m", &model, "--skip-first", "1"][..], more].concat(),
        );
    };
    let (whole, first, second, merged) =
        (path("w.safetensors"), path("1.safetensors"), path("2.safetensors"), path("m.safetensors"));
    fit(&["-o", &whole]);
    fit(&["-o", &first, "--part", "1/2"]);
    fit(&["-o", &second, "--part", "2/2"]);
    succeeds(&["jacobian", "merge", &second, &first, "-o", &merged]);
    let bytes = |file: &str| std::fs::read(file).unwrap();
    assert!(bytes(&whole) == bytes(&merged));
    let again = path("again.safetensors");
    fit(&["-o", &again, "--limit", "2"]);
    fit(&["-o", &again, "--resume"]);
    assert!(bytes(&whole) == bytes(&again));
    assert!(fails(2, &["jacobian", "merge", &first, &first, "-o", &merged]).contains("there already"));
    let merge = |a: &str, b: &str| fails(2, &["jacobian", "merge", a, b, "-o", &merged]);
    assert!(merge(&whole, &first).contains("not of the same division"));
    let other_tokens =
        ["jacobian", "fit", "--file", &prompts, "-m", &model, "--skip-first", "1", "--tokens", "3"];
    let other_part = [&other_tokens[..8], &["-o", &again, "--resume"]].concat();
    let other_tokens = fails(2, &[&other_tokens[..], &["-o", &again, "--resume"]].concat());
    assert!(other_tokens.contains("hold 4 prompts, which are not the first of these"), "{other_tokens}");
    let other = fails(2, &["jacobian", "fit", "--file", &prompts, "-m", &model, "-o", &again, "--resume"]);
    assert!(other.contains("another `skip_first` (1, here 16)"), "{other}");
    let other = fails(2, &[&other_part[..], &["--part", "1/2"]].concat());
    assert!(other.contains("another `part` (\"1/1\", here \"1/2\")"), "{other}");
    let fewer = fails(2, &[&other_part[..], &["--limit", "3"]].concat());
    assert!(fewer.contains("sums hold 4 prompts, and 3 are read here"), "{fewer}");
    // Parts of other prompts are no parts of the same whole.
    let others = path("others.jsonl");
    std::fs::write(&others, lines[..3].join("\n") + "\n{\"text\": \"it was not\"}\n").unwrap();
    let apart = path("apart.safetensors");
    succeeds(&[
        "jacobian",
        "fit",
        "--file",
        &others,
        "-m",
        &model,
        "--skip-first",
        "1",
        "-o",
        &apart,
        "--part",
        "2/2",
    ]);
    let apart = fails(2, &["jacobian", "merge", &first, &apart, "-o", &merged]);
    assert!(apart.contains("went through other prompts"), "{apart}");
    let begun = path("begun.safetensors");
    fit(&["-o", &begun, "--part", "2/2", "--limit", "2"]);
    assert!(merge(&first, &begun).contains("another number of prompts"));
    // Two of four are not a whole, and the others are merged into them.
    let quarters = ["1/4", "2/4", "3/4", "4/4"].map(|part| path(&format!("{}.safetensors", &part[..1])));
    for (number, file) in quarters.iter().enumerate() {
        fit(&["-o", file, "--part", &format!("{}/4", number + 1)]);
    }
    let [half, both] = ["half.safetensors", "both.safetensors"].map(path);
    succeeds(&["jacobian", "merge", &quarters[0], &quarters[1], "-o", &half]);
    assert!(merge(&half, &quarters[1]).contains("there already"));
    succeeds(&["jacobian", "merge", &half, &quarters[3], &quarters[2], "-o", &both]);
    assert!(bytes(&both) == bytes(&whole));
    let lens = json(&["lens", "the cat", "-m", &model, "--jacobian", &whole, "--format", "json"]);
    assert_eq!(lens["settings"]["jacobian"], serde_json::json!({"name": "w.safetensors", "n_prompts": 4}));
    assert_eq!(lens["layers"].as_array().unwrap().len(), 3);
    let plain = json(&["lens", "the cat", "-m", &model, "--format", "json"]);
    assert_ne!(plain["layers"][1]["positions"], lens["layers"][0]["positions"]);
    assert_eq!(plain["layers"][3]["positions"], lens["layers"][2]["positions"]);
    let through = ["lens", "the cat", "--jacobian", &whole, "-m"];
    let is_told = |model: &str| {
        let output = easyroutine(&[&through[..], &[model]].concat()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).contains("fitted on another model")
    };
    assert!(is_told(&tiny("gpt2")) && !is_told(&model));
    let published = fixtures().join("tiny/llama/jacobian_lens.pt");
    let published = published.to_str().unwrap();
    let picture = succeeds(&["lens", "the cat", "-m", &model, "--jacobian", published, "--format", "md"]);
    assert!(picture.contains("mean Jacobian") && picture.contains("6 prompts"), "{picture}");
    let torch = path("w.pt");
    fit(&["-o", &torch]);
    let of_torch = json(&["lens", "the cat", "-m", &model, "--jacobian", &torch, "--format", "json"]);
    assert_eq!(of_torch["layers"], lens["layers"]);
    let embedding = fails(2, &["lens", "the cat", "-m", &model, "--jacobian", &whole, "--layers", "emb"]);
    assert!(embedding.contains("no matrix for `input_embeddings`"), "{embedding}");
    let short =
        fails(2, &["jacobian", "fit", "--file", &prompts, "-m", &model, "-o", &torch, "--skip-first", "50"]);
    assert!(short.contains("so none counts"), "{short}");
    assert!(fails(2, &["jacobian", "fit", "--file", &prompts, "-m", &model]).contains("-o j.safetensors"));
}

#[test]
fn a_tuned_lens_is_trained_and_read() {
    let (model, folder) = (tiny("gpt2"), tempfile::tempdir().unwrap());
    let prompts = folder.path().join("p.txt");
    std::fs::write(&prompts, "the cat sat\na dog ran\none two three\nit was so\n").unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (file, lens) = (prompts.to_str().unwrap(), path("lens"));
    let fixed = ["tune", "--file", file, "-m", &model, "--steps", "6", "--rows", "3"];
    succeeds(&[&fixed[..], &["-o", &lens]].concat());
    let names: std::collections::BTreeSet<String> = std::fs::read_dir(&lens)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["config.json", "params.pt"]);
    let read = json(&["lens", "the cat", "-m", &model, "--tuned", &lens, "--format", "json"]);
    assert_eq!(read["settings"]["tuned"]["name"], "lens");
    let twice = path("twice");
    succeeds(&[&fixed[..], &["-o", &twice]].concat());
    let bytes = |folder: &str| std::fs::read(format!("{folder}/params.pt")).unwrap();
    assert!(bytes(&lens) == bytes(&twice));
    assert!(fails(2, &[&fixed[..], &["-o", &lens]].concat()).contains("holds a lens already"));
    let finished = fails(2, &[&fixed[..], &["-o", &lens, "--resume"]].concat());
    assert!(finished.contains("its lens is finished") && bytes(&lens) == bytes(&twice), "{finished}");
    assert!(fails(2, &fixed).contains("-o lens/"));
    assert!(
        fails(2, &[&fixed[..], &["-o", &path("x"), "--rate", "0"]].concat()).contains("must be positive")
    );
}

#[test]
fn direct_attribution_is_drawn_and_streams_are_its_running_sums() {
    let model = tiny("llama");
    let fixed = [&["dla", "the cat sat", "-m", &model][..], &ANSWER].concat();
    for by in ["part", "head", "neuron"] {
        let picture = succeeds(&[&fixed[..], &["--by", by, "--format", "svg"]].concat());
        assert!(picture.contains("Direct logit attribution") && picture.contains("<rect"), "{by}");
    }
    let page = succeeds(&[&fixed[..], &["--format", "html"]].concat());
    assert!(page.contains("Content-Security-Policy") && page.contains("running sum"));
    let parts = json(&[&fixed[..], &["--format", "json"]].concat());
    let streams = json(&[&fixed[..], &["--by", "stream", "--norm", "cached", "--format", "json"]].concat());
    let values = |found: &Value| -> Vec<f64> {
        found["contributions"].as_array().unwrap().iter().map(|one| one["value"].as_f64().unwrap()).collect()
    };
    // The bias and the embedding, then attention and MLP of each layer: every stream is the sum so far.
    let (parts, streams) = (values(&parts), values(&streams));
    let mut sum = parts[0];
    for (part, stream) in parts[1..].iter().zip(&streams) {
        sum += part;
        assert!((sum - stream).abs() < 1e-4, "{sum} {stream}");
    }
    assert_eq!(parts.len(), streams.len() + 1);
    assert!(fails(2, &[&fixed[..], &["--norm", "own"]].concat()).contains("--by stream"));
    assert!(
        fails(2, &[&fixed[..], &["--positions", "all", "--format", "svg"]].concat()).contains("one position")
    );
}

#[test]
fn tokens_that_pairs_do_not_name_are_told() {
    let model = tiny("gpt2");
    let folder = tempfile::tempdir().unwrap();
    let pairs = folder.path().join("pairs.jsonl").to_str().unwrap().to_owned();
    let whole = r#"{"clean": " the cat", "corrupt": " the dog", "answer": 7, "against": 9}"#;
    std::fs::write(&pairs, format!("{whole}\n{}\n", whole.replace("against", "agianst"))).unwrap();
    let told = |args: &[&str]| {
        let of = ["-m", &model, "--pairs", &pairs];
        let output = easyroutine(&[args, &of[..]].concat()).assert().success();
        String::from_utf8(output.get_output().stderr.clone()).unwrap()
    };
    let expected = "1 of 2 pairs name no `against`: the prediction of their corrupted prompt is used";
    for command in [&["attribute"][..], &["dla"], &["edges", "--top", "40"]] {
        assert_eq!(told(command).matches(expected).count(), 1, "{command:?}");
        assert!(!told(command).contains("no `answer`"), "{command:?}");
        assert!(told(command).contains("keys of the pairs that are not read: `agianst`;"), "{command:?}");
    }
    assert!(!told(&["attribute", "--metric", "logit"]).contains("name no"));
}

#[test]
fn pairs_of_a_file_are_averaged_by_attribute_and_dla() {
    let model = tiny("gpt2");
    let folder = tempfile::tempdir().unwrap();
    let pairs = folder.path().join("pairs.jsonl").to_str().unwrap().to_owned();
    let two = [(" the cat", " the dog", 7, 9), (" a cat sat", " a dog sat", 11, 8)];
    let line = |(clean, corrupt, answer, against): (&str, &str, u32, u32)| {
        serde_json::json!({"clean": clean, "corrupt": corrupt, "answer": answer, "against": against})
            .to_string()
    };
    std::fs::write(&pairs, two.map(line).join("\n")).unwrap();
    let all = ["--format", "json", "-k", "10000"];
    // One pair of the file is the command of two prompts, summed over positions.
    let one = json(&[&["attribute", "-m", &model, "--pairs", &pairs, "--limit", "1"][..], &all].concat());
    assert_eq!((&one["schema"], &one["pairs"]), (&"easyroutine.attribute_pairs/1".into(), &1.into()));
    let single = json(
        &[
            &[
                "attribute",
                " the dog",
                "--base",
                " the cat",
                "-m",
                &model,
                "--answer",
                "id:7",
                "--against",
                "id:9",
            ][..],
            &all,
        ]
        .concat(),
    );
    let mut sums = std::collections::BTreeMap::<String, f64>::new();
    for cell in single["cells"].as_array().unwrap() {
        let key = format!("{} {}", cell["activation"], cell["part"]);
        *sums.entry(key).or_default() += cell["score"].as_f64().unwrap();
    }
    for cell in one["cells"].as_array().unwrap() {
        let key = format!("{} {}", cell["activation"], cell["part"]);
        let sum = sums.get(&key).copied().unwrap_or(0.0);
        assert!((sum - cell["score"].as_f64().unwrap()).abs() < 1e-5, "{key}: {sum} {cell}");
    }
    assert!((one["corrupted"].as_f64().unwrap() - single["value"].as_f64().unwrap()).abs() < 1e-6);
    let both = json(&[&["attribute", "-m", &model, "--pairs", &pairs, "--metric", "kl"][..], &all].concat());
    assert_eq!((&both["pairs"], &both["clean"]), (&2.into(), &Value::Null));
    // The mean over parts is the mean of both prompts' parts, and sums to the mean logit difference.
    let parts = json(&["dla", "-m", &model, "--pairs", &pairs, "--format", "json"]);
    let of = |prompt: &str, answer: &str, against: &str| {
        json(&["dla", prompt, "-m", &model, "--answer", answer, "--against", against, "--format", "json"])
    };
    let singles = [of(" the cat", "id:7", "id:9"), of(" a cat sat", "id:11", "id:8")];
    for (at, part) in parts["contributions"].as_array().unwrap().iter().enumerate() {
        let mean: f64 =
            singles.iter().map(|one| one["contributions"][at]["value"].as_f64().unwrap()).sum::<f64>() / 2.0;
        assert!((part["value"].as_f64().unwrap() - mean).abs() < 1e-5, "{part}");
    }
    let neurons =
        json(&["dla", "-m", &model, "--pairs", &pairs, "--by", "neuron", "-k", "3", "--format", "json"]);
    assert_eq!(neurons["contributions"].as_array().unwrap().len(), 3);
    for (args, words) in [
        (&["attribute", "x", "--pairs", &pairs, "-m", &model][..], "cannot be used with"),
        (&["attribute", "--pairs", &pairs, "-m", &model, "--base", "x"][..], "cannot be used with"),
        (
            &["attribute", "--pairs", &pairs, "-m", &model, "--method", "integrated"][..],
            "is for --method patching",
        ),
        (&["attribute", "--pairs", &pairs, "-m", &model, "-o", "s.safetensors"][..], "scores of one pair"),
        (&["attribute", "-m", &model][..], "required"),
        (&["dla", "--pairs", &pairs, "-m", &model, "--by", "stream"][..], "of one prompt"),
        (&["dla", "--pairs", &pairs, "-m", &model, "--positions", "all"][..], "where one is read"),
        (
            &["dla", "--pairs", &pairs, "-m", &model, "--intervene", "resid_out_1@last=0"][..],
            "changes one prompt",
        ),
        (&["dla", "--pairs", &pairs, "-m", &model, "--answer", "x"][..], "cannot be used with"),
        (&["dla", "--pairs", &pairs, "-m", &model, "--chat"][..], "cannot be used with"),
        (&["dla", "--pairs", &pairs, "-m", &model, "--norm", "own"][..], "--norm is for --by stream"),
        (&["dla", "--pairs", &pairs, "-m", &model, "--dict", "sae=x"][..], "--dict changes one prompt"),
    ] {
        let said = fails(2, args);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    std::fs::write(&pairs, "{\"clean\": \" the cat\", \"corrupt\": \" the dog sat\"}").unwrap();
    let uneven = fails(2, &["attribute", "-m", &model, "--pairs", &pairs]);
    assert!(uneven.contains("line 1"), "{uneven}");
}
