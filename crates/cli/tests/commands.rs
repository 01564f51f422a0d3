//! Every command, as a user runs it.

use crate::common;

use common::{easyroutine, fails, fixtures, json, path, succeeds, tiny, with_tensors};

const PROMPT: &str = "the cat sat";

#[test]
fn lens_json_has_the_documented_fields() {
    let report = json(&["lens", PROMPT, "-m", &tiny("llama"), "-k", "3", "--format", "json"]);
    assert_eq!(report["schema"], "easyroutine.lens/1");
    assert_eq!(report["model"]["model_type"], "llama");
    assert_eq!(report["settings"]["norm"], "own");
    let tokens = report["tokens"].as_array().unwrap();
    let layers = report["layers"].as_array().unwrap();
    let names: Vec<&str> = layers.iter().map(|l| l["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["input_embeddings", "resid_out_0", "resid_out_1", "resid_out_2"]);
    assert_eq!(layers[0]["layer"], -1);
    for layer in layers {
        let cells = layer["positions"].as_array().unwrap();
        assert_eq!(cells.len(), tokens.len());
        for cell in cells {
            assert_eq!(cell["top"].as_array().unwrap().len(), 3);
            assert!(cell["top"][0]["logprob"].as_f64().unwrap() <= 0.0);
            assert!(cell["entropy"].as_f64().unwrap() > 0.0 && cell["kl_to_final"].is_number());
        }
        let last = cells.last().unwrap();
        assert!(last["rank_of_next"].is_null() && cells[0]["rank_of_next"].as_u64().unwrap() >= 1);
    }
    let final_kl = layers[3]["positions"][0]["kl_to_final"].as_f64().unwrap();
    assert!(final_kl.abs() < 1e-5, "the final layer is the model itself, but KL is {final_kl}");
}

#[test]
fn lens_reads_every_component_norm_and_metric() {
    for component in ["resid_out", "resid_in", "resid_mid", "attn_out", "attn_raw", "mlp_out", "head_out"] {
        for norm in ["own", "cached", "none"] {
            let model = tiny("gpt2");
            let args =
                ["lens", PROMPT, "-m", &model, "--component", component, "--norm", norm, "--format", "json"];
            let report = json(&args);
            let rows = report["layers"].as_array().unwrap().len();
            let heads = if component == "head_out" { 4 } else { 1 };
            assert_eq!(rows, 1 + 3 * heads, "{component} {norm}");
        }
    }
    for metric in ["final", "p", "rank", "entropy", "kl", "tracked"] {
        let table = succeeds(&[
            "lens",
            PROMPT,
            "-m",
            &tiny("llama"),
            "--metric",
            metric,
            "--track",
            "id:7",
            "--format",
            "table",
        ]);
        assert!(table.contains("input") && !table.contains('\u{1b}'), "{metric}: {table}");
    }
}

#[test]
fn lens_shows_the_positions_and_layers_that_were_asked_for() {
    let model = tiny("llama");
    let args = ["lens", PROMPT, "-m", &model, "--positions", "-1", "--layers", "emb,-1", "--format", "json"];
    let report = json(&args);
    let layers: Vec<i64> =
        report["layers"].as_array().unwrap().iter().map(|l| l["layer"].as_i64().unwrap()).collect();
    assert_eq!(layers, [-1, 2]);
    assert_eq!(report["layers"][0]["positions"].as_array().unwrap().len(), 1);
}

#[test]
fn lens_draws_pictures_by_the_ending_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (html, svg, png) = (file("a.html"), file("a.svg"), file("a.png"));
    succeeds(&["lens", PROMPT, "-m", &tiny("llama"), "-o", &html, "-o", &svg, "-o", &png, "--dark"]);
    assert!(std::fs::read_to_string(html).unwrap().contains("Content-Security-Policy"));
    assert!(std::fs::read_to_string(svg).unwrap().starts_with("<svg"));
    assert!(std::fs::read(png).unwrap().starts_with(b"\x89PNG"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "a partial file was left");
}

#[test]
fn a_pipe_gets_tsv_without_escapes_and_colour_is_there_when_asked_for() {
    let piped = succeeds(&["lens", PROMPT, "-m", &tiny("llama")]);
    assert!(piped.lines().next().unwrap().contains('\t') && !piped.contains('\u{1b}'));
    let coloured =
        succeeds(&["lens", PROMPT, "-m", &tiny("llama"), "--format", "table", "--color", "always"]);
    assert!(coloured.contains("\u{1b}[48;2;") || coloured.contains("\u{1b}["));
    let table = easyroutine(&["lens", PROMPT, "-m", &tiny("llama"), "--format", "table"])
        .env("COLUMNS", "60")
        .assert()
        .success();
    let text = String::from_utf8(table.get_output().stdout.clone()).unwrap();
    assert!(text.lines().all(|line| easyroutine_view::columns(line) <= 60), "{text}");
}

#[test]
fn run_lists_the_most_likely_tokens_in_order() {
    let answer = json(&["run", PROMPT, "-m", &tiny("llama"), "-k", "5", "--format", "json"]);
    let top: Vec<f64> =
        answer["top"].as_array().unwrap().iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
    assert_eq!(top.len(), 5);
    assert!(top.windows(2).all(|w| w[0] >= w[1]));
    let csv = succeeds(&["run", PROMPT, "-m", &tiny("llama"), "-k", "2", "--format", "csv"]);
    assert_eq!(csv.lines().count(), 3);
}

#[test]
fn tokens_shows_how_a_text_is_cut() {
    let answer = json(&["tokens", PROMPT, "-m", &tiny("llama"), "--format", "json"]);
    let text: String =
        answer["tokens"].as_array().unwrap().iter().map(|t| t["text"].as_str().unwrap()).collect();
    assert_eq!(text, PROMPT);
    let from_stdin =
        easyroutine(&["tokens", "-", "-m", &tiny("llama")]).write_stdin("the cat sat\n").assert().success();
    let direct = succeeds(&["tokens", PROMPT, "-m", &tiny("llama")]);
    assert_eq!(String::from_utf8(from_stdin.get_output().stdout.clone()).unwrap(), direct);
}

#[test]
fn model_info_says_what_a_model_is() {
    let info = json(&["model", "info", &tiny("gemma2"), "--format", "json"]);
    assert_eq!((info["model_type"].as_str(), info["n_layers"].as_u64()), (Some("gemma2"), Some(4)));
    assert_eq!(info["sliding_window_layers"], 2);
    let listed = json(&["model", "ls", "--format", "json"]);
    assert!(listed["architectures"].as_array().unwrap().contains(&"starcoder2".into()));
}

#[test]
fn model_info_of_a_config_alone_says_what_it_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let config = fixtures().join("published/gpt-oss-20b.json");
    std::fs::copy(config, folder.path().join("config.json")).unwrap();
    let info = json(&["model", "info", path(&folder), "--format", "json"]);
    assert_eq!(
        (info["parameters"].as_u64(), info["model_type"].as_str()),
        (Some(20_914_757_184), Some("gpt_oss"))
    );
    assert_eq!(info["expected_tensors"], 459);
    let blocks = info["tensors"].as_array().unwrap().iter();
    let blocks: Vec<_> =
        blocks.filter(|group| group["shape"] == serde_json::json!([32, 5760, 90, 16])).collect();
    let expected = serde_json::json!({"name": "model.layers.{}.mlp.experts.gate_up_proj_blocks", "shape": [32, 5760, 90, 16], "count": 24});
    assert_eq!(blocks, [&expected]);
    let table = succeeds(&["model", "info", path(&folder)]);
    assert!(table.contains("model.layers.{}.self_attn.sinks\t24 of [64]"), "{table}");
}

#[test]
fn a_lens_of_attention_reads_the_layers_that_have_it() {
    let model = tiny("lfm2");
    let lens = ["lens", PROMPT, "-m", &model, "--component", "attn_out", "--format", "json"];
    let report = json(&lens);
    let names: Vec<&str> =
        report["layers"].as_array().unwrap().iter().map(|layer| layer["name"].as_str().unwrap()).collect();
    assert!(names.len() > 1 && names[0] == "input_embeddings", "{names:?}");
    assert!(names[1..].iter().all(|name| name.starts_with("attn_out_")), "{names:?}");
    let output = easyroutine(&lens).assert().success();
    let said = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert!(said.contains("layers these have `attn_out`"), "{said}");
    // A model without any reports why.
    let none = ["lens", PROMPT, "-m", &tiny("mamba"), "--component", "attn_out"];
    let said = fails(2, &none);
    assert!(said.contains("recurrence"), "{said}");
}

#[test]
fn model_check_holds_on_every_kind_of_block() {
    for case in ["llama", "gpt2", "gpt_neox", "mixtral", "gemma3_text", "opt_postnorm", "olmo2"] {
        let checked = json(&["model", "check", &tiny(case), "--format", "json"]);
        assert_eq!(checked["holds"], true, "{case}: {checked}");
        assert!(checked["laws"].as_array().unwrap().len() >= 12);
    }
}

#[test]
fn an_exported_model_gives_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("exported");
    let target = target.to_str().unwrap();
    succeeds(&["model", "export", &tiny("gpt2"), target]);
    let logits = |model: &str| {
        let file = folder.path().join("logits.safetensors");
        succeeds(&["extract", PROMPT, "-m", model, "-a", "logits", "-o", file.to_str().unwrap()]);
        let bytes = std::fs::read(file).unwrap();
        safetensors::SafeTensors::deserialize(&bytes).unwrap().tensor("logits").unwrap().data().to_vec()
    };
    assert_eq!(logits(target), logits(&tiny("gpt2")));
    succeeds(&["run", PROMPT, "-m", target]);
    let again = fails(1, &["model", "export", &tiny("gpt2"), target]);
    assert!(again.contains("exists already"), "{again}");
}

