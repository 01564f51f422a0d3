//! Power cuts: at every call of every operation, with every choice of what survives. Also shows that each sync is
//! needed.

use crate::common;

use std::sync::Arc;
use std::time::Duration;

use common::sim::{Sim, Survival};
use common::{all_whole, contents, provenance};
use easyroutine_store::fs::FileSystem;
use easyroutine_store::{ActivationSaver, Edit, Result, Scan, Store, Sweep};

const SURVIVALS: [Survival; 4] = [Survival::Nothing, Survival::All, Survival::Names, Survival::Content];
const SEEDS: u64 = 4;

/// An operation, and the visible state before and after it.
struct Operation {
    name: &'static str,
    prepare: fn(&Sim),
    act: fn(&Sim) -> Result<()>,
    /// Whether a store shows the state before.
    before: fn(&Sim) -> bool,
    /// Whether it shows the state after.
    after: fn(&Sim) -> bool,
}

fn open(sim: &Sim) -> Result<Store> {
    Store::on(Arc::new(sim.clone()))
}

fn saver(sim: &Sim, experiment: &str) -> Result<ActivationSaver> {
    ActivationSaver::of(open(sim)?, experiment)
}

fn save(sim: &Sim, experiment: &str, seed: u32) -> Result<String> {
    // Small shards, so that a run has several.
    saver(sim, experiment)?.with_shard_bytes(100).save(&contents(seed), &provenance(seed))
}

/// `experiment:seed` and tags of every run.
fn seen(sim: &Sim) -> Vec<String> {
    let scan = open(sim).unwrap().scan(None).unwrap();
    let mut seen: Vec<String> = scan
        .runs
        .iter()
        .map(|run| {
            let experiment = run.path.split('/').next().unwrap();
            format!("{experiment}:{} {}", run.metadata.get("seed").unwrap(), run.metadata.tags().join(","))
        })
        .collect();
    seen.sort();
    seen
}

fn path_of(sim: &Sim, experiment: &str) -> String {
    open(sim).unwrap().scan(Some(experiment)).unwrap().runs[0].path.clone()
}

const OPERATIONS: &[Operation] = &[
    Operation {
        name: "make a store",
        prepare: |_| {},
        act: |sim| saver(sim, "first").map(|_| ()),
        before: |_| true,
        after: |sim| sim.entry(".easyroutine/store.json").is_ok(),
    },
    Operation {
        name: "save into a new experiment",
        prepare: |sim| {
            save(sim, "old", 1).unwrap();
        },
        act: |sim| save(sim, "new", 2).map(|_| ()),
        before: |sim| seen(sim) == ["old:1 tag_1"],
        after: |sim| seen(sim) == ["new:2 tag_2", "old:1 tag_1"],
    },
    Operation {
        name: "save a run with a long manifest",
        prepare: |sim| {
            save(sim, "old", 1).unwrap();
        },
        act: |sim| {
            let mut long = contents(2);
            long.values.insert("long".to_owned(), "x".repeat(80_000).into());
            saver(sim, "new")?.save(&long, &provenance(2)).map(|_| ())
        },
        before: |sim| seen(sim) == ["old:1 tag_1"],
        after: |sim| seen(sim) == ["new:2 tag_2", "old:1 tag_1"],
    },
    Operation {
        name: "tag",
        prepare: |sim| {
            save(sim, "old", 1).unwrap();
        },
        act: |sim| open(sim)?.edit(&path_of(sim, "old"), &[Edit::Tag("late".to_owned())], None).map(|_| ()),
        before: |sim| seen(sim) == ["old:1 tag_1"],
        after: |sim| seen(sim) == ["old:1 tag_1,late"],
    },
    Operation {
        name: "move",
        prepare: |sim| {
            save(sim, "old", 1).unwrap();
        },
        act: |sim| open(sim)?.move_run(&path_of(sim, "old"), "other").map(|_| ()),
        // Without a journal, a cut in the middle may leave the run in both places.
        before: |sim| seen(sim) == ["old:1 tag_1"] || seen(sim) == ["old:1 tag_1", "other:1 tag_1"],
        after: |sim| seen(sim) == ["other:1 tag_1"],
    },
    Operation {
        name: "rename an experiment",
        prepare: |sim| {
            save(sim, "old", 1).unwrap();
        },
        act: |sim| open(sim)?.rename_experiment("old", "other"),
        before: |sim| seen(sim) == ["old:1 tag_1"] || seen(sim) == ["old:1 tag_1", "other:1 tag_1"],
        after: |sim| seen(sim) == ["other:1 tag_1"],
    },
    Operation {
        name: "remove",
        prepare: |sim| {
            save(sim, "old", 1).unwrap();
        },
        act: |sim| open(sim)?.remove(&path_of(sim, "old")),
        before: |sim| seen(sim) == ["old:1 tag_1"],
        after: |sim| seen(sim).is_empty(),
    },
];

