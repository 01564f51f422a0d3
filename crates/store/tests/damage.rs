//! Files damaged anywhere, cut short or missing: detected, named, and harmless to the rest.

use crate::common;

use std::fs;
use std::path::PathBuf;

use common::{contents, fast_folder, provenance, saver};
use easyroutine_store::{Contents, Damage, Manifest, Metadata, Result, Store};
use proptest::prelude::*;
use tempfile::TempDir;

/// A store of one run, the run's path, and the file of its shard.
fn saved(contents: &Contents<'_>) -> (TempDir, Store, String, PathBuf) {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let path = saver.save(contents, &provenance(1)).unwrap();
    let shard = fs::read_dir(base.path().join(&path).join("data")).unwrap().next().unwrap().unwrap().path();
    let store = saver.store().clone();
    (base, store, path, shard)
}

fn damage(store: &Store, path: &str) -> Result<Vec<Damage>> {
    store.run(path)?.verify()
}

#[test]
fn a_flip_of_any_byte_of_a_shard_is_found_and_located() {
    let (_base, store, path, shard) = saved(&contents(1));
    let whole = fs::read(&shard).unwrap();
    let run = store.run(&path).unwrap();
    let parts = run.manifest().shards[0].tensors.clone();
    store.run(&path).unwrap().compare_headers(&[]).unwrap();
    let head = parts.iter().map(|part| part.offset).min().unwrap() as usize;
    let bits = |at: usize| if at < head { 0..8 } else { at % 8..at % 8 + 1 };
    for (at, bit) in (0..whole.len()).flat_map(|at| bits(at).map(move |bit| (at, bit))) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << bit;
        fs::write(&shard, &bytes).unwrap();
        let found = damage(&store, &path).unwrap();
        assert_eq!(found.len(), 1, "byte {at}: {found:?}");
        let hit = parts.iter().find(|part| (part.offset..part.offset + part.len).contains(&(at as u64)));
        assert_eq!(found[0].tensor.as_deref(), hit.map(|part| part.name.as_str()), "byte {at}");
        let run = store.run(&path).unwrap();
        // What is exported is every byte of it: the header, or the tensor.
        let header = run.compare_headers(&[]);
        match hit {
            None => assert!(header.unwrap_err().to_string().contains("its header is damaged"), "byte {at}"),
            Some(part) => {
                header.unwrap();
                let name = part.name.strip_suffix(".offsets").unwrap_or(&part.name);
                assert!(run.read(name).unwrap_err().to_string().contains("is damaged"), "byte {at}");
            }
        }
        // The others still load.
        for tensor in contents(1).tensors {
            let own = |name: &str| name.strip_suffix(".offsets").unwrap_or(name) == tensor.name;
            if !hit.is_some_and(|part| own(&part.name)) {
                assert_eq!(run.read(&tensor.name).unwrap().bytes[..], tensor.bytes[..]);
            }
        }
    }
}

#[test]
fn a_shard_that_is_cut_short_or_gone_is_named() {
    let (_base, store, path, shard) = saved(&contents(1));
    let whole = fs::read(&shard).unwrap();
    for length in (0..whole.len()).step_by(7) {
        fs::write(&shard, &whole[..length]).unwrap();
        let found = damage(&store, &path).unwrap();
        assert!(
            found[0].file.starts_with("data/00000-") && found[0].what.contains("bytes long"),
            "{found:?}"
        );
        assert!(store.run(&path).unwrap().read("resid_out_0").is_err(), "cut to {length}");
    }
    fs::remove_file(&shard).unwrap();
    assert_eq!(damage(&store, &path).unwrap().len(), 1);
}

#[test]
fn a_flip_of_any_byte_of_a_record_is_refused_or_harms_no_tensor() {
    let (base, store, path, _shard) = saved(&contents(1));
    let file = base.path().join(&path).join("metadata.json");
    let whole = fs::read(&file).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 7);
        fs::write(&file, &bytes).unwrap();
        // Either the record is refused, or everything it says of the tensors is unchanged.
        let scan = store.scan(None).unwrap();
        assert_eq!(scan.runs.len() + scan.problems.len(), 1, "byte {at}: the run vanished");
        let Ok(run) = store.run(&path) else { continue };
        for tensor in contents(1).tensors {
            assert_eq!(run.read(&tensor.name).unwrap().bytes[..], tensor.bytes[..], "byte {at}");
        }
    }
}

#[test]
fn a_flip_of_any_byte_of_a_manifest_file_is_refused() {
    let mut long = contents(1);
    long.values.insert("long".to_owned(), "x".repeat(70_000).into());
    let (base, store, path, _shard) = saved(&long);
    let file = base.path().join(&path).join("manifest.json");
    let whole = fs::read(&file).unwrap();
    for at in (0..whole.len()).step_by(97) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&file, &bytes).unwrap();
        assert!(store.run(&path).is_err(), "byte {at}");
    }
    fs::remove_file(&file).unwrap();
    assert!(store.run(&path).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any change to a manifest's text is refused, or leaves a manifest that stays inside its own files.
    #[test]
    fn a_garbled_manifest_never_panics(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let (base, store, path, _shard) = saved(&contents(1));
        let run = store.run(&path).unwrap();
        let mut text = serde_json::to_vec(run.manifest()).unwrap();
        for (at, byte) in flips {
            let at = at.index(text.len());
            text[at] = byte;
        }
        if let Ok(manifest) = Manifest::parse(&text) {
            let _ = manifest.digest();
            for entry in &manifest.tensors {
                let _ = manifest.shape(entry);
            }
        }
        let _ = Metadata::parse(&text);
        drop(base);
    }
}
