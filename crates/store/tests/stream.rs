//! Runs written unit by unit: stopped, resumed, shared.

use crate::common;

use std::sync::Arc;
use std::time::Duration;

use common::sim::{Sim, Survival};
use common::{fast_folder, gc, provenance, saver};
use easyroutine_store::{
    ActivationLoader, ActivationSaver, Begun, Contents, ErrorKind, Joining, Kind, OpenRun, Plan, Provenance,
    Query, Result, Store, Sweep, Tensor, Value,
};
use serde_json::{Map, json};

const N: u64 = 7;

fn plan() -> Plan {
    let spec = json!({"model": "org/tiny", "activations": "resid_out_*"}).as_object().unwrap().clone();
    Plan { n_examples: N, unit: 2, spec }
}

/// The rows of a range of examples: example `i` has `i % 3` tokens.
fn unit(examples: std::ops::Range<u64>) -> Contents<'static> {
    let mut offsets = vec![0];
    let (mut ragged, mut dense, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for example in examples.clone() {
        ragged.extend((0..(example % 3) * 2).map(|x| (example * 10 + x) as f32));
        dense.extend([example as f32, 0.5]);
        offsets.push(offsets[offsets.len() - 1] + (example % 3) as i64);
        ids.push(json!([example]));
    }
    let n = (examples.end - examples.start) as usize;
    let rows = *offsets.last().unwrap() as usize;
    let tensors = vec![
        Tensor::f32("resid_out_0", &[rows, 2], &ragged).ragged(Kind::Rows, offsets),
        Tensor::f32("last_layernorm.mean", &[n, 2], &dense).dense(),
    ];
    let values = json!({"token_dict": {"last": ids}, "axis": "tokens"}).as_object().unwrap().clone();
    Contents { tensors, values }
}

fn begin(saver: &ActivationSaver, joining: Joining) -> Result<OpenRun> {
    match saver.begin("job", &plan(), &provenance(1), joining)? {
        Begun::Open(run) => Ok(run),
        Begun::Committed(path) => panic!("committed: {path}"),
    }
}

fn write(run: &OpenRun, units: impl IntoIterator<Item = usize>) {
    units.into_iter().for_each(|u| run.put(u, &unit(run.examples(u))).unwrap());
}

fn digest(store: &Store, path: &str) -> String {
    let run = store.run(path).unwrap();
    assert!(run.verify().unwrap().is_empty());
    assert_eq!(run.metadata().count("n_examples"), Some(N));
    assert_eq!(run.manifest().values["token_dict"]["last"].as_array().unwrap().len(), N as usize);
    let whole = unit(0..N);
    for tensor in &whole.tensors {
        let read = run.read(&tensor.name).unwrap();
        assert_eq!((&read.bytes[..], &read.offsets), (&tensor.bytes[..], &tensor.offsets), "{}", tensor.name);
    }
    run.metadata().digest().to_owned()
}

/// The digest of an undisturbed run.
fn undisturbed() -> String {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let run = begin(&saver, Joining::New).unwrap();
    write(&run, 0..run.n_units());
    digest(saver.store(), &run.commit(|_| {}).unwrap())
}

#[test]
fn a_run_that_was_stopped_anywhere_goes_on_and_ends_the_same() {
    let whole = undisturbed();
    for stop in 0..=4 {
        let base = fast_folder();
        let saver = saver(&base, "e");
        write(&begin(&saver, Joining::New).unwrap(), 0..stop);
        assert!(saver.store().scan(None).unwrap().runs.is_empty(), "an open run was seen");
        assert_eq!(begin(&saver, Joining::New).unwrap_err().kind(), ErrorKind::Exists);
        let run = begin(&saver, Joining::Resume).unwrap();
        assert_eq!(run.missing().unwrap(), (stop..4).collect::<Vec<_>>());
        write(&run, run.missing().unwrap());
        assert_eq!(digest(saver.store(), &run.commit(|_| {}).unwrap()), whole);
    }
}