#[test]
fn help_completions_manual_and_environment_are_there() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(succeeds(&["completions", shell]).contains("easyroutine"));
    }
    assert!(succeeds(&["man"]).contains(".TH easyroutine"));
    let env = easyroutine(&["env", "--format", "json"]).env("HF_TOKEN", "hf_secret").assert().success();
    let text = String::from_utf8(env.get_output().stdout.clone()).unwrap();
    assert!(text.contains("\"simd\"") && !text.contains("hf_secret"));
    for command in ["lens", "extract", "run", "tokens", "model", "env"] {
        assert!(succeeds(&[command, "--help"]).contains("Usage: easyroutine"));
    }
}

/// What a shell offers to complete the last of the words.
fn offered(words: &[&str]) -> Vec<String> {
    let asked = easyroutine(&[&["--", "easyroutine"], words].concat())
        .env("_EASYROUTINE_COMPLETE", "bash")
        .env("_CLAP_IFS", "\n")
        .env("_CLAP_COMPLETE_INDEX", words.len().to_string())
        .assert()
        .success();
    let text = String::from_utf8(asked.get_output().stdout.clone()).unwrap();
    text.lines().map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn a_shell_is_offered_models_and_the_keys_that_they_have() {
    let (llama, mixtral) = (tiny("llama"), tiny("mixtral"));
    assert!(offered(&["lens", "-m", "smol"]).contains(&"smollm2".to_owned()));
    assert!(offered(&["model", "info", &llama[..llama.len() - 2]]).iter().any(|path| path.contains("llama")));
    let keys = |model: &str, typed: &str| offered(&["extract", "-m", model, "-a", typed]);
    assert_eq!(
        keys(&llama, "logits,resid_out_"),
        ["logits,resid_out_0", "logits,resid_out_1", "logits,resid_out_2"]
    );
    assert_eq!(keys(&llama, "patt"), ["pattern_L"]);
    assert_eq!(keys(&llama, "pattern_L1H")[..2], ["pattern_L1H0", "pattern_L1H1"]);
    assert_eq!(keys(&llama, "router"), [""; 0], "a model without experts");
    assert_eq!(keys(&mixtral, "router_lo"), ["router_logits_"]);
    assert_eq!(keys("/no/such/model", "resid_o"), ["resid_out_"], "any model's keys");
}

#[test]
fn a_model_may_be_named_by_a_variable() {
    let folder = common::copy("llama");
    easyroutine(&["run", PROMPT]).env("EASYROUTINE_MODEL", path(&folder)).assert().success();
}

/// What `extract` writes and prints for a model.
fn extracted(model: &str, keys: &str, flags: &[&str]) -> (Vec<u8>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.safetensors");
    let args = ["extract", "--token-ids", "[[5,6,7]]", "-m", model, "-a", keys, "-o", file.to_str().unwrap()];
    let said = easyroutine(&[&args, flags].concat()).assert().success().get_output().stderr.clone();
    let bytes = std::fs::read(file).unwrap();
    // After the header, which says where the numbers come from.
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (bytes[8 + header..].to_vec(), String::from_utf8(said).unwrap())
}

#[test]
fn the_adapter_beside_a_model_is_applied_left_out_or_replaced() {
    let model = fixtures().join("checkpoints/adapter-beside");
    let model = model.to_str().unwrap();
    let (with, said) = extracted(model, "logits", &[]);
    assert!(said.contains("adapter-beside is applied; --no-adapter reads the model without it"), "{said}");
    let (without, said) = extracted(model, "logits", &["--no-adapter"]);
    assert!(!said.contains("adapter") && with != without, "{said}");
    // Another one in its place, and the same one by its name.
    assert!(extracted(model, "logits", &["--adapter", model]).0 == with);
    let base = tiny("llama");
    let adapters = ["rslora", "patterns"].map(|name| fixtures().join("adapters").join(name));
    let [one, other] = adapters.each_ref().map(|path| path.to_str().unwrap());
    let (applied, said) = extracted(&base, "logits", &["--adapter", one]);
    assert!(said.contains("rslora is applied"), "{said}");
    assert!(applied != extracted(&base, "logits", &["--adapter", other]).0);
    assert!(extracted(one, "logits", &[]).0 == applied);
    let info = json(&["model", "info", one, "--format", "json"]);
    assert_eq!(info["adapter"].as_str().map(|path| path.ends_with("rslora")), Some(true), "{info}");
    // A run names it.
    let base_of_runs = tempfile::tempdir().unwrap();
    let runs = base_of_runs.path().join("runs/");
    let runs = runs.to_str().unwrap();
    let extract = ["extract", "--token-ids", "[[5,6,7]]", "-a", "resid_out_0"];
    easyroutine(&[&extract[..], &["-m", &base, "--adapter", one, "-o", runs]].concat()).assert().success();
    let record = json(&["runs", "-b", runs, "show", "-1", "--format", "json"]);
    assert_eq!(record["metadata"]["_store"]["model"]["adapter"], "rslora", "{record}");
    let wrong = |code, flags: &[&str], word: &str| {
        let said = fails(code, &[&["run", "the cat", "-m", &base], flags].concat());
        assert!(said.contains(word), "{said:?} does not say {word:?}");
    };
    wrong(2, &["--adapter", one, "--no-adapter"], "cannot be used with");
    wrong(3, &["--adapter", &tiny("gpt2")], "it is not an adapter");
    wrong(3, &["--adapter", "./nowhere"], "./nowhere");
    let alone = fails(2, &["run", "the cat", "-m", one, "--no-adapter"]);
    assert!(alone.contains("without it nothing is left"), "{alone}");
}

#[test]
fn surplus_tensors_are_passed_over_where_that_is_allowed() {
    let model = with_tensors("llama", |tensors| {
        for name in ["model.layers.0.k_scale", "model.layers.1.k_scale"] {
            let mut scale = tensors[0].clone();
            (scale.0, scale.2) = (name.to_owned(), vec![scale.3.len() / 4]);
            tensors.push(scale);
        }
    });
    let refused = fails(1, &["run", "the cat", "-m", path(&model)]);
    for word in ["`model.layers.0.k_scale`, `model.layers.1.k_scale`", "--allow-tensor"] {
        assert!(refused.contains(word), "{refused}");
    }
    let one = fails(1, &["run", "the cat", "-m", path(&model), "--allow-tensor", "model.layers.0.k_scale"]);
    assert!(one.contains("tensor `model.layers.1.k_scale` has no place"), "{one}");
    let (numbers, said) = extracted(path(&model), "logits", &["--allow-tensor", "*.k_scale"]);
    assert!(said.contains("skipped as allowed") && said.contains("model.layers.1.k_scale"), "{said}");
    assert!(numbers == extracted(&tiny("llama"), "logits", &[]).0);
}

#[test]
fn the_score_of_a_reward_model_is_a_site() {
    let model = fixtures().join("checkpoints/reward-model");
    let model = model.to_str().unwrap();
    assert_eq!(extracted(model, "score", &[]).0.len(), 4);
    let refused =
        fails(2, &["extract", "--token-ids", "[[5]]", "-m", model, "-a", "logits", "-o", "x.safetensors"]);
    assert!(refused.contains("unembedding"), "{refused}");
    let refused = fails(
        2,
        &["extract", "--token-ids", "[[5]]", "-m", &tiny("llama"), "-a", "score", "-o", "x.safetensors"],
    );
    assert!(refused.contains("score"), "{refused}");
}
