//! Runs to save, and stores to save them in.
#![allow(dead_code, reason = "some of it is used with a feature alone")]

pub(crate) mod interleaved;
pub(crate) mod sim;

use std::path::PathBuf;
use std::time::Duration;

use easyroutine_store::{
    ActivationSaver, Contents, Garbage, Kind, Model, Provenance, Scan, Store, Sweep, Tensor,
};
use serde_json::json;

/// A folder that is deleted with the test; in memory if possible, since killing and racing processes does not need a
/// disk.
pub(crate) fn fast_folder() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// A run of a few kinds of tensors, different for each seed.
pub(crate) fn contents(seed: u32) -> Contents<'static> {
    let numbers = |n: usize| (0..n).map(|i| (i as f32) + seed as f32 / 7.0).collect::<Vec<f32>>();
    let values = json!({"mapping_index": {"last": [0]}, "seed": seed}).as_object().unwrap().clone();
    let tensors = vec![
        Tensor::f32("resid_out_0", &[3, 2, 4], &numbers(24)).dense(),
        Tensor::f32("resid_out_1", &[3, 2, 4], &numbers(24)).dense(),
        Tensor::f32("mlp_out_0", &[5, 4], &numbers(20)).ragged(Kind::Rows, vec![0, 1, 1, 5]),
        Tensor::f32("note", &[], &numbers(1)),
    ];
    Contents { tensors, values }
}

pub(crate) fn provenance(seed: u32) -> Provenance<'static> {
    Provenance {
        model: Model { name: "org/tiny".to_owned(), ..Model::default() },
        target_token_positions: json!(["last", [2, 5], -3]),
        extraction_config: json!({"extract_resid_out": true, "extract_mlp_out": true, "save_logits": false}),
        other_metadata: vec![("seed".to_owned(), json!(seed).into())],
        tags: vec![format!("tag_{seed}")],
        ..Provenance::default()
    }
}

pub(crate) fn saver(base: &tempfile::TempDir, experiment: &str) -> ActivationSaver {
    ActivationSaver::new(base.path(), experiment).unwrap()
}

/// Clears away garbage; expects no problems.
#[track_caller]
pub(crate) fn gc(store: &Store, idle: Duration, sweep: Sweep) -> Vec<Garbage> {
    let swept = store.gc(idle, sweep).unwrap();
    assert!(swept.problems.is_empty(), "{:?}", swept.problems);
    swept.garbage
}

/// Every visible run is whole: it opens, verifies, and holds what was saved with its seed.
pub(crate) fn all_whole(store: &Store) -> Result<Scan, String> {
    let scan = store.scan(None).map_err(|e| e.to_string())?;
    if let Some(problem) = scan.problems.first() {
        return Err(format!("{}: {}", problem.path, problem.error));
    }
    for found in &scan.runs {
        let run = store.run(&found.path).map_err(|e| e.to_string())?;
        let damage = run.verify().map_err(|e| e.to_string())?;
        if let Some(damage) = damage.first() {
            return Err(format!("{}: {damage}", found.path));
        }
        let seed = found.metadata.get("seed").and_then(serde_json::Value::as_u64).ok_or("no seed")?;
        for tensor in contents(seed as u32).tensors {
            let read = run.read(&tensor.name).map_err(|e| e.to_string())?;
            if read.bytes[..] != tensor.bytes[..]
                || read.shape != tensor.shape
                || read.offsets != tensor.offsets
            {
                return Err(format!("{}: {} is not what was saved", found.path, tensor.name));
            }
        }
    }
    Ok(scan)
}
