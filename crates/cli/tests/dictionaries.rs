//! `dict info`, and `--dict` for other commands.

use crate::common::{copy, easyroutine, fails, fixtures, json, succeeds, tiny};
use easyroutine_files::ShardedSafeTensors;

fn dictionary(case: &str) -> String {
    fixtures().join("dictionaries").join(case).to_str().unwrap().to_owned()
}

#[test]
fn dict_info_tells_what_a_dictionary_is_and_whether_it_fits() {
    let told = json(&[
        "dict",
        "info",
        &dictionary("gemma_scope_2_clt"),
        "-m",
        &tiny("gemma3_text"),
        "--format",
        "json",
    ]);
    assert_eq!(told["schema"], "easyroutine.dictionary/1");
    assert_eq!(told["format"], "gemma_scope_2_clt");
    assert_eq!(told["layers"].as_array().unwrap().len(), 4);
    assert_eq!(told["layers"][2]["has_skip"], true);
    assert_eq!(told["fits"]["places"][3]["writes"], "mlp_out_3");
    let table = succeeds(&["dict", "info", &dictionary("qwen_scope")]);
    assert!(table.contains("activation\ttopk, k = 8\n") && table.contains("publisher_l0\t8\n"), "{table}");
    let wrong = fails(2, &["dict", "info", &dictionary("saelens_hook_z"), "-m", &tiny("gemma3_text")]);
    assert!(wrong.contains("reads vectors of 48, but `z_L1` of this model has 64"), "{wrong}");
    let factor = fails(1, &["dict", "info", &dictionary("saelens_expected_average")]);
    assert!(factor.contains("expected_average_only_in") && factor.contains("--norm-factor"), "{factor}");
}

#[test]
fn dict_check_measures_what_splicing_costs_on_a_text_of_its_own_or_of_a_file() {
    let (model, path) = (tiny("gpt2"), dictionary("saelens_standard"));
    let prompts = fixtures().join("dictionaries/prompts.jsonl");
    let base = ["dict", "check", &path, "-m", &model, "--format", "json"];
    let file = ["--file", prompts.to_str().unwrap(), "--field", "ids", "--positions", "all"];
    let told = json(&[&base[..], &file].concat());
    let expect: serde_json::Value = serde_json::from_slice(
        &std::fs::read(fixtures().join("dictionaries/saelens_standard/expect.json")).unwrap(),
    )
    .unwrap();
    let found = told["measured"]["layers"][0]["explained_variance"].as_f64().unwrap();
    assert!((found - expect["stats"]["explained_variance"].as_f64().unwrap()).abs() < 1e-6, "{told}");
    assert_eq!((&told["schema"], &told["prompts"]), (&"easyroutine.dictionary_check/1".into(), &40.into()));
    // The tiny model has a short context.
    let table = succeeds(&["dict", "check", &path, "-m", &model, "--truncate"]);
    assert!(table.starts_with("what\tvalue\tpublisher\nprompts\t16\t\n"), "{table}");
    assert!(table.contains("\nce_recovered\t"), "{table}");
    let told = succeeds(&["dict", "check", &dictionary("qwen_scope"), "-m", &tiny("qwen3"), "--truncate"]);
    assert!(told.contains("\nl0\t8\t8\n"), "{told}");
    let wrong = fails(2, &["dict", "check", &path, "-m", &model, "--field", "ids"]);
    assert!(wrong.contains("--field is for prompts of a file"), "{wrong}");
}

