use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use easyroutine_files::OpenFile;
use serde_json::{Value, json};

use super::{Identity, cache, canonical, file_digest};
use crate::load::{LoadOptions, open};
use crate::source::{ResolveOptions, resolve};

/// A copy of a tiny model whose files may be changed.
fn copy(change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tiny/llama3")).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    change(folder.path());
    folder
}

fn digest_under(folder: &Path, allowed: &[&str]) -> String {
    let files = resolve(folder.to_str().unwrap(), &ResolveOptions::default()).unwrap();
    let allowed: Vec<String> = allowed.iter().map(|key| (*key).to_owned()).collect();
    open(&files, &LoadOptions { allowed_keys: allowed, ..LoadOptions::default() })
        .unwrap()
        .identity
        .digest_in(None)
        .unwrap()
        .to_owned()
}

fn digest(change: impl FnOnce(&Path)) -> String {
    digest_under(copy(change).path(), &[])
}

fn flip(path: &Path, at: usize, bit: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= bit;
    fs::write(path, bytes).unwrap();
}

fn edit_config(folder: &Path, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(config.as_object_mut().unwrap());
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn a_copy_of_a_model_has_its_digest_however_its_config_is_spelt() {
    let plain = digest(|_| ());
    assert_eq!(plain.len(), "blake3:".len() + 64);
    let spelt = digest(|folder| {
        edit_config(folder, |config| {
            config.insert("_name_or_path".to_owned(), json!("elsewhere"));
            config.insert("transformers_version".to_owned(), json!("9.9"));
            let mut entries: Vec<_> = std::mem::take(config).into_iter().collect();
            entries.reverse();
            config.extend(entries);
        });
    });
    assert_eq!(plain, spelt);
}

#[test]
fn whatever_changes_a_number_or_an_id_changes_the_digest() {
    let plain = digest(|_| ());
    let weights = "model.safetensors";
    let size = |folder: &Path| fs::metadata(folder.join(weights)).unwrap().len() as usize;
    let others = [
        digest(|folder| flip(&folder.join(weights), size(folder) - 1, 1)),
        digest(|folder| flip(&folder.join(weights), size(folder) / 2, 1)),
        digest(|folder| {
            edit_config(folder, |config| drop(config.insert("rms_norm_eps".to_owned(), json!(0.5))))
        }),
        digest(|folder| fs::write(folder.join("added_tokens.json"), "{}").unwrap()),
        digest(|folder| fs::write(folder.join("chat_template.jinja"), "{{ 1 }}").unwrap()),
        digest_under(
            copy(|folder| edit_config(folder, |config| drop(config.insert("novel".to_owned(), json!(1)))))
                .path(),
            &["novel"],
        ),
    ];
    for (number, other) in others.iter().enumerate() {
        assert_ne!(*other, plain, "change {number}");
        assert!(!others[..number].contains(other), "change {number}");
    }
    let drawing = digest(|folder| fs::write(folder.join("generation_config.json"), "{}").unwrap());
    assert_eq!(drawing, plain, "defaults of drawing change no number");
}

#[test]
fn json_is_one_text_whatever_its_spelling() {
    let one: Value =
        serde_json::from_str(r#"{"b": [1.0, 1e-5, "é\u0041"], "a": {"y": null, "x": 2}}"#).unwrap();
    let other: Value = serde_json::from_str(r#"{"a":{"x":2.0,"y":null},"b":[1,0.00001,"éA"]}"#).unwrap();
    assert_eq!(canonical(&one), canonical(&other));
    assert_ne!(canonical(&json!([1, 2])), canonical(&json!([12])));
    assert_ne!(canonical(&json!(["1"])), canonical(&json!([1])));
}

#[test]
fn a_choice_of_loading_and_a_further_file_are_part_of_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("one"), "1").unwrap();
    let file = || std::sync::Arc::new(OpenFile::open(folder.path().join("one")).unwrap());
    let digest = |identity: &Identity| identity.digest_in(None).unwrap().to_owned();
    let mut identity = Identity::default();
    let mut seen = vec![digest(&identity)];
    identity.add_file("weights", file());
    seen.push(digest(&identity));
    identity.add_file("adapter_model.safetensors", file());
    seen.push(digest(&identity));
    identity.add("adapters", json!(["adapter_model.safetensors"]));
    seen.push(digest(&identity));
    identity.add("adapters", json!([]));
    seen.push(digest(&identity));
    for (number, digest) in seen.iter().enumerate() {
        assert!(!seen[..number].contains(digest));
    }
}

/// A file old enough for its times to be trusted.
fn settled() -> (tempfile::TempDir, OpenFile) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("weights"), "a model").unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    let file = OpenFile::open(folder.path().join("weights")).unwrap();
    (folder, file)
}

#[cfg(unix)]
#[test]
fn a_known_digest_is_used_while_the_file_is_the_same_and_a_corrupt_one_is_computed_again() {
    let (folder, file) = settled();
    let known = folder.path().join("digests");
    let right = blake3::hash(b"a model").to_hex().to_string();
    assert_eq!(file_digest(&file, Some(&known)).unwrap(), right);
    let entry = fs::read_dir(&known).unwrap().next().unwrap().unwrap().path();
    let kept = fs::read(&entry).unwrap();
    // A stored digest is used: another one with a correct checksum is believed.
    let identity = file.identity().unwrap();
    cache::keep(&known, &identity, &"0".repeat(64));
    assert_eq!(file_digest(&file, Some(&known)).unwrap(), "0".repeat(64));
    for at in 0..kept.len() {
        for bit in [1, 4, 128] {
            let mut bytes = kept.clone();
            bytes[at] ^= bit;
            fs::write(&entry, bytes).unwrap();
            assert_eq!(file_digest(&file, Some(&known)).unwrap(), right, "byte {at}, bit {bit}");
        }
    }
    for corrupt in ["", "{}", "[]", "null"] {
        fs::write(&entry, corrupt).unwrap();
        assert_eq!(file_digest(&file, Some(&known)).unwrap(), right);
    }
    // The same length and modification time, as a careless tool leaves them: the file system's change time differs.
    let before: SystemTime = fs::metadata(file.path()).unwrap().modified().unwrap();
    fs::write(file.path(), "b model").unwrap();
    fs::File::options().write(true).open(file.path()).unwrap().set_modified(before).unwrap();
    let changed = OpenFile::open(file.path()).unwrap();
    assert_eq!(file_digest(&changed, Some(&known)).unwrap(), blake3::hash(b"b model").to_hex().to_string());
}

#[cfg(unix)]
#[test]
fn a_file_that_was_just_written_is_not_remembered() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("weights"), "a model").unwrap();
    let known = folder.path().join("digests");
    file_digest(&OpenFile::open(folder.path().join("weights")).unwrap(), Some(&known)).unwrap();
    assert!(!known.exists(), "a second change within one tick of the clock would not show");
}

#[test]
fn a_file_that_is_written_to_after_it_was_opened_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("weights"), "a model").unwrap();
    let file = OpenFile::open(folder.path().join("weights")).unwrap();
    fs::write(folder.path().join("weights"), "a longer model").unwrap();
    let error = file_digest(&file, None).unwrap_err().to_string();
    assert!(error.contains("weights") && error.contains("written to after it was opened"), "{error}");
}
