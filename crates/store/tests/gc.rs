//! Clearing up next to writers: whatever was acknowledged stays, at whichever call the two meet, with and without
//! locks, even if the sweeper dies or the power is cut.

use crate::common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::interleaved::Interleaved;
use common::sim::{Sim, Survival};
use common::{all_whole, contents, provenance};
use easyroutine_store::{
    ActivationSaver, Begun, Contents, Edit, Joining, OpenRun, Plan, Result, Store, Sweep, Swept,
};

fn store(sim: &Sim, has_locks: bool) -> Store {
    Store::on(Arc::new(Interleaved::new(sim.clone()).with_locks(has_locks))).unwrap()
}

fn saver(store: &Store) -> Result<ActivationSaver> {
    Ok(ActivationSaver::of(store.clone(), "e")?.with_shard_bytes(100))
}

fn gc(store: &Store) -> Result<Swept> {
    store.gc(Duration::ZERO, Sweep::Delete)
}

fn begin(store: &Store) -> Result<Begun> {
    saver(store)?.begin(
        "job",
        &Plan { n_examples: 6, unit: 3, spec: Default::default() },
        &provenance(7),
        Joining::Resume,
    )
}

/// Resumes or begins the run of the name, and returns its committed path.
fn resume(store: &Store) -> Result<String> {
    match begin(store)? {
        Begun::Open(run) => finish(&run),
        Begun::Committed(path) => Ok(path),
    }
}

/// The contents of a unit: everything except the tensor without rows.
fn unit() -> Contents<'static> {
    let mut unit = contents(7);
    unit.tensors.retain(|tensor| !tensor.shape.is_empty());
    unit.values.clear();
    unit
}

fn finish(run: &OpenRun) -> Result<String> {
    for number in run.missing()? {
        run.put(number, &unit())?;
    }
    run.commit(|_| {})
}

/// A committed run, an abandoned one, a named one with the first of its two units, and removed data.
fn prepared() -> Sim {
    let sim = Sim::new();
    let store = store(&sim, true);
    saver(&store).unwrap().save(&contents(1), &provenance(1)).unwrap();
    use easyroutine_store::fs::FileSystem;
    sim.create_dir("e/org_tiny/2020-01-01_00-00-00-abcdef").unwrap();
    sim.create_dir("e/org_tiny/2020-01-01_00-00-00-abcdef/data").unwrap();
    let Begun::Open(run) = begin(&store).unwrap() else { panic!("it is new") };
    run.put(0, &unit()).unwrap();
    sim.create_dir(".easyroutine/trash").unwrap();
    sim.create_dir(".easyroutine/trash/left").unwrap();
    sim.after_cut(Survival::All)
}

/// Every run is whole, and these are among them.
fn are_there(sim: &Sim, seeds: &[u64], what: &str) {
    let scan = all_whole_but_streams(sim).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(seeds.iter().all(|seed| scan.contains(seed)), "{what}: {seeds:?} of {scan:?}");
}

/// The same, and each of them once.
fn are_there_once(sim: &Sim, seeds: &[u64], what: &str) {
    are_there(sim, seeds, what);
    let mut scan = all_whole_but_streams(sim).unwrap();
    let n = scan.len();
    scan.sort_unstable();
    scan.dedup();
    assert_eq!(scan.len(), n, "{what}: {scan:?}");
}

/// Seeds of all runs, which are whole.
fn all_whole_but_streams(sim: &Sim) -> Result<Vec<u64>, String> {
    let store = Store::on(Arc::new(sim.clone())).unwrap();
    let scan = store.scan(None).unwrap();
    if let Some(problem) = scan.problems.first() {
        return Err(format!("{}: {}", problem.path, problem.error));
    }
    let mut seeds = Vec::new();
    for found in &scan.runs {
        let run = store.run(&found.path).map_err(|e| e.to_string())?;
        if let Some(damage) = run.verify().map_err(|e| e.to_string())?.first() {
            return Err(format!("{}: {damage}", found.path));
        }
        seeds.push(found.metadata.get("seed").and_then(serde_json::Value::as_u64).unwrap());
    }
    Ok(seeds)
}

/// Number of calls that an action makes on a prepared store.
fn calls(act: impl Fn(&Store) -> bool) -> usize {
    let files = Arc::new(Interleaved::new(prepared()));
    assert!(act(&files.store()));
    files.calls()
}

#[test]
fn what_is_written_while_somebody_clears_up_is_there_or_was_refused() {
    type Write = fn(&Store) -> Result<()>;
    let save: Write = |store| saver(store)?.save(&contents(2), &provenance(2)).map(|_| ());
    let resume_it: Write = |store| resume(store).map(|_| ());
    let edit: Write = |store| {
        let path = store.scan(None)?.runs[0].path.clone();
        store.edit(&path, &[Edit::Set("seed".to_owned(), 9.into())], None).map(|_| ())
    };
    for (name, write, seeds) in
        [("save", save, &[1, 2][..]), ("resume", resume_it, &[1, 7]), ("edit", edit, &[9])]
    {
        let n = calls(|store| write(store).is_ok());
        for (has_locks, call) in
            [true, false].into_iter().flat_map(|locks| (0..n).map(move |call| (locks, call)))
        {
            let sim = prepared();
            let other = store(&sim, has_locks);
            let clear = move || assert!(gc(&other).unwrap().problems.is_empty());
            let files = Arc::new(Interleaved::new(sim.clone()).with_locks(has_locks).before(call, clear));
            let written = Store::on(files).and_then(|store| write(&store));
            let what = format!("{name}, cleared up before call {call}, locks: {has_locks}");
            are_there_once(&sim, if written.is_ok() { seeds } else { &[] }, &what);
            // A writer is noticed and left alone.
            assert!(written.is_ok() || !has_locks, "{what}: {written:?}");
        }
    }
}