#[test]
fn features_are_changed_in_runs_and_generation_and_nothing_changes_with_the_error_kept() {
    let (model, path) = (tiny("gpt2"), format!("sae={}", dictionary("saelens_standard")));
    let run = |changes: &[&str]| {
        let mut args = vec!["run", "the cat sat", "-m", &model, "--format", "json", "--dict", &path];
        changes.iter().for_each(|change| args.extend(["--intervene", change]));
        json(&args)["top"].clone()
    };
    assert_eq!(run(&[]), run(&["features_sae@all=keep-error"]));
    assert_ne!(run(&[]), run(&["features_sae:7@all=40"]));
    assert_eq!(run(&["features_sae:7@all*0"]), run(&["features_sae:7@all=0"]));
    let generate = ["run", "the cat sat", "-m", &model, "--generate", "4", "--dict", &path, "--intervene"];
    let steered = succeeds(&[&generate[..], &["features_sae:7@all+60"]].concat());
    assert_ne!(steered, succeeds(&[&generate[..], &["features_sae@all=keep-error"]].concat()));
}

#[test]
fn features_are_extracted_sparse_beside_activations_and_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("f.safetensors");
    let (model, path) = (tiny("gpt2"), format!("sae={}", dictionary("saelens_standard")));
    let prompts = folder.path().join("p.txt");
    std::fs::write(&prompts, "the cat sat\nthe dog\nit\n").unwrap();
    let args = [
        "extract",
        "--file",
        prompts.to_str().unwrap(),
        "-m",
        &model,
        "--dict",
        &path,
        "-o",
        out.to_str().unwrap(),
    ];
    let run = |more: &[&str]| {
        easyroutine(&[&args[..], more].concat()).assert().success();
        let file = ShardedSafeTensors::open(&out).unwrap();
        let bytes = |name: &str| file.tensor(name).map(|tensor| tensor.bytes().to_vec());
        (bytes("features_sae.indices").unwrap(), bytes("features_sae.values").unwrap(), bytes("resid_out_1"))
    };
    let both = run(&["-a", "resid_out_1,features_sae"]);
    let alone = run(&["-a", "features_sae"]);
    assert!(both.2.is_some() && alone.2.is_none());
    assert_eq!((&both.0, &both.1), (&alone.0, &alone.1));
    assert_eq!(run(&["-a", "features_sae", "--batch-tokens", "1"]), alone, "in any batches");
    let places: Vec<[i32; 3]> = both
        .0
        .as_chunks::<12>()
        .0
        .iter()
        .map(|place| {
            let number = |i: usize| i32::from_le_bytes(place[4 * i..][..4].try_into().unwrap());
            [number(0), number(1), number(2)]
        })
        .collect();
    assert!(places.is_sorted() && places.iter().any(|place| place[0] == 2), "{places:?}");
    assert_eq!(both.1.len(), 4 * places.len());
}

#[test]
fn what_dictionaries_cannot_do_is_refused_by_name() {
    let (model, path) = (tiny("gpt2"), format!("sae={}", dictionary("saelens_standard")));
    let run = ["run", "the cat", "-m", &model];
    for (more, words) in [
        (vec!["--intervene", "features_sae:1@all=0"], "no dictionary is given"),
        (vec!["--dict", &path, "--intervene", "features_sae:64@all=0"], "no feature 64"),
        (vec!["--dict", &path, "--intervene", "features_sea:1@all=0"], "did you mean `features_sae`"),
        (vec!["--dict", &path, "--dict", &path], "two dictionaries are called `sae`"),
        (vec!["--dict", "somewhere"], "names no path"),
        (vec!["--dict", &path, "--place", "other=resid_out_1"], "of no dictionary"),
        (vec!["--dict", &path, "--norm-factor", "x"], "is not a number"),
        (vec!["--dict", &path, "--place", "resid_out_0", "--place", "sae=resid_out_1"], "given twice"),
        (vec!["--dict", &path, "--norm-factor", "2", "--norm-factor", "3"], "given twice"),
    ] {
        let message = fails(2, &[&run[..], &more].concat());
        assert!(message.contains(words), "{more:?}: {message}");
    }
    let message =
        fails(2, &["extract", "the cat", "-m", &model, "-a", "features_sae", "-o", "x.safetensors"]);
    assert!(message.contains("no dictionary is given"), "{message}");
}

