//! Stores on object storage give the guarantees of stores in folders. In memory, or in the bucket that
//! `EASYROUTINE_TEST_BUCKET` names.
#![cfg(feature = "cloud")]

use crate::common;

use std::time::Duration;

use common::{all_whole, contents, gc, provenance};
use easyroutine_store::{
    ActivationLoader, ActivationSaver, Begun, Contents, Edit, ErrorKind, Joining, Plan, Query, Store, Sweep,
    Tensor,
};
use serde_json::json;

fn store() -> Store {
    match std::env::var("EASYROUTINE_TEST_BUCKET") {
        Ok(bucket) => Store::create(format!("{bucket}/{}", uuid::Uuid::new_v4().simple())).unwrap(),
        Err(_) => Store::in_memory().unwrap(),
    }
}

fn saver(store: &Store, experiment: &str) -> ActivationSaver {
    ActivationSaver::of(store.clone(), experiment).unwrap()
}

#[test]
fn runs_are_saved_found_read_verified_and_removed() {
    let store = store();
    let saver = saver(&store, "an experiment (50%)").with_shard_bytes(40);
    let paths: Vec<String> =
        (0..20).map(|seed| saver.save(&contents(seed), &provenance(seed)).unwrap()).collect();
    assert_eq!(all_whole(&store).unwrap().runs.len(), 20);
    let mut found = ActivationLoader::from_saver(&saver).query(&Query::default()).unwrap();
    // In the order of the claims, as everywhere.
    assert_eq!(found.get_paths(), paths);
    let tagged = Query { tags: vec!["tag_7".to_owned()], ..Query::default() };
    assert_eq!(ActivationLoader::from_saver(&saver).query(&tagged).unwrap().get_paths(), [&paths[7]]);
    let run = found.load(7).unwrap();
    assert_eq!(run.read_rows("mlp_out_0", 1..3).unwrap().offsets, [0, 0, 4]);
    found.remove(7).unwrap();
    assert_eq!(store.run(&paths[7]).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(all_whole(&store).unwrap().runs.len(), 19);
    assert!(gc(&store, Duration::ZERO, Sweep::Look).is_empty());
    // Without a folder there is no index; the answer is the same.
    let indexed = ActivationLoader::from_saver(&saver).indexed().query(&Query::default()).unwrap();
    assert_eq!(indexed.len(), 19);
}

#[test]
fn many_threads_save_and_change_at_once_and_nothing_is_lost() {
    let store = store();
    let shared = saver(&store, "e").save(&contents(0), &provenance(0)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let (store, shared) = (&store, &shared);
            scope.spawn(move || {
                for number in 0..5 {
                    saver(store, "e").save(&contents(thread), &provenance(thread)).unwrap();
                    store.edit(shared, &[Edit::Tag(format!("{thread}-{number}"))], None).unwrap();
                    all_whole(store).unwrap();
                }
            });
        }
    });
    let scan = all_whole(&store).unwrap();
    assert_eq!(scan.runs.len(), 21);
    // The tag given on saving counts too.
    let metadata = store.run(&shared).unwrap().metadata().clone();
    assert_eq!((metadata.tags().len(), metadata.revision()), (21, 21));
    let stale = store.edit(&shared, &[Edit::Tag("late".to_owned())], Some(1)).unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Conflict);
}

#[test]
fn runs_and_experiments_move_whole() {
    let store = store();
    let path = saver(&store, "first").save(&contents(1), &provenance(1)).unwrap();
    saver(&store, "first").save(&contents(2), &provenance(2)).unwrap();
    let moved = store.move_run(&path, "second").unwrap();
    assert_eq!(store.run(&path).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.run(&moved).unwrap().metadata().get("experiment_name"), Some(&json!("second")));
    store.rename_experiment("first", "third").unwrap();
    assert_eq!(store.experiments().unwrap(), ["second", "third"]);
    assert_eq!(store.rename_experiment("second", "third").unwrap_err().kind(), ErrorKind::Exists);
    assert_eq!(all_whole(&store).unwrap().runs.len(), 2);
}

