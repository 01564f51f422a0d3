//! Reads compare bytes with checksums; records know when they were edited. All the damage that a single bit can do.

use crate::common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{contents, fast_folder, provenance, saver};
use easyroutine_store::{Contents, Edit, ErrorKind, RecordSum, Run, Store, Tensor};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A store with one run, of a tensor of several pieces and some small ones, and the run's path.
fn large() -> (tempfile::TempDir, String, Contents<'static>) {
    let base = fast_folder();
    let numbers: Vec<f32> = (0..200_000u32).map(|i| i as f32 / 3.0).collect();
    let mut contents = contents(1);
    contents.tensors.push(Tensor::f32("resid_out_7", &[400, 500], &numbers).dense());
    let path = saver(&base, "e").save(&contents, &provenance(1)).unwrap();
    (base, path, contents)
}

fn open(base: &Path, path: &str) -> Result<Run, easyroutine_store::Error> {
    Store::open(base)?.run(path)
}

fn shards(base: &Path, path: &str) -> Vec<PathBuf> {
    fs::read_dir(base.join(path).join("data")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn flip(file: &Path, at: usize, bit: u8) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1 << bit;
    fs::write(file, bytes).unwrap();
}

/// Every read of a run gives what was saved, or an error that says what is wrong.
fn reads_right_or_not_at_all(base: &Path, path: &str, saved: &Contents<'_>) -> Result<usize, TestCaseError> {
    let mut errors = 0;
    let run = match open(base, path) {
        Ok(run) => run,
        Err(error) => {
            prop_assert!(
                error.to_string().contains("metadata.json") || error.to_string().contains("manifest"),
                "{error}"
            );
            return Ok(1);
        }
    };
    for tensor in &saved.tensors {
        let row = tensor.bytes.len() / tensor.shape.first().copied().unwrap_or(1);
        match run.read(&tensor.name) {
            Ok(read) => {
                prop_assert_eq!(&read.bytes[..], &tensor.bytes[..]);
                prop_assert_eq!(&read.offsets, &tensor.offsets);
                prop_assert_eq!(&read.shape, &tensor.shape);
            }
            Err(error) => {
                errors += 1;
                let text = error.to_string();
                prop_assert!(text.contains(".safetensors") && text.contains(&tensor.name), "{text}");
            }
        }
        if tensor.name == "resid_out_7" {
            let fresh = open(base, path).unwrap();
            for rows in [0..1, 131..133, 399..400] {
                if let Ok(read) = fresh.read_rows("resid_out_7", rows.clone()) {
                    prop_assert_eq!(&read.bytes[..], &tensor.bytes[rows.start * row..rows.end * row]);
                }
            }
        }
    }
    Ok(errors)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_bit_flips_a_read_gives_the_right_numbers_or_an_error_that_names_file_and_tensor(
        of_shard in any::<bool>(),
        place in 0.0..1.0f64,
        bit in 0u8..8,
    ) {
        let (base, path, saved) = large();
        let files = if of_shard { shards(base.path(), &path) } else { vec![base.path().join(&path).join("metadata.json")] };
        let size = fs::metadata(&files[0]).unwrap().len();
        flip(&files[0], (place * size as f64) as usize, bit);
        reads_right_or_not_at_all(base.path(), &path, &saved)?;
        // What no read sees, a header or a word of the record, a full verification finds.
        let damage = open(base.path(), &path).and_then(|run| run.verify());
        prop_assert!(damage.is_err() || !damage.unwrap().is_empty());
    }
}

#[test]
fn a_damaged_piece_refuses_the_rows_in_it_and_no_others() {
    let (base, path, _) = large();
    let file = &shards(base.path(), &path)[0];
    let part_begins = {
        let run = open(base.path(), &path).unwrap();
        run.manifest().parts("resid_out_7").next().unwrap().1.offset as usize
    };
    // Row 150 of 2000 bytes is in the second piece of 256 KiB.
    flip(file, part_begins + 150 * 2000, 3);
    let run = open(base.path(), &path).unwrap();
    let error = run.read_rows("resid_out_7", 150..151).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains("tensor `resid_out_7` is damaged"), "{error}");
    assert!(run.read("resid_out_7").is_err() && run.read_rows("resid_out_7", 0..400).is_err());
    for fine in [0..131, 263..400, 0..1] {
        run.read_rows("resid_out_7", fine).unwrap();
    }
    assert!(run.read_rows("resid_out_7", 140..141).is_err(), "of the same piece");
    run.read("resid_out_0").unwrap();
    let unverified = open(base.path(), &path).unwrap().unverified();
    assert_eq!(unverified.read("resid_out_7").unwrap().shape, [400, 500]);
}