#[test]
fn features_of_a_data_set_are_the_same_whole_in_parts_and_after_an_end_in_between() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (model, path) = (tiny("gpt2"), format!("sae={}", dictionary("saelens_standard")));
    let file = fixtures().join("dictionaries/prompts.jsonl");
    let base =
        ["features", "-m", &model, "--dict", &path, "--file", file.to_str().unwrap(), "--field", "ids"];
    let run =
        |out: &str, more: &[&str]| easyroutine(&[&base[..], &["-o", out], more].concat()).assert().success();
    run(&at("whole"), &[]);
    let read = |name: &str, file: &str| std::fs::read_to_string(folder.path().join(name).join(file)).ok();
    let whole = read("whole", "features_sae.jsonl").unwrap();
    assert_eq!(whole.lines().count(), 64);
    for part in ["2/3", "3/3", "1/3"] {
        assert!(read("parts", "features_sae.jsonl").is_none(), "not before the last part");
        run(&at("parts"), &["--part", part, "--batch-tokens", "60"]);
    }
    assert_eq!(read("parts", "features_sae.jsonl").unwrap(), whole);
    // The leftovers of a killed run: statistics of some of the prompts.
    run(&at("some"), &["--part", "1/3"]);
    let state = std::fs::read(folder.path().join("some/parts/features_sae.1-of-3.safetensors")).unwrap();
    std::fs::create_dir_all(folder.path().join("killed/parts")).unwrap();
    std::fs::copy(folder.path().join("whole/plan.json"), folder.path().join("killed/plan.json")).unwrap();
    std::fs::write(folder.path().join("killed/parts/features_sae.1-of-1.safetensors"), state).unwrap();
    let said = String::from_utf8(run(&at("killed"), &[]).get_output().stderr.clone()).unwrap();
    assert!(said.contains("continuing after 13 of 40 prompts"), "{said}");
    assert_eq!(read("killed", "features_sae.jsonl").unwrap(), whole);
    // One layer at a time, many batches through each.
    let info = json(&["model", "info", &model, "--format", "json"]);
    let memory = (info["weights_f32_bytes"].as_u64().unwrap() - 1).to_string();
    run(&at("bounded"), &["--memory", &memory, "--batch-tokens", "60"]);
    run(&at("in_memory"), &["--batch-tokens", "60"]);
    assert_eq!(read("bounded", "features_sae.jsonl"), read("in_memory", "features_sae.jsonl"));
    let line: serde_json::Value = serde_json::from_str(whole.lines().nth(7).unwrap()).unwrap();
    assert_eq!(line["schema"], "easyroutine.feature/1");
    assert!(line["top"][0]["value"].as_f64() >= line["top"][1]["value"].as_f64());
    run(&at("logits"), &["--logits", "1000"]);
    let all = read("logits", "features_sae.jsonl").unwrap();
    let all: serde_json::Value = serde_json::from_str(all.lines().nth(7).unwrap()).unwrap();
    let [up, down] = ["top_logits", "bottom_logits"].map(|name| all[name].as_array().unwrap());
    assert!(up.iter().eq(down.iter().rev()), "all logits, once from the largest and once from the smallest");
    assert_eq!(line["top_logits"].as_array().unwrap()[..], up[..10]);
    assert_eq!(line["bottom_logits"].as_array().unwrap()[..], down[..10]);
    let page = at("page.html");
    let lines = folder.path().join("whole/features_sae.jsonl");
    succeeds(&["dict", "page", lines.to_str().unwrap(), "--features", "7,20:30", "-o", &page]);
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(
        text.contains("<title>Features · features_sae</title>") && text.contains(r#""n":29"#),
        "{}",
        text.len()
    );
    assert!(
        !text.contains(r#""n":30,"#) && !text.contains("http:") && !text.contains("https:"),
        "one file, ten features and one"
    );
    let pages = at("pages/");
    for features in ["0:60", "7,20:30"] {
        succeeds(&["dict", "page", lines.to_str().unwrap(), "--features", features, "-o", &pages]);
        let index = read("pages", "index.html").unwrap();
        assert!(index.contains(r#""n":29"#) && index.contains("script-src 'sha256-"), "{features}");
        let cards = read("pages/chunks", "0.js").unwrap();
        assert!(cards.starts_with("easyroutine(0,{") && cards.contains(r#""n":29"#), "{features}");
        assert_eq!(cards.contains(r#""n":31,"#), features == "0:60", "a folder holds one page");
    }
    std::fs::write(folder.path().join("pages/notes.txt"), "mine").unwrap();
    let foreign = fails(2, &["dict", "page", lines.to_str().unwrap(), "-o", &pages]);
    assert!(foreign.contains("`notes.txt`"), "{foreign}");
    let none = fails(2, &["dict", "page", lines.to_str().unwrap(), "--features", "64", "-o", &page]);
    assert!(none.contains("none of these features"), "{none}");
    let wrong = fails(1, &["dict", "page", file.to_str().unwrap(), "-o", &page]);
    assert!(wrong.contains("line 1") && wrong.contains("features_NAME.jsonl"), "{wrong}");
    let other = fails(2, &[&base[..], &["-o", &at("whole"), "--top", "5"]].concat());
    assert!(other.contains("its `top` is 20, but 5 was requested"), "{other}");
}

#[test]
fn a_run_of_features_that_was_killed_while_it_saved_counts_no_prompt_twice() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (one, other) = (format!("a={}", dictionary("saelens_standard")), format!("b={}", at("b").display()));
    std::fs::create_dir(at("b")).unwrap();
    for file in ["cfg.json", "sae_weights.safetensors"] {
        let from = fixtures().join("dictionaries/saelens_standard").join(file);
        std::fs::copy(from, at("b").join(file)).unwrap();
    }
    let file = fixtures().join("dictionaries/prompts.jsonl");
    let model = tiny("gpt2");
    let base = ["features", "-m", &model, "--dict", &one, "--dict", &other, "--field", "ids", "--file"];
    let command = |out: &str, more: &[&str]| {
        let out = at(out);
        easyroutine(&[&base[..], &[file.to_str().unwrap(), "-o", out.to_str().unwrap()], more].concat())
    };
    let run = |out: &str, more: &[&str]| command(out, more).assert().success();
    run("whole", &[]);
    run("some", &["--part", "1/3"]);
    for (left, further) in [(vec!["a"], None), (vec!["b"], None), (vec!["a", "b"], Some("a"))] {
        let killed = at("killed");
        std::fs::create_dir_all(killed.join("parts")).unwrap();
        std::fs::copy(at("whole/plan.json"), killed.join("plan.json")).unwrap();
        for name in left {
            let from = match further {
                Some(further) if further == name => format!("whole/parts/features_{name}.1-of-1.safetensors"),
                _ => format!("some/parts/features_{name}.1-of-3.safetensors"),
            };
            std::fs::copy(at(&from), killed.join(format!("parts/features_{name}.1-of-1.safetensors")))
                .unwrap();
        }
        run("killed", &[]);
        for name in ["features_a.jsonl", "features_b.jsonl"] {
            let read = |folder: &str| std::fs::read_to_string(at(folder).join(name)).unwrap();
            assert!(read("killed") == read("whole"), "{name}");
        }
        std::fs::remove_dir_all(killed).unwrap();
    }
    // Another dictionary at the same path.
    let weights = at("b/sae_weights.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x80;
    std::fs::write(&weights, bytes).unwrap();
    let said = command("whole", &[]).assert().code(2).get_output().stderr.clone();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("its `dictionaries` is"), "{said}");
}

#[test]
fn active_features_of_a_prompt_are_those_that_are_extracted() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("f.safetensors");
    let (model, path) = (tiny("gpt2"), format!("sae={}", dictionary("saelens_standard")));
    let (prompt, change) = ("the cat sat", "attn_out_0@last*3");
    let common = ["-m", &model, "--dict", &path, "--intervene", change];
    let extract = ["extract", prompt, "-a", "features_sae", "-o", out.to_str().unwrap()];
    easyroutine(&[&extract[..], &common].concat()).assert().success();
    let file = ShardedSafeTensors::open(&out).unwrap();
    let bytes = |name: &str| file.tensor(name).unwrap().bytes().to_vec();
    let numbers: Vec<i32> =
        bytes("features_sae.indices").chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect();
    let values: Vec<f32> =
        bytes("features_sae.values").chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let extracted: std::collections::BTreeMap<(u64, u64), f32> =
        numbers.chunks(3).zip(values).map(|(at, value)| ((at[1] as u64, at[2] as u64), value)).collect();

    let active = ["dict", "active", prompt, "--format", "json", "-k", "100000"];
    let told = json(&[&active[..], &common].concat());
    let listed = told["features"].as_array().unwrap();
    let found: std::collections::BTreeMap<(u64, u64), f32> = listed
        .iter()
        .map(|one| {
            let at = (one["position"].as_u64().unwrap(), one["feature"].as_u64().unwrap());
            (at, one["value"].as_f64().unwrap() as f32)
        })
        .collect();
    assert!(!found.is_empty());
    assert_eq!(found, extracted);
    assert_eq!(told["keys"][0]["key"], "features_sae");
    // The strongest features of only the last token.
    let few = ["dict", "active", prompt, "--format", "json", "-k", "2", "--positions", "last"];
    let told = json(&[&few[..], &common].concat());
    let listed = told["features"].as_array().unwrap();
    let last = told["tokens"].as_array().unwrap().len() as u64 - 1;
    let mut strongest: Vec<f32> =
        found.iter().filter(|((position, _), _)| *position == last).map(|(_, value)| *value).collect();
    strongest.sort_by(|a, b| b.abs().total_cmp(&a.abs()));
    let values: Vec<f32> = listed.iter().map(|one| one["value"].as_f64().unwrap() as f32).collect();
    assert_eq!(values, strongest[..2.min(strongest.len())]);
    let without = fails(2, &["dict", "active", prompt, "-m", &model]);
    assert!(without.contains("--dict NAME=PATH"), "{without}");
    // Of a set, those of every layer.
    let set = format!("plt={}", dictionary("circuit_tracer_plt"));
    let told = json(&["dict", "active", prompt, "-m", &model, "--dict", &set, "--format", "json"]);
    let keys: Vec<&str> =
        told["keys"].as_array().unwrap().iter().map(|key| key["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["features_plt_0", "features_plt_1", "features_plt_2"]);
}

#[test]
fn a_feature_steers_a_prompt_at_several_strengths() {
    let (model, path) = (tiny("gpt2"), format!("sae={}", dictionary("saelens_standard")));
    let base = ["dict", "steer", "the cat sat", "-m", &model, "--dict", &path, "--generate", "6"];
    let steer = |feature: &str, strength: &str| {
        let more = ["--feature", feature, "--strength", strength];
        easyroutine(&[&base[..], &more, &["--format", "json"]].concat()).assert()
    };
    let output = steer("features_sae:7", "0,40,-40").success().get_output().stdout.clone();
    let found: serde_json::Value = serde_json::from_slice(&output).unwrap();
    let continued = |more: &[&str]| {
        let args = ["run", "the cat sat", "-m", &model, "--generate", "6", "--format", "json"];
        json(&[&args[..], more].concat())["generated"].clone()
    };
    for (i, strength) in [0, 40, -40].into_iter().enumerate() {
        let one = &found["continuations"][i];
        assert_eq!(one["strength"], f64::from(strength));
        let change = format!("features_sae:7@all+{strength}");
        let run = match strength {
            0 => continued(&[]),
            _ => continued(&["--dict", &path, "--intervene", &change]),
        };
        let ids = |list: &serde_json::Value| -> Vec<serde_json::Value> {
            list.as_array().unwrap().iter().map(|token| token["id"].clone()).collect()
        };
        assert_eq!(ids(&one["generated"]), ids(&run), "{strength}");
        assert_eq!(one["logprobs"][0], run[0]["logprob"], "{strength}");
    }
    assert_ne!(found["continuations"][1]["generated"], found["continuations"][2]["generated"]);
    for (feature, strength, code, words) in [
        ("features_sae:64", "0", 2, "no feature 64"),
        ("features_sae", "1", 2, "which feature?"),
        ("resid_out_1", "1", 2, "is no feature"),
        ("features_sae:7@last=2", "1", 2, "names no token positions"),
        ("features_sae:7", "1,many", 2, "`many` is not a number"),
        ("features_sae:7", "inf", 2, "`inf` is not a number"),
    ] {
        let failed = steer(feature, strength).failure();
        let said = String::from_utf8_lossy(&failed.get_output().stderr).into_owned();
        assert!(said.contains(words), "{feature} {strength}: {said}");
        assert_eq!(failed.get_output().status.code(), Some(code), "{feature} {strength}: {said}");
    }
}

#[test]
fn a_dictionary_that_names_another_model_is_told_by_every_command() {
    let other = copy("gpt2");
    let (model, set) = (other.path().to_str().unwrap(), dictionary("circuit_tracer_plt"));
    let named = format!("plt={set}");
    let said = |args: &[&str], model: &str| {
        let output = easyroutine(&[args, &["-m", model]].concat()).assert().success().get_output().clone();
        String::from_utf8(output.stderr).unwrap()
    };
    for args in [
        &["graph", "the cat sat", "--bos", "yes", "--dict-set", &set][..],
        &["dict", "check", &set, "--truncate"],
        &["dict", "active", "the cat sat", "--dict", &named],
        &["dict", "info", &set],
        &["run", "the cat sat", "--dict", &named, "--intervene", "features_plt_1@all=keep-error"],
    ] {
        let words = "the dictionary was trained on `tiny/gpt2`";
        assert_eq!(said(args, model).matches(words).count(), 1, "{args:?}: {}", said(args, model));
        assert!(!said(args, &tiny("gpt2")).contains(words), "{args:?}");
    }
}

#[test]
fn features_go_to_parquet_neuronpedia_and_delphi() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(folder.path().join(name)).unwrap()).unwrap()
    };
    let (model, path) = (tiny("gpt2"), format!("sae={}", dictionary("saelens_standard")));
    let file = fixtures().join("dictionaries/prompts.jsonl");
    let of = ["-m", &model, "--dict", &path, "--field", "ids", "--file", file.to_str().unwrap()];
    succeeds(&[&["features"], &of[..], &["-o", &at("f"), "--top", "5"]].concat());
    let jsonl = at("f/features_sae.jsonl");
    let text = std::fs::read_to_string(&jsonl).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();

    // Cut at the end of a line, it is not taken for the whole.
    let cut: String = text.lines().take(40).map(|line| format!("{line}\n")).collect();
    std::fs::write(at("cut.jsonl"), cut).unwrap();
    for command in [
        &["dict", "export", &at("cut.jsonl"), "-o", &at("cut.parquet")][..],
        &["dict", "page", &at("cut.jsonl"), "-o", &at("cut.html")],
    ] {
        let said = fails(1, command);
        assert!(said.contains("cut.jsonl holds 40 of 64 features"), "{said}");
    }
    assert!(!std::path::Path::new(&at("cut.parquet")).exists());
    let np = ["dict", "export", &jsonl, "--to", "neuronpedia", "-o", &at("np"), "--layer"];
    let said = fails(2, &[&np[..], &["0"]].concat());
    assert!(said.contains("--layer 0") && said.contains("of layer 1"), "{said}");
    succeeds(&[&np[..], &["1"]].concat());

    succeeds(&["dict", "export", &jsonl, "-o", &at("f.parquet")]);
    let bytes = std::fs::read(at("f.parquet")).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    let table = easyroutine::prompts::read(
        folder.path().join("f.parquet").as_path(),
        &easyroutine::prompts::ReadOptions { field: "top".to_owned(), ..Default::default() },
    );
    let easyroutine::prompts::Prompt::Text(top) = &table.unwrap().prompts[7] else { panic!("no text") };
    assert_eq!(serde_json::from_str::<serde_json::Value>(top).unwrap(), lines[7]["top"]);

    succeeds(&["dict", "export", &jsonl, "--to", "neuronpedia", "--set", "res-jb", "-o", &at("np")]);
    let batch = read("np/batch-0.json");
    assert_eq!((&batch["layer"], &batch["sae_set"]), (&1.into(), &"res-jb".into()));
    let feature = &batch["features"][7];
    assert_eq!(feature["frac_nonzero"], lines[7]["frequency"]);
    assert_eq!(feature["activations"][0]["values"], lines[7]["top"][0]["values"]);
    assert_eq!(feature["pos_str"][0], lines[7]["top_logits"][0]["token"]);
    assert_eq!(batch["features"].as_array().unwrap().len(), 64);

    let all = ["-a", "features_sae,input_ids", "--positions", "all", "-o", &at("a.safetensors")];
    succeeds(&[&["extract"], &of[..], &all[..]].concat());
    succeeds(&["dict", "export", &at("a.safetensors"), "--to", "delphi", "--splits", "3", "-o", &at("d")]);
    let mut seen = 0;
    for name in ["0_20", "21_41", "42_63"] {
        let split = ShardedSafeTensors::open(at(&format!("d/sae/{name}.safetensors"))).unwrap();
        let locations = split.tensor("locations").unwrap();
        assert_eq!(locations.shape()[1], 3);
        assert_eq!(split.tensor("tokens").unwrap().shape()[0], 40);
        let (first, bytes) = (name.split('_').next().unwrap().parse::<usize>().unwrap(), locations.bytes());
        let rows = bytes.as_chunks::<6>().0.iter();
        let of_seven = rows.filter(|row| usize::from(u16::from_le_bytes([row[4], row[5]])) + first == 7);
        seen += of_seven.count();
    }
    assert_eq!(seen as u64, lines[7]["count"].as_u64().unwrap());
    assert_eq!(read("d/sae/config.json")["model_name"], "gpt2");
    let part = ["-a", "features_sae,input_ids", "--positions", "last", "-o", &at("last.safetensors")];
    succeeds(&[&["extract"], &of[..], &part[..]].concat());
    let large = ["--intervene", "resid_out_1@all*1000000", "-o", &at("large.safetensors")];
    succeeds(&[&["extract"], &of[..], &all[..4], &large[..]].concat());

    for (args, words) in [
        (vec![&*at("a.safetensors"), "--to", "delphi", "-o", &at("d")], "holds an export already"),
        (vec![&*at("last.safetensors"), "--to", "delphi", "-o", &at("e")], "no features of whole prompts"),
        (vec![&*at("large.safetensors"), "--to", "delphi", "-o", &at("e")], "f16 cannot hold"),
        (vec![&*jsonl, "-o", &at("f.csv")], "Parquet is written"),
        (vec![&*jsonl, "--to", "delphi", "-o", "x"], "f/features_sae.jsonl"),
        (vec![&*jsonl, "--layer", "3", "-o", "x.parquet"], "--layer is for --to neuronpedia"),
        (vec![&*jsonl], "one file or folder is written"),
        (vec![file.to_str().unwrap(), "-o", "x.parquet"], "line 1: is not a feature"),
    ] {
        let args = [&["dict", "export"], &args[..]].concat();
        let said = easyroutine(&args).assert().failure().get_output().stderr.clone();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(words), "{args:?}: {said}");
    }
}
