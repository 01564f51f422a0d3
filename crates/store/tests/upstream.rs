//! The original's errors, one by one, and our behaviour. Observed with easyroutine 1.1.5.

use crate::common;

use std::collections::BTreeSet;
use std::fs;

use common::{contents, fast_folder, provenance, saver};
use easyroutine_store::{
    ActivationLoader, ActivationSaver, Contents, Dtype, ErrorKind, Model, Provenance, Query, Tensor, Value,
};
use serde_json::json;

/// Upstream: folder names have a resolution of one second, so the second save overwrites the first.
#[test]
fn two_saves_in_one_second_are_two_runs() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let paths: BTreeSet<String> =
        (0..20).map(|seed| saver.save(&contents(seed), &provenance(seed)).unwrap()).collect();
    assert_eq!(paths.len(), 20);
    let found = ActivationLoader::from_saver(&saver).query(&Query::default()).unwrap();
    let seeds: Vec<u64> =
        found.runs().iter().map(|run| run.metadata.get("seed").unwrap().as_u64().unwrap()).collect();
    assert_eq!(seeds, (0..20).collect::<Vec<_>>(), "in the order in which they were saved");
}

/// Upstream: `a/b_c` and `a_b/c` are the same folder, and the same model.
#[test]
fn models_that_share_a_folder_are_told_apart() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    for name in ["a/b_c", "a_b/c"] {
        let model = Model { name: name.to_owned(), ..Model::default() };
        saver.save(&contents(1), &Provenance { model, ..provenance(1) }).unwrap();
    }
    let loader = ActivationLoader::from_saver(&saver);
    let found = loader.query(&Query { model_name: Some("a/b_c".to_owned()), ..Query::default() }).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found.get(0).unwrap().metadata.model_name(), "a/b_c");
}

/// Upstream: a cache saved with the documented `save_cache` can't be unpickled by `load`.
#[test]
fn what_is_saved_is_loaded_to_the_bit() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    saver.save(&contents(7), &provenance(7)).unwrap();
    let run = ActivationLoader::from_saver(&saver).query(&Query::default()).unwrap().load(-1).unwrap();
    let saved = contents(7);
    assert_eq!(run.names().collect::<Vec<_>>(), saved.tensors.iter().map(|t| &t.name).collect::<Vec<_>>());
    for tensor in &saved.tensors {
        let read = run.read(&tensor.name).unwrap();
        assert_eq!((read.dtype, read.kind, &read.shape), (tensor.dtype, tensor.kind, &tensor.shape));
        assert_eq!((&read.bytes[..], &read.offsets), (&tensor.bytes[..], &tensor.offsets));
    }
    assert_eq!(run.manifest().values, saved.values);
}

/// Upstream: interventions are not JSON; the save fails half-way, and the run it leaves makes every later query fail.
#[test]
fn interventions_with_tensors_are_saved_and_found_by_value() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let patched = |fill: u8| {
        let tensor = Tensor::new("values", Dtype::U8, &[4], vec![fill; 4]);
        let fields = vec![
            ("type".to_owned(), json!("full").into()),
            ("activation".to_owned(), json!("resid_out_3").into()),
            ("patching_values".to_owned(), Value::Tensor(tensor)),
        ];
        Some(Value::List(vec![Value::Map(fields)]))
    };
    let path = saver.save(&contents(1), &Provenance { interventions: patched(5), ..provenance(1) }).unwrap();
    let loader = ActivationLoader::from_saver(&saver);
    let found = |interventions| loader.query(&Query { interventions, ..Query::default() }).unwrap().len();
    assert_eq!((found(patched(5)), found(patched(6)), found(None)), (1, 0, 1));
    let run = saver.store().run(&path).unwrap();
    let place = &run.metadata().get("interventions").unwrap()[0]["patching_values"]["_tensor"];
    assert_eq!(&run.read(place.as_str().unwrap()).unwrap().bytes[..], [5; 4]);
}

/// Upstream: one broken run makes every query raise.
#[test]
fn a_broken_run_is_a_problem_of_its_own() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let broken = saver.save(&contents(1), &provenance(1)).unwrap();
    saver.save(&contents(2), &provenance(2)).unwrap();
    fs::write(base.path().join(&broken).join("metadata.json"), "{\"tag\": ").unwrap();
    let found = ActivationLoader::from_saver(&saver).query(&Query::default()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found.problems()[0].path, broken);
    assert!(found.to_string().contains(&broken), "{found}");
}

/// Upstream: the loader's experiment is ignored, and all are searched.
#[test]
fn a_loader_searches_its_own_experiment() {
    let base = fast_folder();
    for (experiment, seed) in [("a", 1), ("b", 2), ("b", 3)] {
        saver(&base, experiment).save(&contents(seed), &provenance(seed)).unwrap();
    }
    let found = |experiment_name: Option<&str>| {
        let query = Query { experiment_name: experiment_name.map(str::to_owned), ..Query::default() };
        ActivationLoader::new(base.path(), "a").unwrap().query(&query).unwrap().len()
    };
    assert_eq!((found(None), found(Some("b")), found(Some("*")), found(Some("c"))), (1, 2, 3, 0));
}