/// A record as written before parts had pieces and records checksums.
fn of_version_1(record: &mut Value) {
    let store = &mut record["_store"];
    store["version"] = json!(1);
    store.as_object_mut().unwrap().remove("record_xxh3");
    let mut manifest = store["manifest"]["inline"].clone();
    for shard in manifest["shards"].as_array_mut().unwrap() {
        shard.as_object_mut().unwrap().remove("head_xxh3").unwrap();
        for part in shard["tensors"].as_array_mut().unwrap() {
            part.as_object_mut().unwrap().remove("pieces");
        }
    }
    store["manifest"] =
        json!({"inline": manifest, "xxh3": easyroutine_store::checksum(manifest.to_string().as_bytes())});
}

#[test]
fn parts_without_pieces_are_compared_whole() {
    let (base, path, saved) = large();
    let record = base.path().join(&path).join("metadata.json");
    let mut old: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    of_version_1(&mut old);
    fs::write(&record, old.to_string()).unwrap();
    assert_eq!(reads_right_or_not_at_all(base.path(), &path, &saved).unwrap(), 0);
    let run = open(base.path(), &path).unwrap();
    assert_eq!(run.metadata().checksum(), RecordSum::None);
    assert!(run.verify().unwrap().is_empty());
    let file = &shards(base.path(), &path)[0];
    let size = fs::metadata(file).unwrap().len() as usize;
    let begins = run.manifest().parts("resid_out_7").next().unwrap().1.offset as usize;
    // Without a checksum of its own, a header is compared with the whole shard, of the tensors that are asked for.
    run.compare_headers(&["resid_out_7".to_owned()]).unwrap();
    flip(file, 20, 0);
    let error = run.compare_headers(&["resid_out_7".to_owned()]).unwrap_err();
    assert!(error.to_string().contains(".safetensors: it is damaged"), "{error}");
    run.compare_headers(&["elsewhere".to_owned()]).unwrap();
    flip(file, 20, 0);
    flip(file, begins + (size - begins) / 2, 0);
    let run = open(base.path(), &path).unwrap();
    assert!(run.read_rows("resid_out_7", 0..1).is_err(), "what is whole cannot be told from what is not");
}

#[test]
fn stores_of_before_read_as_ever_and_say_that_their_records_have_no_checksum() {
    let store = Store::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/store/v1")).unwrap();
    let runs = store.scan(None).unwrap().runs;
    assert!(!runs.is_empty());
    for found in runs {
        assert_eq!(found.metadata.checksum(), RecordSum::None);
        assert_eq!(found.metadata.warning(), None);
        let run = store.run(&found.path).unwrap();
        assert!(run.verify().unwrap().is_empty());
        run.read_all().unwrap();
    }
}

fn rewrite(record: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    change(&mut value);
    fs::write(record, format!("{value:#}\n")).unwrap();
}

