//! Features in stores, in gradients and scored.

use crate::common::{easyroutine, fails, fixtures, json, succeeds, tiny};
use easyroutine_files::ShardedSafeTensors;

fn dictionary(case: &str) -> String {
    fixtures().join("dictionaries").join(case).to_str().unwrap().to_owned()
}

#[test]
fn features_in_a_store_are_those_of_a_file_and_another_dictionary_is_refused_on_resuming() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let own = at("sae");
    std::fs::create_dir(&own).unwrap();
    for file in ["cfg.json", "sae_weights.safetensors"] {
        let from = fixtures().join("dictionaries/saelens_standard").join(file);
        std::fs::copy(from, folder.path().join("sae").join(file)).unwrap();
    }
    let (model, path) = (tiny("gpt2"), format!("sae={own}"));
    std::fs::write(at("p.txt"), "the cat sat\nthe dog\nit\nthe dog sat\na\n").unwrap();
    let prompts = at("p.txt");
    let change = "features_sae:7@all=4";
    let base = ["extract", "--file", &prompts, "-m", &model, "--dict", &path, "--intervene", change];
    let keys = ["-a", "features_sae,resid_out_1", "--positions", "all"];
    let run = |more: &[&str]| easyroutine(&[&base[..], &keys, more].concat());
    let file = at("f.safetensors");
    run(&["-o", &file]).assert().success();
    let store = at("runs/");
    for part in ["2/2", "1/2"] {
        run(&["-o", &store, "--run", "r", "--unit", "2", "--part", part, "--batch-tokens", "1"])
            .assert()
            .success();
    }
    let expected = ShardedSafeTensors::open(&file).unwrap();
    let load = |key: &str| json(&["runs", "-b", &store, "load", "-1", key, "--format", "json"]);
    let (indices, values) = (load("features_sae.indices"), load("features_sae.values"));
    assert_eq!(
        (&indices["kind"], &indices["dtype"], &values["dtype"]),
        (&"rows".into(), &"I32".into(), &"F32".into())
    );
    let offsets: Vec<usize> =
        values["offsets"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as usize).collect();
    assert_eq!(offsets.len(), 6);
    // In a file the row stands before place and feature.
    let pairs: Vec<i64> = indices["values"].as_array().unwrap().iter().map(|x| x.as_i64().unwrap()).collect();
    let row = |n: usize| offsets.partition_point(|start| *start <= n) - 1;
    let found: Vec<u8> = pairs
        .chunks(2)
        .enumerate()
        .flat_map(|(n, pair)| [row(n) as i32, pair[0] as i32, pair[1] as i32])
        .flat_map(i32::to_le_bytes)
        .collect();
    assert_eq!(found, expected.tensor("features_sae.indices").unwrap().bytes());
    let found: Vec<u8> = values["values"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|x| (x.as_f64().unwrap() as f32).to_le_bytes())
        .collect();
    assert_eq!(found, expected.tensor("features_sae.values").unwrap().bytes());
    // As one table, where the key itself is asked for.
    let table = load("features_sae");
    assert_eq!(table["schema"], "easyroutine.run_features/1");
    assert_eq!(table["features"].as_array().unwrap().len(), offsets[5]);
    let rows =
        json(&["runs", "-b", &store, "load", "-1", "features_sae", "--rows", "1:3", "--format", "json"]);
    assert_eq!(rows["features"][0]["row"], 1);
    assert_eq!(rows["features"].as_array().unwrap().len(), offsets[3] - offsets[1]);
    let shown = json(&["runs", "-b", &store, "show", "-1", "--format", "json"]);
    let config = &shown["metadata"]["extraction_config"];
    assert_eq!(
        (&config["features"]["features_sae"], &config["feature_changes"][0]),
        (&64.into(), &change.into())
    );
    assert_eq!(config["dictionaries"]["sae"]["format"], "saelens");
    let query = "extraction_config.dictionaries.sae.architecture = 'standard'";
    assert!(succeeds(&["runs", "-b", &store, "query", query]).contains("gpt2"));
    succeeds(&["runs", "-b", &store, "verify"]);
    let exported = at("out.safetensors");
    succeeds(&["runs", "-b", &store, "export", "-1", "-o", &exported]);
    assert!(ShardedSafeTensors::open(&exported).unwrap().tensor("features_sae.indices").is_some());

    // One layer at a time, many units through each.
    let info = json(&["model", "info", &model, "--format", "json"]);
    let memory = (info["weights_f32_bytes"].as_u64().unwrap() - 1).to_string();
    let fixed = ["-o", &store, "--run", "b", "--unit", "2", "--batch-tokens", "1"];
    let ran = run(&[&fixed[..], &["--memory", &memory]].concat()).assert().success();
    assert!(String::from_utf8_lossy(&ran.get_output().stderr).contains("layer by layer"));
    for key in ["features_sae.indices", "features_sae.values", "resid_out_1"] {
        let of = |run: &str| succeeds(&["runs", "-b", &store, "load", run, key, "--format", "tsv"]);
        assert_eq!(of("b"), of("r"), "{key}");
    }

    // Half of a run, then another dictionary at the same path.
    run(&["-o", &store, "--run", "s", "--unit", "2", "--part", "1/2"]).assert().success();
    let weights = folder.path().join("sae/sae_weights.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x80;
    std::fs::write(&weights, bytes).unwrap();
    let said = run(&["-o", &store, "--run", "s", "--unit", "2", "--part", "2/2"]).assert().failure();
    let said = String::from_utf8(said.get_output().stderr.clone()).unwrap();
    assert!(said.contains("dictionaries"), "{said}");
}

