//! The index answers as a scan does, whatever happened to the store or to the index.

use crate::common;

use std::fs;
use std::time::{Duration, SystemTime};

use common::{contents, fast_folder, provenance, saver};
use easyroutine_store::{ActivationLoader, ActivationSaver, Edit, Provenance, Query, QueryResult, Store};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

struct Place {
    base: TempDir,
    index: TempDir,
}

impl Place {
    fn with_runs(n: u32) -> Place {
        let place = Place { base: fast_folder(), index: fast_folder() };
        for seed in 0..n {
            let saver = saver(&place.base, if seed % 3 == 0 { "a" } else { "b" });
            let keys = vec![
                ("seed".to_owned(), json!(seed).into()),
                ("half".to_owned(), json!(f64::from(seed) / 2.0).into()),
            ];
            saver.save(&contents(seed), &Provenance { other_metadata: keys, ..provenance(seed) }).unwrap();
        }
        place.age();
        place
    }

    fn store(&self) -> Store {
        Store::open(self.base.path()).unwrap()
    }

    /// Makes every folder look unchanged for an hour, as most are.
    fn age(&self) {
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let mut folders = vec![self.base.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                fs::File::open(&path).unwrap().set_modified(hour_ago).unwrap();
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
    }

    fn database(&self) -> std::path::PathBuf {
        let files = fs::read_dir(self.index.path()).unwrap().map(|e| e.unwrap().path());
        files.into_iter().find(|path| path.extension().is_some_and(|e| e == "sqlite")).unwrap()
    }

    #[track_caller]
    fn agree(&self) {
        for query in queries() {
            let scanned = ActivationLoader::of(self.store(), "b").query(&query).unwrap();
            let found =
                ActivationLoader::of(self.store(), "b").indexed_in(self.index.path()).query(&query).unwrap();
            assert_eq!(said(&found), said(&scanned), "{query:?}");
        }
    }
}

fn said(result: &QueryResult) -> (Vec<&str>, Vec<Value>, Vec<String>) {
    let problems = result.problems().iter().map(|p| format!("{}: {}", p.path, p.error)).collect();
    (
        result.get_paths(),
        result.runs().iter().map(|r| Value::Object(r.metadata.fields().clone())).collect(),
        problems,
    )
}

fn queries() -> Vec<Query<'static>> {
    let all = || Query { experiment_name: Some("*".to_owned()), ..Query::default() };
    let keys = |value: Value| value.as_object().unwrap().clone();
    vec![
        Query::default(),
        all(),
        Query { tags: vec!["tag_4".to_owned()], ..all() },
        Query { tags: vec!["late".to_owned()], ..all() },
        Query { tags: vec!["tag_4".to_owned(), "late".to_owned()], ..all() },
        Query { model_name: Some("org/tiny".to_owned()), ..Query::default() },
        Query { model_name: Some("other".to_owned()), ..all() },
        Query { model_name: Some("other".to_owned()), or_model_name: Some("org/tiny".to_owned()), ..all() },
        Query { custom_keys: keys(json!({"seed": 4.0, "half": 2})), ..all() },
        Query { custom_keys: keys(json!({"half": 2.5})), ..all() },
        Query { custom_keys: keys(json!({"seed": [4]})), ..all() },
        Query { extraction_config: Some(json!({"extract_mlp_out": true})), ..all() },
        Query { extraction_config: Some(json!({"avg": true})), ..all() },
        Query { target_token_positions: Some(json!(["last", [2, 5], -3])), ..all() },
        Query { interventions: Some(json!(null).into()), ..all() },
        Query {
            condition: Some(
                "seed >= 2 and half < 3 and extraction_config.extract_resid_out".parse().unwrap(),
            ),
            ..all()
        },
        Query { condition: Some("_store.revision > 1 or note = 'x'".parse().unwrap()), ..all() },
        Query { experiment_name: Some("c".to_owned()), ..Query::default() },
    ]
}

#[test]
fn index_and_scan_agree_after_every_kind_of_change() {
    let place = Place::with_runs(8);
    place.agree();
    place.agree();
    let store = place.store();
    let path = |n: usize| store.scan(None).unwrap().runs[n].path.clone();
    let changes: [&dyn Fn(); 8] = [
        &|| {
            drop(
                store
                    .edit(
                        &path(4),
                        &[Edit::Tag("late".to_owned()), Edit::Set("note".to_owned(), json!("x"))],
                        None,
                    )
                    .unwrap(),
            )
        },
        &|| store.remove(&path(1)).unwrap(),
        &|| drop(store.move_run(&path(2), "c").unwrap()),
        &|| {
            drop(ActivationSaver::of(store.clone(), "b").unwrap().save(&contents(4), &provenance(4)).unwrap())
        },
        &|| store.rename_experiment("a", "d").unwrap(),
        &|| fs::write(place.base.path().join(path(0)).join("metadata.json"), "{").unwrap(),
        &|| fs::remove_dir_all(place.base.path().join("c")).unwrap(),
        &|| drop(store.edit(&path(2), &[Edit::Tag("late".to_owned())], None).unwrap()),
    ];
    for (number, change) in changes.iter().enumerate() {
        change();
        place.agree();
        // Also once the change is old.
        if number != 5 {
            place.age();
        }
        place.agree();
    }
}

#[test]
fn two_changes_within_one_tick_of_the_clock_are_both_seen() {
    let place = Place::with_runs(3);
    let store = place.store();
    let path = store.scan(None).unwrap().runs[0].path.clone();
    for round in 0..20 {
        store.edit(&path, &[Edit::Set("note".to_owned(), json!(round % 2))], None).unwrap();
        place.agree();
    }
}

#[test]
fn a_record_that_is_known_and_written_again_is_read_again() {
    let place = Place::with_runs(3);
    place.agree();
    place.agree();
    let store = place.store();
    let path = store.scan(None).unwrap().runs[1].path.clone();
    store.edit(&path, &[Edit::Tag("later".to_owned())], None).unwrap();
    place.agree();
    place.age();
    place.agree();
    // By hand, to a text of the same length.
    let file = place.base.path().join(&path).join("metadata.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("later", "sooon")).unwrap();
    place.age();
    let known = ActivationLoader::of(place.store(), "*").indexed_in(place.index.path());
    let tags = |result: &QueryResult| {
        result.runs().iter().flat_map(|run| run.metadata.tags()).collect::<Vec<_>>().join(",")
    };
    let found = tags(&known.query(&Query::default()).unwrap());
    assert!(found.contains("sooon") && !found.contains("later"), "{found}");
}

#[test]
fn a_deleted_or_foreign_database_is_made_again() {
    let place = Place::with_runs(5);
    place.agree();
    for content in [None, Some(&b"not a database"[..]), Some(b"")] {
        match content {
            Some(content) => fs::write(place.database(), content).unwrap(),
            None => fs::remove_file(place.database()).unwrap(),
        }
        place.agree();
    }
    // An unusable folder: the answer is that of a scan.
    let file = place.index.path().join("file");
    fs::write(&file, "").unwrap();
    let found = ActivationLoader::of(place.store(), "*").indexed_in(&file).query(&Query::default()).unwrap();
    assert_eq!(found.len(), 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_garbled_database_changes_no_answer(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), cut in any::<Option<prop::sample::Index>>()) {
        let place = Place::with_runs(4);
        place.agree();
        let mut bytes = fs::read(place.database()).unwrap();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::write(place.database(), bytes).unwrap();
        place.agree();
    }
}