/// Upstream: `../` in a name writes outside the base folder.
#[test]
fn no_name_leads_out_of_the_store() {
    let folder = fast_folder();
    let base = folder.path().join("base");
    for name in
        ["../out", "..", ".", "", "a/b", "a\\b", "/tmp/x", "a\0b", ".hidden", "a\nb", "*", "end ", "end."]
    {
        let error = ActivationSaver::new(&base, name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input, "{name:?}: {error}");
    }
    let saver = ActivationSaver::new(&base, "e").unwrap();
    let hostile = [
        "../../out",
        "..",
        ".",
        "/etc/passwd",
        "a/../../b",
        "\u{0}",
        "C:\\x",
        ".easyroutine",
        &"x".repeat(5000),
    ];
    for name in hostile {
        let model = Model { name: name.to_owned(), ..Model::default() };
        let path = saver.save(&contents(1), &Provenance { model, ..provenance(1) }).unwrap();
        assert!(base.join(&path).join("metadata.json").exists(), "{path}");
        let found = saver.store().run(&path).unwrap();
        assert_eq!(found.metadata().model_name(), name, "the true name is kept");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something was written beside the store");
    for path in ["../x/y", "e/../..", "e/m", "/e/m/t", "e/m/t/../t", "e//t", ".easyroutine/trash/x"] {
        assert_eq!(saver.store().run(path).unwrap_err().kind(), ErrorKind::Input, "{path}");
        assert_eq!(saver.store().remove(path).unwrap_err().kind(), ErrorKind::Input, "{path}");
    }
}

#[cfg(unix)]
#[test]
fn links_out_of_the_store_are_not_followed() {
    use std::os::unix::fs::symlink;
    let (base, outside) = (fast_folder(), fast_folder());
    let away = saver(&outside, "e");
    let run = away.save(&contents(1), &provenance(1)).unwrap();
    let ours = saver(&base, "mine");
    ours.save(&contents(2), &provenance(2)).unwrap();
    symlink(outside.path().join("e"), base.path().join("e")).unwrap();
    let model = base.path().join("mine/org_tiny");
    symlink(outside.path().join(&run), model.join("linked")).unwrap();

    let store = ours.store();
    let scan = store.scan(None).unwrap();
    assert_eq!((scan.runs.len(), scan.problems.len()), (1, 2), "{scan:?}");
    assert!(store.run(&run).is_err());
    assert!(store.run("mine/org_tiny/linked").is_err());
    assert!(store.remove(&run).is_err());
    assert!(saver(&base, "e").save(&contents(3), &provenance(3)).is_err(), "wrote through a link");
    assert_eq!(away.store().scan(None).unwrap().runs.len(), 1);
}

/// Upstream: `remove` leaves the run in the result; an extra file in the folder makes it delete the data, then fail.
#[test]
fn a_removed_run_is_gone_whatever_lies_in_its_folder() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let path = saver.save(&contents(1), &provenance(1)).unwrap();
    saver.save(&contents(2), &provenance(2)).unwrap();
    fs::create_dir(base.path().join(&path).join("notes")).unwrap();
    fs::write(base.path().join(&path).join("notes/extra.txt"), "mine").unwrap();
    let loader = ActivationLoader::from_saver(&saver);
    let mut found = loader.query(&Query::default()).unwrap();
    found.remove(0).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found.load(0).unwrap().metadata().get("seed"), Some(&json!(2)));
    assert_eq!(loader.query(&Query::default()).unwrap().len(), 1);
    assert!(!base.path().join(&path).exists());
}

/// Upstream: a run moved onto another is nested inside it.
#[test]
fn a_run_is_never_moved_onto_another() {
    let base = fast_folder();
    let saver = saver(&base, "a");
    let path = saver.save(&contents(1), &provenance(1)).unwrap();
    let taken = format!("b/{}", path.split_once('/').unwrap().1);
    fs::create_dir_all(base.path().join(&taken)).unwrap();
    fs::write(base.path().join(&taken).join("theirs"), "theirs").unwrap();
    let error = saver.store().move_run(&path, "b").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists, "{error}");
    assert!(saver.store().run(&path).is_ok());
    assert_eq!(fs::read_dir(base.path().join(&taken)).unwrap().count(), 1);
}

/// Upstream: JSON turns a tuple into a list, which then never equals the requested tuple.
#[test]
fn positions_are_found_as_they_were_asked_for() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    for (seed, positions) in [(1, json!(["last", [2, 5], -3])), (2, json!("last"))] {
        saver
            .save(&contents(seed), &Provenance { target_token_positions: positions, ..provenance(seed) })
            .unwrap();
    }
    let loader = ActivationLoader::from_saver(&saver);
    let found = |positions| {
        let query = Query { target_token_positions: Some(positions), ..Query::default() };
        loader.query(&query).unwrap().get_paths().len()
    };
    assert_eq!(found(json!(["last", [2, 5], -3])), 1);
    assert_eq!(found(json!([[2, 5], "last", -3])), 0, "the order counts");
    assert_eq!((found(json!(["last"])), found(json!("last"))), (1, 1), "one alone is a list of it");
}