#[test]
fn a_record_that_was_edited_by_hand_is_said_to_be_until_it_is_accepted() {
    let changes: [fn(&mut Value); 4] = [
        |record| record["seed"] = json!(4),
        |record| record["interventions"] = json!([]),
        |record| record["_store"]["record_xxh3"] = json!("0000000000000000"),
        |record| drop(record["_store"].as_object_mut().unwrap().remove("record_xxh3")),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let base = fast_folder();
        let store = saver(&base, "e").store().clone();
        let path = saver(&base, "e").save(&contents(1), &provenance(1)).unwrap();
        let record = base.path().join(&path).join("metadata.json");
        assert_eq!(store.run(&path).unwrap().metadata().checksum(), RecordSum::Right);
        rewrite(&record, change);
        let is_edited = || {
            let run = store.run(&path).unwrap();
            let found = run.verify().unwrap();
            let is_found = found.iter().any(|damage| damage.file == "metadata.json");
            assert_eq!(run.metadata().checksum() == RecordSum::Wrong, is_found, "change {number}");
            assert_eq!(run.metadata().warning().is_some(), is_found);
            run.read("resid_out_0").unwrap();
            is_found
        };
        assert!(is_edited(), "change {number}");
        let listed = store.scan(None).unwrap();
        assert!(listed.problems.is_empty() && listed.runs[0].metadata.warning().is_some());
        store.edit(&path, &[Edit::Tag("later".to_owned())], None).unwrap();
        assert!(is_edited(), "an edit does not vouch for what it did not make");
        store.edit(&path, &[Edit::Accept], None).unwrap();
        assert!(!is_edited());
    }
}

#[test]
fn edits_moves_and_renames_keep_the_checksum_right() {
    let base = fast_folder();
    let store = saver(&base, "e").store().clone();
    let mut path = saver(&base, "e").save(&contents(1), &provenance(1)).unwrap();
    let right = |path: &str| {
        let run = store.run(path).unwrap();
        assert_eq!(run.metadata().checksum(), RecordSum::Right, "{path}");
        assert!(run.verify().unwrap().is_empty());
    };
    let edits = [
        Edit::Tag("a".to_owned()),
        Edit::Set(
            "record_xxh3".to_owned(),
            json!({"record_xxh3": "0123456789abcdef", "é": [1e-7, -0.0, 1e300]}),
        ),
        Edit::Set("note".to_owned(), json!("\"record_xxh3\": \"0123456789abcdef\"")),
        Edit::Untag("tag_1".to_owned()),
        Edit::Unset("note".to_owned()),
    ];
    for edit in edits {
        let edited = store.edit(&path, &[edit], None).unwrap();
        right(&path);
        assert_eq!(store.run(&path).unwrap().metadata(), &edited);
    }
    path = store.move_run(&path, "other").unwrap();
    right(&path);
    store.rename_experiment("other", "third").unwrap();
    right(&path.replacen("other", "third", 1));
}

#[cfg(unix)]
#[test]
fn a_shard_that_is_cut_short_is_an_error_wherever_the_reader_is() {
    for keep in [0, 4096, 300_000] {
        let (base, path, _) = large();
        let file = shards(base.path(), &path).remove(0);
        let cut = || fs::File::options().write(true).open(&file).unwrap().set_len(keep).unwrap();
        let run = open(base.path(), &path).unwrap();
        // Opened and partly read, then cut short.
        run.read_rows("resid_out_7", 0..1).unwrap();
        let held = run.read("resid_out_7").unwrap();
        held.check_unchanged().unwrap();
        cut();
        let error = run.read_rows("resid_out_7", 300..301).unwrap_err().to_string();
        assert!(error.contains(".safetensors"), "{error}");
        let sum: u64 = held.bytes.iter().map(|byte| u64::from(*byte)).sum();
        let error = held.check_unchanged().unwrap_err().to_string();
        assert!(error.contains("cut short") && error.contains(".safetensors"), "{error}, {sum}");
        assert!(open(base.path(), &path).unwrap().read("resid_out_7").is_err());
        assert!(easyroutine_store::export::npy(&held, &mut Vec::new()).is_err());
    }
}
