//! Processes killed at any moment, and processes that race.
//!
//! This file's own binary is started again with a task in a variable, which the test `task` then runs.
#![cfg(unix)]

use crate::common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{all_whole, contents, fast_folder, gc, provenance};
use easyroutine_store::{ActivationSaver, Begun, Durability, Edit, ErrorKind, Joining, Plan, Store, Sweep};
use tempfile::TempDir;

const TASK: &str = "EASYROUTINE_TEST_TASK";
const READY: &str = "at the task";
const BASE: &str = "EASYROUTINE_TEST_BASE";

/// Number of kills per task; `make torture` sets more.
fn kills() -> u32 {
    std::env::var("EASYROUTINE_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

/// A process that ends with the test, even a failing one.
struct Task(Child);

impl Drop for Task {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts this binary again for a task.
fn start(task: &str, base: &Path) -> Task {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command
        .args(["kills::task", "--exact", "--nocapture", "--test-threads=1"])
        .env(TASK, task)
        .env(BASE, base);
    Task(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
}

/// Waits until a process has begun its task.
fn is_ready(task: &mut Task) {
    let lines = BufReader::new(task.0.stdout.as_mut().unwrap()).lines();
    assert!(
        lines.map_while(Result::ok).any(|line| line.contains(READY)),
        "the process ended before its task"
    );
}

/// What a started process does.
#[test]
fn task() {
    let (Ok(task), Ok(base)) = (std::env::var(TASK), std::env::var(BASE)) else { return };
    let saver = |experiment: &str| {
        let saver = ActivationSaver::new(&base, experiment).unwrap().with_durability(Durability::Fast);
        saver.with_shard_bytes(100)
    };
    let store = Store::open(&base).unwrap();
    let first =
        |experiment: &str| store.scan(Some(experiment)).unwrap().runs.first().map(|run| run.path.clone());
    println!("{READY}");
    match task.split_once(' ').unwrap_or((&task, "")) {
        ("save", _) => loop {
            saver("e").save(&contents(1), &provenance(1)).unwrap();
        },
        ("count", n) => {
            let own = std::process::id();
            for _ in 0..n.parse().unwrap() {
                saver("e").save(&contents(own), &provenance(own)).unwrap();
            }
        }
        ("tag", _) => loop {
            let path = first("e").unwrap();
            store.edit(&path, &[Edit::Tag("x".to_owned())], None).unwrap();
            store.edit(&path, &[Edit::Untag("x".to_owned())], None).unwrap();
        },
        // Two such processes get in each other's way: the later one gets an error.
        ("rename", _) => loop {
            let _ = store.rename_experiment("e", "f");
            let _ = store.rename_experiment("f", "e");
        },
        ("move", _) => loop {
            for (from, to) in [("e", "f"), ("f", "e")] {
                if let Some(path) = first(from) {
                    let _ = store.move_run(&path, to);
                }
            }
        },
        // As the two above, but never back: a reader who finds a path twice finds the same run.
        ("away", _) => {
            for n in 0.. {
                if let Some(path) = first("e") {
                    let _ = store.move_run(&path, &format!("moved{}-{n}", std::process::id()));
                }
                let _ = store.rename_experiment("e", &format!("renamed{}-{n}", std::process::id()));
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        ("remove", _) => loop {
            saver("e").save(&contents(2), &provenance(2)).unwrap();
            if let Some(path) = store.scan(Some("e")).unwrap().runs.last().map(|run| run.path.clone()) {
                store.remove(&path).unwrap();
            }
        },
        ("gc", _) => loop {
            saver("e").save(&contents(3), &provenance(3)).unwrap();
            // A run that is never resumed.
            let plan = Plan { n_examples: 3, unit: 3, spec: serde_json::Map::new() };
            let Begun::Open(run) = saver("e").begin("job", &plan, &provenance(4), Joining::Resume).unwrap()
            else {
                panic!("nobody commits it")
            };
            run.put(0, &contents(4)).unwrap();
            drop(run);
            gc(&store, Duration::ZERO, Sweep::Delete);
        },
        ("sweep", _) => loop {
            assert!(store.gc(Duration::ZERO, Sweep::Delete).unwrap().problems.is_empty());
        },
        // Prints each run's path once it is acknowledged.
        ("acknowledged", n) => {
            let own = std::process::id();
            for number in 0..n.parse::<u32>().unwrap() {
                println!("saved {}", saver("e").save(&contents(own), &provenance(own)).unwrap());
                println!("saved {}", resumed(&saver("e"), &format!("{own}-{number}"), 2));
            }
        }
        ("resume", units) => println!("saved {}", resumed(&saver("e"), "job", units.parse().unwrap())),
        ("stream", _) => loop {
            let plan = Plan { n_examples: 1, unit: 1, spec: serde_json::Map::new() };
            let path = match saver("e").begin("job", &plan, &provenance(4), Joining::Share).unwrap() {
                Begun::Open(run) => {
                    run.put(0, &contents(4)).unwrap();
                    run.commit(|_| {}).unwrap()
                }
                Begun::Committed(path) => path,
            };
            store.remove(&path).unwrap();
        },
        (other, _) => panic!("no task {other}"),
    }
}

/// Resumes or begins a run of a name, as `extract --resume` does.
fn resumed(saver: &ActivationSaver, name: &str, units: u64) -> String {
    let plan = Plan { n_examples: 3 * units, unit: 3, spec: serde_json::Map::new() };
    let mut unit = contents(4);
    unit.tensors.retain(|tensor| !tensor.shape.is_empty());
    unit.values.clear();
    match saver.begin(name, &plan, &provenance(4), Joining::Resume).unwrap() {
        Begun::Open(run) => {
            run.missing().unwrap().into_iter().for_each(|number| run.put(number, &unit).unwrap());
            assert!(run.missing().unwrap().is_empty());
            run.commit(|_| {}).unwrap()
        }
        Begun::Committed(path) => path,
    }
}

/// The output of a process about its runs, once it has ended well.
fn said(mut task: Task) -> Vec<String> {
    let lines = BufReader::new(task.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let paths = lines.filter_map(|line| line.split_once("saved ").map(|(_, path)| path.to_owned())).collect();
    assert!(task.0.wait().unwrap().success(), "a process failed");
    paths
}

/// Every run opens and verifies.
fn all_verify(store: &Store) -> BTreeSet<String> {
    let scan = store.scan(None).unwrap();
    assert!(scan.problems.is_empty(), "{:?}", scan.problems);
    let paths = scan.runs.into_iter().map(|run| run.path);
    paths.inspect(|path| assert_eq!(store.run(path).unwrap().verify().unwrap(), [])).collect()
}

fn base_with_runs(n: u32) -> TempDir {
    let base = fast_folder();
    let saver = ActivationSaver::new(base.path(), "e").unwrap().with_durability(Durability::Fast);
    for seed in 0..n {
        saver.save(&contents(seed), &provenance(seed)).unwrap();
    }
    base
}

/// Kills a process in the middle of its task, again and again; every visible run is whole each time, and earlier ones
/// stay.
fn survives(task: &str) {
    let base = base_with_runs(3);
    let store = Store::open(base.path()).unwrap();
    let before = run_ids(&store);
    for round in 0..kills() {
        let mut child = start(task, base.path());
        is_ready(&mut child);
        // A loop takes a fraction of a millisecond; the moment within it varies.
        std::thread::sleep(Duration::from_micros(u64::from(round * 7919 % 2500)));
        drop(child);
        let scan = all_whole(&store).unwrap_or_else(|what| panic!("{task}, kill {round}: {what}"));
        let kept: BTreeSet<String> = scan.runs.iter().map(|run| run.metadata.run_id().to_owned()).collect();
        assert!(kept.is_superset(&before), "{task}, kill {round}: a run is lost");
        if scan.runs.len() > 60 {
            scan.runs[3..].iter().for_each(|run| store.remove(&run.path).unwrap());
        }
    }
    gc(&store, Duration::ZERO, Sweep::Delete);
    assert!(gc(&store, Duration::ZERO, Sweep::Look).is_empty());
    assert!(run_ids(&store).is_superset(&before));
    all_whole(&store).unwrap();
}

fn run_ids(store: &Store) -> BTreeSet<String> {
    store.scan(None).unwrap().runs.into_iter().map(|run| run.metadata.run_id().to_owned()).collect()
}

#[test]
fn a_killed_save_is_never_half_seen() {
    survives("save");
}

#[test]
fn a_killed_edit_is_never_half_seen() {
    survives("tag");
}

#[test]
fn a_killed_move_is_never_half_seen() {
    survives("move");
}

#[test]
fn a_killed_rename_is_never_half_seen() {
    survives("rename");
}

#[test]
fn a_killed_removal_is_never_half_seen() {
    survives("remove");
}

#[test]
fn a_killed_commit_is_never_half_seen() {
    survives("stream");
}

#[test]
fn a_killed_gc_touches_no_run() {
    survives("gc");
}

#[test]
fn whoever_clears_up_beside_four_writers_takes_nothing_that_was_acknowledged_and_disturbs_none() {
    let base = base_with_runs(1);
    let sweepers: Vec<Task> = (0..2).map(|_| start("sweep", base.path())).collect();
    let writers: Vec<Task> = (0..4).map(|_| start("acknowledged 40", base.path())).collect();
    let saved: Vec<String> = writers.into_iter().flat_map(said).collect();
    for mut sweeper in sweepers {
        assert!(sweeper.0.try_wait().unwrap().is_none(), "who clears up failed");
    }
    let store = Store::open(base.path()).unwrap();
    let there = all_verify(&store);
    let lost: Vec<&String> = saved.iter().filter(|path| !there.contains(*path)).collect();
    assert!(lost.is_empty(), "{} of {} are lost", lost.len(), saved.len());
    assert_eq!((saved.len(), there.len()), (320, 321));
}

#[test]
fn eight_processes_that_resume_one_run_all_end_well() {
    for round in 0..kills().div_ceil(10) {
        let base = base_with_runs(0);
        let saver = ActivationSaver::new(base.path(), "e").unwrap();
        // Half of it was written before.
        let plan = Plan { n_examples: 24, unit: 3, spec: serde_json::Map::new() };
        let Begun::Open(run) = saver.begin("job", &plan, &provenance(4), Joining::New).unwrap() else {
            panic!()
        };
        let mut unit = contents(4);
        unit.tensors.retain(|tensor| !tensor.shape.is_empty());
        unit.values.clear();
        (0..round as usize % 8).for_each(|number| run.put(number, &unit).unwrap());
        let children: Vec<Task> = (0..8).map(|_| start("resume 8", base.path())).collect();
        let paths: BTreeSet<String> = children.into_iter().flat_map(said).collect();
        assert_eq!(paths.len(), 1);
        assert_eq!(all_verify(saver.store()), paths);
    }
}

#[test]
fn eight_processes_save_200_runs_each_and_overwrite_none() {
    let base = fast_folder();
    ActivationSaver::new(base.path(), "e").unwrap();
    let children: Vec<Task> = (0..8).map(|_| start("count 200", base.path())).collect();
    for mut child in children {
        assert!(child.0.wait().unwrap().success());
    }
    let scan = all_whole(&Store::open(base.path()).unwrap()).unwrap();
    assert_eq!(scan.runs.len(), 1600);
    let ids: BTreeSet<&str> = scan.runs.iter().map(|run| run.metadata.run_id()).collect();
    assert_eq!(ids.len(), 1600);
}

#[test]
fn readers_never_see_a_torn_state_while_others_write_rename_and_remove() {
    let base = base_with_runs(3);
    let store = Store::open(base.path()).unwrap();
    let mut children: Vec<Task> =
        ["save", "remove", "away", "away"].iter().map(|task| start(task, base.path())).collect();
    children.iter_mut().for_each(is_ready);
    let (begin, mut looks) = (Instant::now(), 0);
    // On a busy machine a few polls take longer.
    while begin.elapsed() < Duration::from_millis(1500)
        || (looks <= 10 && begin.elapsed() < Duration::from_secs(60))
    {
        // An experiment or run may disappear between the listing and the read; it is never torn.
        let Ok(scan) = store.scan(None) else { continue };
        for problem in &scan.problems {
            assert_eq!(problem.error.kind(), ErrorKind::NotFound, "{}: {}", problem.path, problem.error);
        }
        for found in scan.runs.iter().rev().take(20) {
            match store.run(&found.path).and_then(|run| run.verify().map(|damage| (run, damage))) {
                Ok((run, damage)) => {
                    let gone = store.run(run.path()).is_err();
                    assert!(damage.is_empty() || gone, "{}: {}", run.path(), damage[0]);
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
            }
        }
        looks += 1;
    }
    // A task whose store changes under it may have ended with an error of its own.
    drop(children);
    assert!(looks > 10, "only {looks} looks");
    all_whole(&store).unwrap();
}