/// Saves acknowledged while a sweep ran.
type Acknowledged = Arc<Mutex<Vec<u64>>>;

/// A writer's name, and its action.
type Writer = (&'static str, Box<dyn FnOnce() + Send>);

/// Writers in the middle of a sweep, by processes that began before it or begin during it.
fn writers(sim: &Sim, has_locks: bool, done: &Acknowledged) -> Vec<Writer> {
    let note = |seed| {
        let done = done.clone();
        move |written: Result<String>| written.map(|_| done.lock().unwrap().push(seed))
    };
    let (begun, resumed, saved) = (note(7), note(7), note(2));
    let (store, other, third) = (store(sim, has_locks), store(sim, has_locks), store(sim, has_locks));
    let is_begun = begin(&store);
    vec![
        (
            "goes on with its run",
            Box::new(move || {
                if let Ok(Begun::Open(run)) = is_begun {
                    let finished = begun(finish(&run));
                    assert!(finished.is_ok() || !has_locks, "{finished:?}");
                }
            }),
        ),
        ("resumes it", Box::new(move || drop(resumed(resume(&other))))),
        (
            "saves another",
            Box::new(move || {
                let saved = saved(saver(&third).and_then(|s| s.save(&contents(2), &provenance(2))));
                assert!(saved.is_ok(), "{saved:?}");
            }),
        ),
    ]
}

#[test]
fn what_is_acknowledged_in_the_middle_of_clearing_up_stays_even_if_that_dies() {
    let n = calls(|store| gc(store).unwrap().problems.is_empty());
    assert!(n > 30, "{n} calls");
    for has_locks in [true, false] {
        for writer in 0..3 {
            for call in 0..n {
                // At once, in the next calls, and not at all.
                for dies_at in [call, call + 1, call + 2, call + 4, usize::MAX] {
                    let (sim, done) = (prepared(), Acknowledged::default());
                    let (name, act) = writers(&sim, has_locks, &done).swap_remove(writer);
                    let files = Interleaved::new(sim.clone()).with_locks(has_locks);
                    let files = files.before(call, act).dies_at(dies_at);
                    let _ = Store::on(Arc::new(files)).and_then(|store| gc(&store));
                    let acknowledged = done.lock().unwrap().clone();
                    let acknowledged = [&[1], &acknowledged[..]].concat();
                    let what =
                        format!("somebody {name} before call {call}, locks: {has_locks}, dies at {dies_at}");
                    if dies_at == usize::MAX {
                        are_there_once(&sim, &acknowledged, &what);
                    }
                    for survival in [Survival::All, Survival::Nothing, Survival::Names, Survival::Some(1)] {
                        let disk = sim.after_cut(survival);
                        // The next sweep puts back what was taken by mistake.
                        let again = gc(&store(&disk, has_locks)).unwrap();
                        assert!(again.problems.is_empty(), "{what}, {survival:?}: {:?}", again.problems);
                        // A power cut in the middle of a move may leave a run in both places.
                        are_there(&disk, &acknowledged, &format!("{what}, {survival:?} survives"));
                    }
                }
            }
        }
    }
}

#[test]
fn a_run_that_somebody_writes_is_let_be_and_one_that_nobody_does_is_not() {
    let sim = prepared();
    let store = store(&sim, true);
    let Begun::Open(run) = begin(&store).unwrap() else { panic!("it is open") };
    assert!(!run.is_begun_here());
    let cleared = |swept: Swept| swept.garbage.into_iter().map(|g| g.what).collect::<Vec<_>>();
    assert_eq!(cleared(gc(&store).unwrap()), ["a removed run", "a run that was never committed"]);
    drop(run);
    let left = ["a run that was never committed", "the plan of a run that is no longer written"];
    assert_eq!(cleared(store.gc(Duration::ZERO, Sweep::Look).unwrap()), left);
    assert_eq!(cleared(gc(&store).unwrap()), left);
    let Begun::Open(run) = begin(&store).unwrap() else { panic!("it is open") };
    assert!(run.is_begun_here() && run.missing().unwrap().len() == 2);
    assert!(all_whole(&store).is_ok());
}

#[test]
fn links_are_told_of_and_everything_else_is_cleared_away() {
    let sim = prepared();
    for path in ["f", "e/linked", "e/org_tiny/linked", "e/org_tiny/2020-01-01_00-00-00-abcdef/parts"] {
        sim.link(path);
    }
    for path in [".easyroutine/trash/linked", "e/org_tiny/.tmp-linked"] {
        sim.link(path);
    }
    let swept = gc(&store(&sim, true)).unwrap();
    assert_eq!(swept.problems.len(), 4, "{swept:?}");
    assert!(
        swept.problems.iter().all(|problem| problem.error.to_string().contains("symbolic link")),
        "{swept:?}"
    );
    assert_eq!(swept.garbage.iter().filter(|g| g.what.contains("symbolic link")).count(), 2, "{swept:?}");
    assert_eq!(swept.garbage.len(), 5, "{swept:?}");
}