/// Upstream: a user's metadata overrides the reserved fields.
#[test]
fn reserved_keys_are_refused_before_a_byte_is_written() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    for key in easyroutine_store::RESERVED {
        let other_metadata = vec![((*key).to_owned(), json!("mine").into())];
        let error = saver.save(&contents(1), &Provenance { other_metadata, ..provenance(1) }).unwrap_err();
        assert!(error.kind() == ErrorKind::Input && error.to_string().contains(key), "{error}");
    }
    assert!(!base.path().join("e").exists());
    let other_metadata = vec![("pivot_positions".to_owned(), json!([3, 7]).into())];
    saver.save(&contents(1), &Provenance { other_metadata, ..provenance(1) }).unwrap();
    let query = Query { pivot_positions: Some(json!([3, 7])), ..Query::default() };
    assert_eq!(ActivationLoader::from_saver(&saver).query(&query).unwrap().len(), 1);
}

/// Upstream: `rename_experiment` rewrites file after file, and a crash leaves a mixture.
#[test]
fn an_experiment_is_renamed_at_once() {
    let base = fast_folder();
    let saver = saver(&base, "before");
    for seed in 0..5 {
        saver.save(&contents(seed), &provenance(seed)).unwrap();
    }
    let bytes = |experiment: &str| {
        let scan = saver.store().scan(Some(experiment)).unwrap();
        scan.runs
            .iter()
            .map(|run| fs::read(base.path().join(&run.path).join("metadata.json")).unwrap())
            .collect::<Vec<_>>()
    };
    let files = bytes("before");
    saver.store().rename_experiment("before", "after").unwrap();
    assert_eq!(bytes("after"), files, "no file is touched");
    let scan = saver.store().scan(None).unwrap();
    assert!(scan.runs.iter().all(|run| run.metadata.get("experiment_name") == Some(&json!("after"))));
    let mut renamed = saver.clone();
    assert_eq!(renamed.rename_experiment("other").unwrap_err().kind(), ErrorKind::NotFound);
    let error = saver.store().rename_experiment("before", "x").unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.hint_text() == Some("there are after"), "{error}");
}

/// Upstream: compares the whole config, so that the documentation's own example finds nothing.
#[test]
fn a_query_for_patterns_finds_runs_that_saved_patterns_among_others() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let extraction_config =
        json!({"extract_resid_out": true, "extract_attn_pattern": true, "save_logits": true});
    saver.save(&contents(1), &Provenance { extraction_config, ..provenance(1) }).unwrap();
    saver.save(&contents(2), &provenance(2)).unwrap();
    let query = Query { extraction_config: Some(json!({"extract_attn_pattern": true})), ..Query::default() };
    let found = ActivationLoader::from_saver(&saver).query(&query).unwrap();
    assert_eq!(
        found.runs().iter().map(|run| run.metadata.get("seed").unwrap()).collect::<Vec<_>>(),
        [&json!(1)]
    );
}

/// Upstream: failures are printed, and nothing is returned.
#[test]
fn a_missing_run_is_an_error() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let loader = ActivationLoader::from_saver(&saver);
    let none = loader.query(&Query::default()).unwrap();
    assert!(none.is_empty());
    assert_eq!(none.load(-1).unwrap_err().kind(), ErrorKind::NotFound);
    saver.save(&contents(1), &provenance(1)).unwrap();
    saver.save(&contents(2), &provenance(2)).unwrap();
    let found = loader.query(&Query::default()).unwrap();
    for index in [2, -3, i64::MIN, i64::MAX] {
        assert_eq!(found.load(index).unwrap_err().kind(), ErrorKind::NotFound, "{index}");
    }
    assert_eq!(found.load("1999").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(found.load("20").unwrap_err().kind(), ErrorKind::Ambiguous);
    let name = found.get(0).unwrap().path.rsplit('/').next().unwrap().to_owned();
    assert_eq!(found.load(name.as_str()).unwrap().path(), found.get(0).unwrap().path);
}

/// Upstream: only its own pickle. Here any tensor, or none.
#[test]
fn runs_without_tensors_and_with_empty_ones_are_runs() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let nothing = saver.save(&Contents::default(), &provenance(1)).unwrap();
    assert_eq!(saver.store().run(&nothing).unwrap().names().count(), 0);
    let tensors =
        vec![Tensor::f32("empty", &[0, 7], &[]).dense(), Tensor::new("b", Dtype::Bool, &[1], vec![1])];
    let path = saver.save(&Contents { tensors, ..Contents::default() }, &provenance(1)).unwrap();
    let run = saver.store().run(&path).unwrap();
    assert_eq!(run.read("empty").unwrap().shape, [0, 7]);
    assert!(run.verify().unwrap().is_empty());
}