#[test]
fn a_run_is_listed_while_it_is_unfinished_and_found_by_its_name_then() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let store = saver.store();
    let run = begin(&saver, Joining::New).unwrap();
    write(&run, [0, 2]);
    let (unfinished, problems) = store.unfinished(None).unwrap();
    assert!(problems.is_empty());
    let [found] = &unfinished[..] else { panic!("{unfinished:?}") };
    assert_eq!((found.name.as_str(), found.path.as_str()), ("job", run.path()));
    assert_eq!((found.written, found.units), (2, 4));
    assert!(store.unfinished(Some("other")).unwrap().0.is_empty());
    write(&run, [1, 3]);
    let path = run.commit(|_| {}).unwrap();
    assert!(store.unfinished(None).unwrap().0.is_empty());

    let loader = ActivationLoader::of(store.clone(), "*");
    let found = loader.query(&Query::default()).unwrap();
    assert_eq!(found.path("job").unwrap(), path);
    assert!(found.to_string().contains("  job  e  "), "{found}");
    assert_eq!(found.path("jo").unwrap_err().kind(), ErrorKind::NotFound);
    // Two runs of one name: the choice is not guessed.
    let moved = store.move_run(&path, "f").unwrap();
    let again = begin(&saver, Joining::New).unwrap();
    write(&again, 0..4);
    again.commit(|_| {}).unwrap();
    let found = loader.query(&Query::default()).unwrap();
    assert_eq!(found.path("job").unwrap_err().kind(), ErrorKind::Ambiguous);
    assert_eq!(found.path(moved.as_str()).unwrap(), moved);
}

#[test]
fn another_plan_is_refused_by_what_differs() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    begin(&saver, Joining::New).unwrap();
    let mut other = plan();
    other.spec.insert("activations".to_owned(), json!("logits"));
    for (plan, what) in [
        (other, "`activations` was \"resid_out_*\", now it is \"logits\""),
        (Plan { unit: 3, ..plan() }, "7 examples in units of 2 were planned, now 7 in units of 3"),
    ] {
        let error = saver.begin("job", &plan, &provenance(1), Joining::Resume).unwrap_err();
        assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains(what), "{error}");
    }
    for name in ["", "../x", "a b", ".x", "a/b"] {
        assert_eq!(
            saver.begin(name, &plan(), &provenance(1), Joining::New).unwrap_err().kind(),
            ErrorKind::Input
        );
    }
}

#[test]
fn workers_that_share_a_run_in_any_order_with_retries_end_as_one() {
    let whole = undisturbed();
    let base = fast_folder();
    let saver = saver(&base, "e");
    let workers: Vec<OpenRun> =
        (0..3).map(|i| begin(&saver, Joining::Share).unwrap().as_worker(i.to_string())).collect();
    write(&workers[2], [3, 1]);
    let error = workers[0].commit(|_| {}).unwrap_err();
    assert!(error.to_string().contains("2 of 4 units are not written, the first is 0"), "{error}");
    write(&workers[1], [1, 0, 3]);
    write(&workers[0], [2, 2, 0]);
    let path = workers[1].commit(|_| {}).unwrap();
    assert_eq!(workers[0].commit(|_| {}).unwrap(), path, "the second commit finds the first");
    assert_eq!(digest(saver.store(), &path), whole);
    // A straggler finds it done, and begins nothing.
    assert!(
        matches!(saver.begin("job", &plan(), &provenance(1), Joining::Share).unwrap(), Begun::Committed(p) if p == path)
    );
    assert!(matches!(saver.store().begun("e", "job").unwrap(), Begun::Committed(p) if p == path));
    assert_eq!(gc(saver.store(), Duration::ZERO, Sweep::Look), []);
}