#[test]
fn a_run_in_parts_goes_on_is_shared_and_is_committed_once() {
    let store = store();
    let plan = Plan { n_examples: 12, unit: 2, spec: json!({"model": "tiny"}).as_object().unwrap().clone() };
    let unit = |n: usize| Contents {
        tensors: vec![Tensor::f32("resid_out_0", &[2, 1, 2], &[n as f32; 4]).dense()],
        ..Contents::default()
    };
    let begin = |joining| saver(&store, "e").begin("job", &plan, &provenance(1), joining);
    let Begun::Open(run) = begin(Joining::New).unwrap() else { panic!("it is new") };
    run.put(3, &unit(3)).unwrap();
    assert_eq!(run.commit(|_| {}).unwrap_err().kind(), ErrorKind::Conflict);
    assert!(store.scan(None).unwrap().runs.is_empty());
    assert_eq!(begin(Joining::New).unwrap_err().kind(), ErrorKind::Exists);
    // What is being written is not garbage; what is idle is.
    assert!(gc(&store, Duration::from_secs(3600), Sweep::Look).is_empty());
    assert!(!gc(&store, Duration::ZERO, Sweep::Look).is_empty());
    let committed: Vec<String> = std::thread::scope(|scope| {
        let work = || match begin(Joining::Share).unwrap() {
            Begun::Committed(path) => path,
            Begun::Open(run) => {
                run.missing().unwrap().into_iter().for_each(|n| run.put(n, &unit(n)).unwrap());
                run.commit(|_| {}).unwrap()
            }
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(committed.iter().all(|path| *path == committed[0]));
    let run = store.run(&committed[0]).unwrap();
    assert!(run.verify().unwrap().is_empty());
    let expected: Vec<f32> = (0..6).flat_map(|n| [n as f32; 4]).collect();
    assert_eq!(run.read("resid_out_0").unwrap().to_f32(), Some(expected));
    assert!(matches!(begin(Joining::Resume).unwrap(), Begun::Committed(path) if path == committed[0]));
    // Only shards that were written twice are left over.
    let swept = gc(&store, Duration::ZERO, Sweep::Delete);
    assert!(swept.iter().all(|garbage| garbage.what == "a shard that no manifest names"), "{swept:?}");
    assert!(run.verify().unwrap().is_empty());
}

#[test]
fn a_store_that_no_url_can_name_is_refused() {
    for (url, what) in [
        ("s3://", "names no bucket"),
        ("gs:///prefix", "names no bucket"),
        ("s3://bucket/a//b", "is empty or begins with a dot"),
        ("az://container/../other", "is empty or begins with a dot"),
        ("ftp://server/store", "this is not an address of object storage"),
    ] {
        for error in [Store::open(url).unwrap_err(), ActivationSaver::new(url, "e").unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Input, "{url}");
            assert!(error.to_string().contains(url) && error.to_string().contains(what), "{error}");
            assert!(error.hint_text().unwrap().contains("s3://BUCKET/PREFIX"));
        }
    }
}

#[test]
fn whoever_clears_up_beside_writers_takes_nothing_that_was_acknowledged() {
    let store = store();
    let done = std::sync::atomic::AtomicBool::new(false);
    let saved: Vec<String> = std::thread::scope(|scope| {
        let sweeper = scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                store.gc(Duration::ZERO, Sweep::Delete).unwrap();
            }
        });
        let writers: Vec<_> = (0..4u32)
            .map(|thread| {
                let store = &store;
                // Nothing can be held there, so a disturbed writer gets an error.
                let save = move |_| saver(store, "e").save(&contents(thread), &provenance(thread)).ok();
                scope.spawn(move || (0..10).filter_map(save).collect::<Vec<_>>())
            })
            .collect();
        let saved = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        sweeper.join().unwrap();
        saved
    });
    let scan = all_whole(&store).unwrap();
    let lost: Vec<&String> =
        saved.iter().filter(|path| !scan.runs.iter().any(|run| run.path == **path)).collect();
    assert!(lost.is_empty(), "{} of {} are lost", lost.len(), saved.len());
}