#[test]
fn gradients_pass_through_changes_of_features() {
    let (model, path) = (tiny("gpt2"), format!("sae={}", dictionary("saelens_standard")));
    let base = ["grad", "the cat sat", "-m", &model, "-a", "resid_in_0", "--format", "json", "--dict", &path];
    let run = |more: &[&str]| json(&[&base[..], more].concat())["gradients"][0]["norm"].clone();
    let plain = run(&[]);
    assert_eq!(run(&["--intervene", "features_sae@all=keep-error"]), plain);
    assert_ne!(run(&["--intervene", "features_sae@all=splice"]), plain);
    let change = ["--intervene", "features_sae:7@all=0", "--rule", "relp"];
    let message = fails(2, &[&base[..], &change].concat());
    assert!(message.contains("relp: it says nothing of features"), "{message}");
}

#[test]
fn features_are_scored_by_what_they_give_and_by_what_those_of_another_prompt_would_do() {
    let (model, path) = (tiny("gpt2"), format!("sae={}", dictionary("saelens_standard")));
    let base = ["attribute", "the cat sat", "-m", &model, "--dict", &path, "-a", "features_sae"];
    let json_of = |more: &[&str]| json(&[&base[..], &["--format", "json", "--check", "20"], more].concat());
    for more in [&[][..], &["--base", "the dog sat"]] {
        let told = json_of(more);
        assert_eq!(told["schema"], "easyroutine.attribute_features/1");
        let features = told["features"].as_array().unwrap();
        assert!(features.len() > 3, "{told}");
        assert!(told["pearson"].as_f64().unwrap() > 0.9, "{told}");
        let largest = features[0]["score"].as_f64().unwrap();
        assert!(features.iter().all(|one| one["score"].as_f64().unwrap().abs() <= largest.abs()));
        assert!((features[0]["exact"].as_f64().unwrap() - largest).abs() < 0.5 * largest.abs(), "{told}");
    }
    for (more, words) in [
        (&["-a", "z_L0"][..], "apart from activations"),
        (&["--metric", "ce"], "not scored by"),
        (&["--method", "integrated"], "by their gradients"),
        (&["--rule", "relp"], "says nothing of features"),
    ] {
        let message = fails(2, &[&base[..], more].concat());
        assert!(message.contains(words), "{more:?}: {message}");
    }
    let message =
        fails(2, &["attribute", "the cat", "--base", "the dog", "-m", &model, "-a", "features_sae"]);
    assert!(message.contains("no dictionary is given"), "{message}");
}