#[test]
fn threads_that_race_make_one_run() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let paths: Vec<String> = std::thread::scope(|scope| {
        let work = || match saver.begin("job", &plan(), &provenance(1), Joining::Share).unwrap() {
            Begun::Open(run) => {
                write(&run, 0..run.n_units());
                run.commit(|_| {}).unwrap()
            }
            Begun::Committed(path) => path,
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(paths.iter().all(|path| *path == paths[0]), "{paths:?}");
    assert_eq!(saver.store().scan(None).unwrap().runs.len(), 1);
    digest(saver.store(), &paths[0]);
}

#[test]
fn tensors_of_the_metadata_and_the_form_of_values_are_kept() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let vector = Value::Tensor(Tensor::f32("v", &[2], &[1.0, 2.0]));
    let provenance = Provenance { interventions: Some(Value::List(vec![vector])), ..provenance(1) };
    let Begun::Open(run) = saver.begin("job", &plan(), &provenance, Joining::New).unwrap() else { panic!() };
    write(&run, 0..run.n_units());
    let only = |values: &mut Map<String, serde_json::Value>| values.retain(|key, _| key == "token_dict");
    let run = saver.store().run(&run.commit(only).unwrap()).unwrap();
    assert_eq!(run.manifest().values.len(), 1);
    assert_eq!(run.read("aux/interventions.0").unwrap().to_f32().unwrap(), [1.0, 2.0]);
}

#[test]
fn tensors_of_the_metadata_that_a_crash_left_out_are_written_by_whoever_joins() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let vector = Value::Tensor(Tensor::f32("v", &[2], &[1.0, 2.0]));
    let provenance = Provenance { interventions: Some(Value::List(vec![vector])), ..provenance(1) };
    let Begun::Open(run) = saver.begin("job", &plan(), &provenance, Joining::New).unwrap() else { panic!() };
    write(&run, 0..run.n_units());
    let receipt = format!("{}/parts/{:05}.json", run.path(), run.n_units());
    std::fs::remove_file(base.path().join(receipt)).unwrap();
    let error = run.commit(|_| {}).unwrap_err();
    assert!(error.to_string().contains("tensors of its metadata"), "{error}");
    let Begun::Open(run) = saver.begin("job", &plan(), &provenance, Joining::Resume).unwrap() else {
        panic!()
    };
    let run = saver.store().run(&run.commit(|_| {}).unwrap()).unwrap();
    assert_eq!(run.read("aux/interventions.0").unwrap().to_f32().unwrap(), [1.0, 2.0]);
}

#[test]
fn a_run_whose_experiment_is_renamed_under_it_does_not_go_on_where_it_was() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let run = begin(&saver, Joining::New).unwrap();
    write(&run, 0..2);
    saver.store().rename_experiment("e", "f").unwrap();
    saver.save(&common::contents(1), &provenance(1)).unwrap();
    let error = run.put(2, &unit(run.examples(2))).unwrap_err();
    assert!(error.hint_text().unwrap_or_default().contains("its experiment renamed"), "{error:?}");
    assert!(run.commit(|_| {}).is_err());
    assert_eq!(saver.store().scan(Some("e")).unwrap().runs.len(), 1);
    let Begun::Open(moved) = saver.store().begun("f", "job").unwrap() else { panic!() };
    write(&moved, moved.missing().unwrap());
    assert_eq!(digest(saver.store(), &moved.commit(|_| {}).unwrap()), undisturbed());
}

#[test]
fn a_torn_or_foreign_unit_is_written_again() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let run = begin(&saver, Joining::New).unwrap();
    write(&run, 0..3);
    let folder = base.path().join(run.path());
    std::fs::write(folder.join("parts/00000.json"), "{\"tensors\": [").unwrap();
    let shards = std::fs::read_dir(folder.join("data")).unwrap().map(|e| e.unwrap().path());
    let second = shards.into_iter().find(|path| path.to_str().unwrap().contains("00001-")).unwrap();
    std::fs::write(second, "cut short").unwrap();
    assert_eq!(run.missing().unwrap(), [0, 1, 3]);
    write(&run, run.missing().unwrap());
    assert_eq!(digest(saver.store(), &run.commit(|_| {}).unwrap()), undisturbed());
    assert_eq!(gc(saver.store(), Duration::ZERO, Sweep::Delete).len(), 2, "the shards that do not count");
}