/// What is wrong with a disk after a power cut, if anything.
fn wrong(disk: &Sim, operation: &Operation, returned: bool) -> Option<String> {
    let store = match open(disk) {
        Ok(store) => store,
        Err(error) => return Some(format!("the store does not open: {error}")),
    };
    let whole = match all_whole(&store) {
        Ok(whole) => whole,
        Err(what) => return Some(what),
    };
    // Checked before anything else is done to the disk.
    let fits = (operation.after)(disk) || (!returned && (operation.before)(disk));
    if !fits {
        return Some(format!("seen: {:?}", seen(disk)));
    }
    let paths = |scan: Scan| scan.runs.into_iter().map(|run| run.path).collect::<Vec<_>>();
    match store.gc(Duration::ZERO, Sweep::Delete) {
        Ok(swept) if swept.problems.is_empty() => {}
        other => return Some(format!("gc: {other:?}")),
    }
    if all_whole(&store).map(paths) != Ok(paths(whole)) {
        return Some("gc touched a run".to_owned());
    }
    if let Err(error) = save(disk, "afterwards", 9) {
        return Some(format!("saving does not go on: {error}"));
    }
    None
}

fn survivals(sim: &Sim) -> impl Iterator<Item = Survival> {
    let all_but = (0..sim.unsynced()).map(Survival::AllBut);
    SURVIVALS.into_iter().chain(all_but).chain((0..SEEDS).map(Survival::Some))
}

/// The first violation over all crash points of an operation, optionally with one sync skipped.
fn violation(operation: &Operation, pretended: Option<usize>) -> Option<String> {
    let disk = Sim::new();
    (operation.prepare)(&disk);
    // What existed before is safe.
    let disk = disk.after_cut(Survival::All);
    let prepared = |cut: usize| {
        let copy = disk.copy().cut_at(cut);
        match pretended {
            Some(sync) => copy.pretend_sync(sync),
            None => copy,
        }
    };
    let whole = prepared(usize::MAX);
    (operation.act)(&whole).unwrap();
    // What a missing sync breaks shows late.
    for cut in (0..=whole.calls()).rev() {
        let sim = prepared(cut);
        let returned = (operation.act)(&sim).is_ok();
        for survival in survivals(&sim) {
            if let Some(what) = wrong(&sim.after_cut(survival), operation, returned) {
                return Some(format!("{}, cut at call {cut}, {survival:?} survives: {what}", operation.name));
            }
        }
    }
    None
}

#[test]
fn a_power_cut_at_any_call_leaves_a_run_whole_or_unseen() {
    for operation in OPERATIONS {
        assert_eq!(violation(operation, None), None);
    }
}

#[test]
fn every_single_sync_is_needed() {
    for operation in OPERATIONS {
        let disk = Sim::new();
        (operation.prepare)(&disk);
        let whole = disk.after_cut(Survival::All);
        (operation.act)(&whole).unwrap();
        assert!(whole.syncs() > 0, "{} syncs nothing", operation.name);
        for sync in 0..whole.syncs() {
            let found = violation(operation, Some(sync));
            assert!(
                found.is_some(),
                "{}: sync {sync} of {} can be left out unnoticed",
                operation.name,
                whole.syncs()
            );
        }
    }
}

#[test]
fn a_failing_call_leaves_nothing_half_visible() {
    for operation in OPERATIONS {
        let disk = Sim::new();
        (operation.prepare)(&disk);
        let whole = disk.copy();
        (operation.act)(&whole).unwrap();
        for call in 0..whole.calls() {
            let sim = disk.copy().fail_at(call);
            // Cleaning up after success may fail silently; the result stands.
            let returned = (operation.act)(&sim).is_ok();
            if let Some(what) = wrong(&sim, operation, returned) {
                panic!("{}, call {call} fails: {what}", operation.name);
            }
        }
    }
}