#[test]
fn a_flip_of_any_byte_of_a_receipt_or_a_plan_is_seen() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let run = begin(&saver, Joining::New).unwrap();
    write(&run, 0..4);
    let flips = |file: &str, seen: &dyn Fn(usize)| {
        let path = base.path().join(file);
        let text = std::fs::read(&path).unwrap();
        for at in 0..text.len() {
            let mut flipped = text.clone();
            flipped[at] ^= 1 << (at % 7);
            std::fs::write(&path, flipped).unwrap();
            seen(at);
            std::fs::write(&path, &text).unwrap();
        }
    };
    // A changed receipt does not count: its unit is written again.
    flips(&format!("{}/parts/00001.json", run.path()), &|at| {
        assert_eq!(run.missing().unwrap(), [1], "byte {at} of the receipt");
    });
    let text = std::fs::read_to_string(base.path().join("e/org_tiny/.open-job.json")).unwrap();
    let key = text.find("plan_xxh3").unwrap();
    flips("e/org_tiny/.open-job.json", &|at| match begin(&saver, Joining::Resume) {
        // Without its key the checksum is not recognised; the rest is unchanged.
        Ok(again) => {
            assert!((key..key + 9).contains(&at) && again.path() == run.path(), "byte {at} of the plan")
        }
        Err(error) => assert_ne!(error.kind(), ErrorKind::Conflict, "byte {at} of the plan: {error}"),
    });
    assert_eq!(digest(saver.store(), &run.commit(|_| {}).unwrap()), undisturbed());
}

#[test]
fn a_power_cut_at_any_call_loses_no_unit_that_was_written() {
    let act = |sim: &Sim, done: &mut usize| -> Result<String> {
        let saver = ActivationSaver::of(Store::on(Arc::new(sim.clone()))?, "e")?;
        let run = match saver.begin("job", &plan(), &provenance(1), Joining::Share)? {
            Begun::Open(run) => run,
            Begun::Committed(path) => return Ok(path),
        };
        for unit_number in run.missing()? {
            run.put(unit_number, &unit(run.examples(unit_number)))?;
            *done += 1;
        }
        run.commit(|_| {})
    };
    let whole = Sim::new();
    act(&whole, &mut 0).unwrap();
    let expected = undisturbed();
    for cut in 0..=whole.calls() {
        let sim = Sim::new().cut_at(cut);
        let mut written = 0;
        let returned = act(&sim, &mut written).is_ok();
        let all_but = (0..sim.unsynced()).map(Survival::AllBut);
        for survival in
            [Survival::Nothing, Survival::All, Survival::Names, Survival::Content].into_iter().chain(all_but)
        {
            let disk = sim.after_cut(survival);
            let runs = Store::on(Arc::new(disk.clone())).unwrap().scan(None).unwrap();
            assert!(runs.problems.is_empty(), "cut {cut}, {survival:?}: {:?}", runs.problems);
            assert!(!returned || runs.runs.len() == 1, "cut {cut}, {survival:?}: a committed run is gone");
            let mut again = 0;
            let path = act(&disk, &mut again).unwrap_or_else(|e| panic!("cut {cut}, {survival:?}: {e}"));
            if runs.runs.is_empty() {
                assert!(
                    again <= 4 - written,
                    "cut {cut}, {survival:?}: {written} units were written, {again} again"
                );
            }
            assert_eq!(
                digest(&Store::on(Arc::new(disk)).unwrap(), &path),
                expected,
                "cut {cut}, {survival:?}"
            );
        }
    }
}
